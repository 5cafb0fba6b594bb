// A client with Node's `ws`, for a server with handlers for `echo` and `tell`.
// Usage: node_client.cjs PORT. Prints "ok", or fails.

const assert = require("node:assert");
const WebSocket = require("ws");

const url = `ws://localhost:${process.argv[2]}/`;
setTimeout(() => assert.fail("took too long"), 120_000).unref();

/** Connects a client; `next()` waits for its next message. */
function connect(protocols) {
  const socket = new WebSocket(url, protocols);
  const messages = [];
  const waiting = [];
  socket.on("message", (data) => {
    const message = JSON.parse(data);
    const next = waiting.shift();
    if (next) next(message);
    else messages.push(message);
  });
  socket.next = () =>
    messages.length > 0 ? Promise.resolve(messages.shift()) : new Promise((next) => waiting.push(next));
  return socket;
}

async function main() {
  const a = connect();
  const b = connect(["switchboard.v1", "other"]);
  for (const client of [a, b]) assert.equal((await client.next()).channel, "server:connected");
  assert.equal(a.protocol, "");
  assert.equal(b.protocol, "switchboard.v1");

  for (const payload of ["hello", null, [1, { é: "😀" }], "x".repeat(5_000_000)]) {
    a.send(JSON.stringify({ type: "request", id: "1", channel: "echo", payload }));
    assert.deepEqual((await a.next()).payload, payload);
  }
  // JavaScript writes a lone surrogate as an escape; it must come back unchanged.
  a.send(JSON.stringify({ type: "request", id: "\ud800", channel: "echo", payload: "\udfff" }));
  const lone = await a.next();
  assert.deepEqual([lone.id, lone.payload], ["\ud800", "\udfff"]);

  a.send(JSON.stringify({ type: "request", id: "2", channel: "echo" }));
  assert.ok(!("payload" in (await a.next())));

  const ponged = new Promise((done) => a.on("pong", done));
  a.ping("are you there");
  assert.equal((await ponged).toString(), "are you there");

  for (let n = 0; n < 2000; n++) {
    a.send(JSON.stringify({ type: "request", id: String(n), channel: "echo", payload: n }));
  }
  for (let n = 0; n < 2000; n++) assert.equal((await a.next()).payload, n);

  a.send(JSON.stringify({ type: "request", id: "3", channel: "tell", payload: { x: 1 } }));
  await a.next();
  const told = await b.next();
  assert.deepEqual([told.channel, told.payload], ["told", { x: 1 }]);

  const closed = new Promise((done) => a.on("close", (code, reason) => done([code, reason.toString()])));
  a.close(4321, "bye");
  assert.equal((await closed)[0], 4321);
  b.terminate();
  console.log("ok");
}

main();
