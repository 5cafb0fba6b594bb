// A process has nothing left to wait for once its client has disconnected, also if the server no longer answers. In the
// versions of Node that npm has installed, with their own WebSocket and with the package `ws`.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

import { equal, within } from "./check.mjs";
import { node } from "./runtimes.mjs";
import { Server } from "./server.mjs";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
// Node 18 needs the extension to see that it is a module.
const folder = mkdtempSync(join(tmpdir(), "switchboard-exit-"));
after(() => rmSync(folder, { recursive: true }));
copyFileSync(here("../../src/web/client.js"), join(folder, "client.mjs"));

/** What a child process does. It prints the lines for which the test waits, and what keeps it alive at the end. */
async function child(state, url, module, ws) {
  const { WSClient } = await import(module);
  const WebSocket = ws ? (await import(ws)).default : undefined;
  const next = () => new Promise((resolve) => process.stdin.once("data", resolve));
  const held = () => process.getActiveResourcesInfo().filter((name) => !/^(Pipe|TTY|FSReq|Immediate)/.test(name));
  const client = new WSClient({ url, WebSocket, requestTimeout: 0 });
  const failure = (promise) => promise.then(() => "no failure", (error) => error.message);
  let lost = state === "connecting" ? failure(client.connect()) : await client.connect();
  console.log("ready");
  // Meanwhile the server is frozen.
  await next();
  process.stdin.pause();
  process.stdin.unref?.();
  lost ??= failure(client.sendMessage("x"));
  client.disconnect();
  const why = await lost;
  for (let turn = 0; turn < 1000 && held().length > 0; turn++) await new Promise(setImmediate);
  console.log(JSON.stringify([why, held()]));
}

/** Runs a child process. Returns why its call failed, and what keeps it alive after `disconnect`. */
async function run(program, state, url, ws, freeze) {
  const args = [state, url, join(folder, "client.mjs"), ws && here("node_modules/ws/wrapper.mjs")];
  const call = `(${child})(...${JSON.stringify(args)})`;
  const process = spawn(program, ["--input-type=module", "-e", call], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface(process.stdout)[Symbol.asyncIterator]();
  const exit = once(process, "exit");
  try {
    equal((await within(lines.next(), "the client")).value, "ready");
    await freeze();
    process.stdin.write("go\n");
    const { value } = await within(lines.next(), "the end of the client");
    await within(exit, "the exit of the process");
    return JSON.parse(value);
  } finally {
    process.kill("SIGKILL");
  }
}

/** A server that accepts connections and says nothing. */
async function silent(t) {
  const server = createServer(() => {}).listen(0, "127.0.0.1");
  await once(server, "listening");
  const sockets = new Set();
  server.on("connection", (socket) => sockets.add(socket.on("error", () => {})));
  t.after(() => (server.close(), sockets.forEach((socket) => socket.destroy())));
  return `ws://127.0.0.1:${server.address().port}`;
}

const runtimes = [
  ["this Node, with ws", process.execPath, true],
  ["Node 18, with ws", node("18"), true],
  ["Node 22", node("22"), false],
  ["Node 22, with ws", node("22"), true],
  ["Node 24", node("24"), false],
];
for (const [name, program, ws] of runtimes) {
  const skip = !program && "skipped: this version of Node is not installed";
  test(`${name}: disconnecting from a frozen server`, { skip }, async (t) => {
    const server = await Server.start();
    t.after(() => server.remove());
    equal(await run(program, "open", server.url, ws, () => server.pause()), ["disconnected", []]);
  });
  test(`${name}: disconnecting before the server answers`, { skip }, async (t) => {
    equal(await run(program, "connecting", await silent(t), ws, async () => {}), ["disconnected", []]);
  });
}
