// A credential that expires while calls are in flight, renewed on `auth:expiring`: no call fails for it. In Node with the
// package `ws` and with its own WebSocket, in Chromium, and in Firefox. `CREDENTIAL_SECONDS` makes all of them run at the same
// time for so long, `CREDENTIAL_LIFE` is for how many milliseconds a token lives. `EXPIRING_TOKENS_BIN` is the path of the example
// server; the stand-in for it is another implementation.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";

import { Browser } from "./browser.mjs";
import { equal, within } from "./check.mjs";
import { traffic } from "./expiring.cases.mjs";
import { Firefox, hasFirefox } from "./firefox.mjs";
import { node } from "./runtimes.mjs";
import { standIn } from "./stand_in.mjs";

const LIFE = Number(process.env.CREDENTIAL_LIFE ?? 2000);
const SECONDS = Number(process.env.CREDENTIAL_SECONDS ?? 0);
const options = { seconds: SECONDS, renewals: 3 };
const PROGRAM = process.env.EXPIRING_TOKENS_BIN;
const MODULE = "/tests/web/expiring.cases.mjs";

/** Starts the example `expiring_tokens`. */
async function example() {
  const child = spawn(PROGRAM, ["0", String(LIFE)], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = await within(once(createInterface(child.stdout), "line"), "the example's first line");
  return { url: /ws:\S+/.exec(line)[0], close: () => child.kill() };
}

const servers = { "the example server": example, "the stand-in": () => standIn(LIFE) };
if (!PROGRAM) delete servers["the example server"];
// A long run is one of our own server.
else if (SECONDS > 0) delete servers["the stand-in"];

/** Checks what a run has seen. */
function check(runtime, seen) {
  equal([seen.failures, seen.events, seen.opened], [[], [], 1]);
  // One for the connection, and one after each warning.
  equal([seen.tokens - seen.warnings, seen.warnings >= options.renewals], [1, true], JSON.stringify(seen));
  console.log(`${runtime}: ${seen.calls} calls, ${seen.warnings} renewals, ${seen.failures.length} failures`);
}

for (const [name, start] of Object.entries(servers)) {
  describe(`traffic with tokens of ${name}`, { concurrency: SECONDS > 0 }, () => {
    let server;
    before(async () => (server = await start()));
    after(() => server.close());

    test("Node with ws", async () => check("Node with ws", await traffic(server.url, options, WebSocket)));

    for (const version of ["22", "24"]) {
      test(`Node ${version}`, { skip: !node(version) && `skipped: Node ${version} is not installed` }, async () => {
        const module = fileURLToPath(new URL("expiring.cases.mjs", import.meta.url));
        const run = `console.log(JSON.stringify(await (await import("${module}")).traffic("${server.url}", ${JSON.stringify(options)})))`;
        const child = spawn(node(version), ["--input-type=module", "-e", run], { stdio: ["ignore", "pipe", "inherit"] });
        const [line] = await once(createInterface(child.stdout), "line");
        check(`Node ${version}`, JSON.parse(line));
      });
    }

    test("Chromium", async () => {
      const browser = await Browser.start();
      const page = await browser.open();
      const run = async ([module, ...rest]) => (await import(module)).traffic(...rest);
      check("Chromium", await page.evaluate(run, [MODULE, server.url, options]).finally(() => browser.close()));
    });

    test("Firefox", { skip: !hasFirefox() && "skipped: Firefox is not installed" }, async () => {
      const pages = await Browser.start();
      const firefox = await Firefox.open(pages.origin());
      try {
        const run = async (module, ...rest) => (await import(module)).traffic(...rest);
        check("Firefox", await firefox.evaluate(run, MODULE, server.url, options));
      } finally {
        await firefox.close();
        await pages.close();
      }
    });
  });
}
