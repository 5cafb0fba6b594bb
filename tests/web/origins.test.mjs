// The files of the client, imported by pages of other origins in Chromium: those that may connect, and one that may not.

import { after, test } from "node:test";

import { Browser } from "./browser.mjs";
import { equal } from "./check.mjs";
import { Server } from "./server.mjs";

const browser = await Browser.start({ args: ["--host-resolver-rules=MAP *.example 127.0.0.1"] });
after(() => browser.close());
const server = await Server.start({ args: ["--allow-origin", browser.origin("app.example")] });
after(() => server.remove());

/** Imports the client from the server, and makes a call. Returns what happened. */
async function connect(url) {
  const from = url.replace("ws:", "http:");
  const status = (path, headers) => fetch(from + path, { headers }).then(({ status }) => status, () => "withheld");
  const files = [await status("/client.d.ts"), await status("/react.d.ts"), await status("/healthz")];
  // The browser asks first.
  files.push(await status("/client.js", { authorization: "Bearer x" }));
  const module = await import(`${from}/client.js`).catch(() => null);
  if (!module) return [files, "no module"];
  const hooks = await import(`${from}/react.js`).catch(() => ({}));
  const client = new module.WSClient({ url });
  await client.connect();
  const { timestamp } = await client.sendMessage("system:ping");
  client.disconnect();
  return [files, typeof timestamp, typeof hooks.useWebSocket];
}

for (const [host, expected] of [
  ["app.example", [[200, 200, "withheld", 200], "number", "function"]],
  ["localhost", [[200, 200, "withheld", 200], "number", "function"]],
  ["127.0.0.1", [[200, 200, "withheld", 200], "number", "function"]],
  ["evil.example", [["withheld", "withheld", "withheld", "withheld"], "no module"]],
]) {
  test(`a page of ${host}`, async () => {
    const page = await browser.open({ host });
    equal(await page.evaluate(connect, server.url), expected);
    await page.close();
  });
}
