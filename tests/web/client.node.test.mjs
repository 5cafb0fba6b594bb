// src/web/client.js in Node, on the sockets of the package `ws`.

import { test } from "node:test";
import WebSocket from "ws";

import { offline, online } from "./client.cases.mjs";
import { credentials } from "./credentials.cases.mjs";
import { controlled } from "./server.mjs";

for (const [name, run] of Object.entries({ ...offline, ...credentials })) test(name, run);

for (const [name, run] of Object.entries(online)) {
  test(name, async (t) => {
    const server = controlled();
    t.after(server.end);
    await run({ server: server.control, WebSocket });
  });
}
