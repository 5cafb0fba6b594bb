// src/web/react.js in Chromium, with the oldest supported React and the current one.

import { after, test } from "node:test";

import { Browser } from "./browser.mjs";
import { controlled } from "./server.mjs";

const MODULE = "/tests/web/react.cases.mjs";
const browser = await Browser.start();
after(() => browser.close());

// Node cannot import the cases: src/web has no node_modules above it.
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
