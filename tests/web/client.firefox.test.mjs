// src/web/client.js in Firefox: what client.node.test.mjs checks in Node with simulated sockets and time.

import { after, before, test } from "node:test";

import { Browser } from "./browser.mjs";
import { offline } from "./client.cases.mjs";
import { credentials } from "./credentials.cases.mjs";
import { Firefox, hasFirefox } from "./firefox.mjs";

const skip = !hasFirefox() && "skipped: Firefox is not installed";
let pages;
let firefox;
before(async () => {
  if (skip) return;
  pages = await Browser.start();
  firefox = await Firefox.open(pages.origin());
});
after(async () => {
  await firefox?.close();
  await pages?.close();
});

const run = async (module, list, name) => {
  await (await import(module))[list][name]();
};
for (const [module, list, cases] of [
  ["/tests/web/client.cases.mjs", "offline", offline],
  ["/tests/web/credentials.cases.mjs", "credentials", credentials],
]) {
  for (const name of Object.keys(cases)) test(name, { skip }, () => firefox.evaluate(run, module, list, name));
}
