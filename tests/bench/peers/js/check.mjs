// Checks that a server does the work that is measured: `node check.mjs [--json-rpc] COMMAND...` starts the command with port
// 0, and ends it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { WebSocket } from "ws";

const DEADLINE_MS = 30_000;
const jsonRpc = process.argv[2] === "--json-rpc";
const [command, ...rest] = process.argv.slice(jsonRpc ? 3 : 2);

class Client {
  static all = [];
  messages = [];
  waiting = [];

  static async connect(port) {
    const client = new Client();
    Client.all.push(client);
    client.ws = new WebSocket(`ws://127.0.0.1:${port}/ws`, { perMessageDeflate: false, maxPayload: 32 << 20 });
    client.ws.on("message", (data, isBinary) => {
      assert.equal(isBinary, false);
      const message = JSON.parse(data);
      const waiting = client.waiting.shift();
      if (waiting) waiting(message);
      else client.messages.push(message);
    });
    await once(client.ws, "open");
    return client;
  }

  next() {
    return this.messages.shift() ?? new Promise((resolve) => this.waiting.push(resolve));
  }

  request(id, channel, payload) {
    this.ws.send(JSON.stringify({ type: "request", id, channel, payload, timestamp: Date.now() }));
  }

  call(id, method, ...params) {
    this.ws.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
  }
}

const response = (id, channel, payload) => ({ type: "response", id, channel, payload });

// The exact members in order, with any time.
function same(message, expected) {
  const { timestamp, ...rest } = message;
  assert.ok(Math.abs(timestamp - Date.now()) < 60_000, `timestamp ${timestamp}`);
  assert.equal(JSON.stringify(message), JSON.stringify({ ...rest, timestamp }), "timestamp comes last");
  assert.equal(JSON.stringify(rest), JSON.stringify(expected));
}

const tests = {
  async "a client is welcomed"(port) {
    const client = await Client.connect(port);
    const { type, channel, payload } = await client.next();
    assert.deepEqual([type, channel], ["event", "server:connected"]);
    assert.match(payload.clientId, /^[0-9a-f-]{36}$/);
    client.ws.close();
    const [code] = await once(client.ws, "close");
    assert.notEqual(code, 1006, "a close frame is answered");
  },

  async "echo answers any payload as it is"(port) {
    const client = await Client.connect(port);
    await client.next();
    const payloads = [null, 0, "x".repeat(64), "x".repeat(16 << 10), { a: [1, 2.5, "ü€😀\n", {}] }, false, "y".repeat(15 << 20)];
    for (const [n, payload] of payloads.entries()) {
      client.request(`ü"${n}`, "echo", payload);
      same(await client.next(), response(`ü"${n}`, "echo", payload));
    }
    client.ws.send(JSON.stringify({ type: "request", id: "none", channel: "echo" }));
    same(await client.next(), { type: "response", id: "none", channel: "echo" });
    client.ws.send(Buffer.from('{"type":"request","id":"b","channel":"echo","payload":1}'), { binary: true });
    same(await client.next(), response("b", "echo", 1));
  },

  async "sixteen pipelined requests are answered"(port) {
    const client = await Client.connect(port);
    await client.next();
    client.ws._socket.cork();
    for (let n = 0; n < 16; n++) client.request(`${n}`, "echo", { n });
    client.ws._socket.uncork();
    for (let n = 0; n < 16; n++) same(await client.next(), response(`${n}`, "echo", { n }));
  },

  async "a message in fragments is one"(port) {
    const client = await Client.connect(port);
    await client.next();
    const text = JSON.stringify({ type: "request", id: "f", channel: "echo", payload: "ü".repeat(999) });
    for (let at = 0; at < text.length; at += 100) {
      client.ws.send(text.slice(at, at + 100), { fin: at + 100 >= text.length });
    }
    same(await client.next(), response("f", "echo", "ü".repeat(999)));
  },

  async "a ping is answered while requests wait"(port) {
    const client = await Client.connect(port);
    await client.next();
    client.request("w", "wait", 1);
    client.ws.ping("hello");
    const [pong] = await once(client.ws, "pong");
    assert.equal(String(pong), "hello");
    same(await client.next(), response("w", "wait", 1));
  },

  async "256 requests wait at the same time"(port) {
    const client = await Client.connect(port);
    await client.next();
    const answers = new Set();
    for (let n = 0; n < 256; n++) client.request(`${n}`, "wait", n);
    // In sequence they would take 2.56 s, and this one would be answered after most of them.
    client.request("last", "echo", 0);
    for (let n = 0; n < 257; n++) {
      const { id, channel, payload } = await client.next();
      if (id === "last") assert.ok(answers.size < 256, "echo waited for those that wait");
      else assert.deepEqual([channel, payload], ["wait", Number(id)]);
      answers.add(id);
    }
    assert.equal(answers.size, 257);
  },

  async "a broadcast reaches everyone"(port) {
    const clients = await Promise.all(Array.from({ length: 100 }, () => Client.connect(port)));
    for (const client of clients) await client.next();
    clients[7].request("b", "broadcast", { n: [1] });
    let sent;
    for (const client of clients) {
      for (let left = client === clients[7] ? 2 : 1; left > 0; left--) {
        const message = await client.next();
        if (message.type === "event") same(message, { type: "event", channel: "tick", payload: { n: [1] } });
        else sent = message;
      }
    }
    // Clients of earlier tests can still be disconnecting.
    assert.ok(sent.payload.sent >= 100, JSON.stringify(sent));
    same(sent, response("b", "broadcast", { sent: sent.payload.sent }));
  },

  async "a client that has left is not counted"(port) {
    const client = await Client.connect(port);
    await client.next();
    for (let sent = Infinity; sent > 1; ) {
      client.request("b", "broadcast", 0);
      const messages = [await client.next(), await client.next()];
      sent = messages.find(({ type }) => type === "response").payload.sent;
    }
  },

  async "errors are those of the specification"(port) {
    const client = await Client.connect(port);
    await client.next();
    const error = async (text, id, channel, code) => {
      client.ws.send(text);
      const message = await client.next();
      const { message: why } = message.error;
      assert.ok(why.length > 0);
      same(message, { type: "response", id, channel, error: { code, message: why } });
    };
    await error('{"type":"request","id":"1","channel":"no"}', "1", "no", "UNKNOWN_CHANNEL");
    for (const text of ["", "{", "[]", "null", "{}", '{"type":"event","id":"1","channel":"echo"}',
      '{"type":"request","id":1,"channel":"echo"}', '{"type":"request","id":"1"}']) {
      await error(text, "invalid_message", "system", "INVALID_MESSAGE");
    }
    client.request("2", "echo", 2);
    same(await client.next(), response("2", "echo", 2));
  },

  async "a message over 16 MiB ends the connection"(port) {
    const client = await Client.connect(port);
    await client.next();
    client.ws.on("error", () => {});
    client.request("big", "echo", "x".repeat(17 << 20));
    await once(client.ws, "close");
  },
};

