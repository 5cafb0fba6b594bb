// src/web/react.js in Chromium, with the oldest React that it takes and with the current one.

import { after, test } from "node:test";

import { Browser } from "./browser.mjs";
import { controlled } from "./server.mjs";

const MODULE = "/tests/web/react.cases.mjs";
const browser = await Browser.start();
after(() => browser.close());

// Node cannot import them: src/web is nowhere near node_modules.
const page = await browser.open();
const names = await page.evaluate(async (module) => Object.keys((await import(module)).cases), MODULE);

for (const react of ["18", "19"]) {
  for (const name of names) {
    test(`React ${react}: ${name}`, async (t) => {
      const server = controlled();
      t.after(server.end);
      await browser.run(MODULE, "cases", name, { server: server.control, react: () => react }, { react });
    });
  }
}
