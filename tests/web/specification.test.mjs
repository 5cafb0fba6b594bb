// The client class of the specification, unmodified, works with the server.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { after, before, test } from "node:test";
import WebSocket from "ws";

import { Log, equal, failure } from "./check.mjs";
import { Server } from "./server.mjs";

const SOURCE = fileURLToPath(new URL("specification-client.ts", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "switchboard-specification-"));
let WSClient;

before(async () => {
  const tsc = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc");
  const options = ["--strict", "--target", "es2022", "--lib", "es2022,dom", "--module", "nodenext", "--types", ""];
  execFileSync(process.execPath, [tsc, ...options, "--outDir", folder, SOURCE]);
  writeFileSync(join(folder, "package.json"), '{"type":"module"}');
  globalThis.WebSocket = WebSocket;
  ({ WSClient } = await import(pathToFileURL(join(folder, "specification-client.js"))));
});

after(() => rmSync(folder, { recursive: true }));

test("the client of the specification works, also after a restart", async (t) => {
  // It logs each attempt to the console.
  t.mock.method(console, "log", () => {});
  t.mock.method(console, "error", () => {});
  const server = await Server.start();
  t.after(() => server.remove());
  const client = new WSClient({ url: server.url, reconnectInterval: 50, maxReconnectAttempts: 20 });
  t.after(() => client.disconnect());
  const log = new Log();
  for (const channel of ["server:connected", "chat:created", "connection:failed"]) {
    client.onMessage(channel, (payload) => log.add(channel, payload));
  }
  equal([client.isConnected, client.connectionState], [false, "closed"]);
  await client.connect();
  const [, greeting] = await log.until(([channel]) => channel === "server:connected");
  equal([typeof greeting.clientId, typeof greeting.serverTime], ["string", "number"]);
  equal([client.isConnected, client.connectionState], [true, "open"]);

  const chat = await client.sendMessage("chat:create", { title: "Groceries" });
  equal((await log.until(([channel]) => channel === "chat:created"))[1], chat);
  equal(await client.sendMessage("chat:list"), [chat]);
  equal(await client.sendMessage("settings:set", { key: "theme", value: "dark" }), undefined);
  equal(await failure(client.sendMessage("chat:list", { limit: 0 })), [
    "Error",
    "limit: expected integer 1..=500, got 0",
  ]);
  equal(await failure(client.sendMessage("no:such")), ["Error", "No handler for: no:such"]);

  await server.pause();
  const lost = failure(client.sendMessage("chat:list"));
  await server.kill();
  equal(await lost, ["Error", "Connection closed"]);
  equal(client.isConnected, false);
  await server.restart();
  const [, again] = await log.until(([channel]) => channel === "server:connected");
  equal([client.isConnected, again.clientId === greeting.clientId], [true, false]);
  equal(await client.sendMessage("chat:list"), [chat]);

  // Its listeners are kept; a removed one is not called.
  client.offMessage("chat:created");
  await client.sendMessage("chat:create", {});
  equal(log.take(), []);
  client.disconnect();
  equal([client.isConnected, client.connectionState], [false, "closed"]);
});