const jsonRpcTests = {
  async "echo answers any payload as it is"(port) {
    const client = await Client.connect(port);
    for (const [id, payload] of [0, "x".repeat(64), "x".repeat(16 << 10), { a: ["ü"] }, null].entries()) {
      client.call(id, "echo", payload);
      assert.deepEqual(await client.next(), { jsonrpc: "2.0", id, result: payload });
    }
  },

  async "16 pipelined, and 256 that wait, are answered"(port) {
    const client = await Client.connect(port);
    for (const [method, count] of [["echo", 16], ["wait", 256]]) {
      for (let id = 0; id < count; id++) client.call(id, method, { id });
      const left = new Set(Array.from({ length: count }, (_, id) => id));
      while (left.size > 0) {
        const { id, result } = await client.next();
        assert.ok(left.delete(id));
        assert.deepEqual(result, { id });
      }
    }
  },

  async "a broadcast reaches every subscriber, and not those who left"(port) {
    const clients = await Promise.all(Array.from({ length: 100 }, () => Client.connect(port)));
    for (const client of clients) {
      client.call(1, "subscribe_tick");
      client.subscription = (await client.next()).result;
    }
    const caller = await Client.connect(port);
    caller.call(2, "broadcast", { n: 1 });
    assert.deepEqual(await caller.next(), { jsonrpc: "2.0", id: 2, result: { sent: 100 } });
    for (const { subscription, next, messages, waiting } of clients) {
      const tick = await next.call({ messages, waiting });
      assert.deepEqual(tick, { jsonrpc: "2.0", method: "tick", params: { subscription, result: { n: 1 } } });
    }
    clients.forEach((client) => client.ws.close());
    for (let sent = 100; sent > 0; ) {
      caller.call(3, "broadcast", 0);
      sent = (await caller.next()).result.sent;
    }
  },

  async "errors are those of JSON-RPC"(port) {
    const client = await Client.connect(port);
    client.call(1, "no");
    assert.equal((await client.next()).error.code, -32601);
    client.ws.send("{");
    assert.equal((await client.next()).error.code, -32700);
  },
};

let failed = 0;
let running = "the start";
const server = spawn(command, [...rest, "0"], { stdio: ["ignore", "pipe", "inherit"] });
const deadline = setTimeout(() => {
  server.kill("SIGKILL");
  console.error(`not done in time: ${running}`);
  process.exit(1);
}, DEADLINE_MS);
try {
  const { value: line } = await createInterface(server.stdout)[Symbol.asyncIterator]().next();
  const port = /^listening on (\d+)$/.exec(line)[1];
  const all = Object.entries(jsonRpc ? jsonRpcTests : tests);
  for (const [name, test] of all) {
    try {
      running = name;
      await test(port);
    } catch (error) {
      failed++;
      console.log(`${name}: ${error.stack}`);
    }
    Client.all.splice(0).forEach(({ ws }) => ws.terminate());
  }
  console.log(`${[command, ...rest].join(" ")}: ${all.length - failed} passed, ${failed} failed`);
} finally {
  clearTimeout(deadline);
  server.kill("SIGKILL");
}
process.exit(failed > 0 ? 1 : 0);
