// src/web/client.js in Chromium: what client.node.test.mjs checks in Node.

import { after, before, test } from "node:test";

import { Browser } from "./browser.mjs";
import { offline, online } from "./client.cases.mjs";
import { controlled } from "./server.mjs";

const MODULE = "/tests/web/client.cases.mjs";
let browser;
before(async () => (browser = await Browser.start()));
after(() => browser.close());

for (const name of Object.keys(offline)) test(name, () => browser.run(MODULE, "offline", name, {}));

for (const name of Object.keys(online)) {
  test(name, async (t) => {
    const server = controlled();
    t.after(server.end);
    await browser.run(MODULE, "online", name, { server: server.control });
  });
}
