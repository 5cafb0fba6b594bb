// src/web/client.js in Chromium: what client.node.test.mjs checks in Node.

import assert from "node:assert";
import { after, before, test } from "node:test";

import { Browser, runOn } from "./browser.mjs";
import { within } from "./check.mjs";
import { offline, online } from "./client.cases.mjs";
import { credentials } from "./credentials.cases.mjs";
import { controlled } from "./server.mjs";

const MODULE = "/tests/web/client.cases.mjs";
let browser;
let offlinePage;
before(async () => {
  browser = await Browser.start();
  offlinePage = await browser.open();
});
after(() => browser.close());

for (const name of Object.keys(offline)) test(name, () => runOn(offlinePage, MODULE, "offline", name));

for (const name of Object.keys(credentials)) {
  test(name, () => runOn(offlinePage, "/tests/web/credentials.cases.mjs", "credentials", name));
}

for (const name of Object.keys(online)) {
  test(name, async (t) => {
    const server = controlled();
    t.after(server.end);
    await browser.run(MODULE, "online", name, { server: server.control });
  });
}

test("a browser that comes back online reconnects immediately", async (t) => {
  const server = controlled();
  t.after(server.end);
  const page = await browser.open();
  t.after(() => page.close());
  const url = await server.control("start");
  await page.evaluate(async (url) => {
    const { WSClient } = await import("/src/web/client.js");
    const client = (globalThis.client = new WSClient({ url, reconnectInterval: 30_000 }));
    await client.connect();
    globalThis.lost = new Promise((resolve) => client.once("connection:reconnecting", resolve));
    globalThis.back = new Promise((resolve) => client.once("connection:open", resolve));
  }, url);
  await server.control("kill");
  const { delayMs } = await within(page.evaluate("lost"), "the loss");
  const lost = performance.now();
  await server.control("restart");
  await page.context().setOffline(true);
  await page.context().setOffline(false);
  await within(page.evaluate("back"), "the connection");
  assert.ok(performance.now() - lost < delayMs, "the client waited for its next attempt");
});
