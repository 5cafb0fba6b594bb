// What src/web/client.js promises. Runs in Node and in browsers: `offline` with simulated sockets and time, `online` against
// the real server.

import { WSClient, WSClientError } from "../../src/web/client.js";
import { Log, equal, failure, settled } from "./check.mjs";
import { Clock, GlobalEvents, fakeWebSocket } from "./fakes.mjs";

const CONNECTION_EVENTS = ["open", "closed", "reconnecting", "failed", "auth-failed"].map((name) => `connection:${name}`);

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** A client on fake sockets, with a log of its own events. The reasons, which tests of their own check, are in `reasons`. */
export function fake(options) {
  const Socket = fakeWebSocket();
  const client = new WSClient({ url: "ws://test", WebSocket: Socket, ...options });
  const log = new Log();
  const reasons = [];
  for (const channel of CONNECTION_EVENTS) {
    client.onMessage(channel, ({ error, ...payload }) => {
      if (error) reasons.push([channel.slice(11), payload.reason, error]);
      if (error) delete payload.reason;
      log.add(channel.slice(11), payload);
    });
  }
  return { Socket, client, log, reasons };
}

/** The same, connected. */
export async function connected(options) {
  const parts = fake(options);
  const connecting = parts.client.connect();
  parts.Socket.last.greet();
  await connecting;
  parts.log.take();
  return { ...parts, socket: parts.Socket.last };
}

/** Runs a case with a simulated clock. */
export function onClock(run) {
  return async () => {
    const clock = new Clock();
    try {
      await run(clock);
    } finally {
      clock.restore();
    }
  };
}

export const offline = {
  "responses reach their calls in any order": async () => {
    const { client, socket } = await connected();
    const calls = [client.sendMessage("a", { x: 1 }), client.sendMessage("b"), client.sendMessage("c", null)];
    const [a, b, c] = socket.sent;
    equal([a.type, a.channel, a.payload, typeof a.timestamp], ["request", "a", { x: 1 }, "number"]);
    equal(["payload" in b, c.payload], [false, null]);
    equal(new Set(socket.sent.map((request) => request.id)).size, 3);
    socket.answer("to c", c);
    socket.answer(undefined, b);
    socket.answer({ y: 2 }, a);
    socket.answer("again", a);
    equal(await Promise.all(calls), [{ y: 2 }, undefined, "to c"]);
  },

  "an error has code, message, details and channel": async () => {
    const { client, socket } = await connected();
    const call = client.sendMessage("chat:list");
    socket.refuse({ code: "HANDLER_ERROR", message: "limit: too large", details: { path: "limit" } });
    const error = await call.catch((error) => error);
    equal([error instanceof WSClientError, error instanceof Error, error.name], [true, true, "WSClientError"]);
    equal([error.code, error.message, error.details], ["HANDLER_ERROR", "limit: too large", { path: "limit" }]);
    equal(error.channel, "chat:list");
  },

  "a malformed error is a HANDLER_ERROR with what came": async () => {
    const { client, socket } = await connected();
    const nothing = "the server gave no reason";
    const long = "X".repeat(1 << 20);
    for (const [error, code, message, details] of [
      [5, "HANDLER_ERROR", nothing, 5],
      [0, "HANDLER_ERROR", nothing, 0],
      [null, "HANDLER_ERROR", nothing, null],
      [false, "HANDLER_ERROR", nothing, false],
      ["", "HANDLER_ERROR", nothing, ""],
      ["TIMEOUT", "HANDLER_ERROR", nothing, "TIMEOUT"],
      [["TIMEOUT"], "HANDLER_ERROR", nothing, ["TIMEOUT"]],
      [{}, "HANDLER_ERROR", nothing, {}],
      [{ message: "m" }, "HANDLER_ERROR", "m", { message: "m" }],
      [{ code: 5, message: "m" }, "HANDLER_ERROR", "m", { code: 5, message: "m" }],
      [{ code: "", message: "m" }, "HANDLER_ERROR", "m", { code: "", message: "m" }],
      [{ code: null, message: "m", details: [1] }, "HANDLER_ERROR", "m", [1]],
      [{ code: "TIMEOUT" }, "TIMEOUT", nothing, { code: "TIMEOUT" }],
      [{ code: "TIMEOUT", message: {} }, "TIMEOUT", nothing, { code: "TIMEOUT", message: {} }],
      [{ code: "NEW", message: "m" }, "NEW", "m", undefined],
      [{ code: long, message: "m" }, "HANDLER_ERROR", "m", { code: long, message: "m" }],
      [{ code: "TIMEOUT", message: long }, "TIMEOUT", long, undefined],
    ]) {
      const call = client.sendMessage("a");
      socket.refuse(error);
      const failed = await call.then(() => "a response", (error) => error);
      equal([failed instanceof WSClientError, failed.code, failed.message], [true, code, message]);
      equal(failed.details, details);
    }
    // Nor does one that belongs to no call disturb the others.
    const call = client.sendMessage("a");
    for (const error of [5, null, { code: "RATE_LIMITED", details: null }, { code: "RATE_LIMITED", details: 5 }]) {
      socket.refuse(error, { id: "rate_limited", channel: "system" });
      socket.refuse(error, { id: { toString: null }, channel: 5 });
    }
    socket.answer("fine");
    equal(await call, "fine");
  },

  "a call that was refused before its id was read fails immediately": async () => {
    const { client, socket } = await connected();
    const calls = [client.sendMessage("a"), client.sendMessage("b"), client.sendMessage("c"), client.sendMessage("d")];
    const [a, b, c, d] = socket.sent;
    const refuse = (code, details, request) => socket.refuse({ code, message: code, details }, request);
    refuse("RATE_LIMITED", { requestId: b.id, retryAfterMs: 70 }, { id: "rate_limited", channel: "system" });
    refuse("INVALID_MESSAGE", undefined, c);
    // Not about the calls in their details.
    refuse("RATE_LIMITED", { requestId: a.id }, d);
    refuse("HANDLER_ERROR", { requestId: a.id }, { id: "unknown", channel: "x" });
    refuse("INVALID_MESSAGE", undefined, { id: "invalid_message", channel: "system" });
    const limited = await calls[1].catch((error) => error);
    equal([limited.code, limited.details.retryAfterMs, limited.channel], ["RATE_LIMITED", 70, "b"]);
    equal((await failure(calls[2]))[0], "INVALID_MESSAGE");
    equal((await failure(calls[3]))[0], "RATE_LIMITED");
    socket.answer("late, but accepted", a);
    equal(await calls[0], "late, but accepted");
  },

  "a call without a response ends with TIMEOUT; a late one is ignored": onClock(async (clock) => {
    const { client, socket } = await connected({ requestTimeout: 500 });
    const slow = client.sendMessage("slow");
    const patient = client.sendMessage("patient", undefined, { timeout: 2000 });
    const endless = client.sendMessage("endless", undefined, { timeout: 0 });
    const infinite = client.sendMessage("infinite", undefined, { timeout: Infinity });
    // The longest time that a timer supports; a longer one would fire immediately.
    equal(clock.left, [500, 2000, 2 ** 31 - 1]);
    clock.advance(499);
    clock.advance(1);
    equal(await failure(slow), ["TIMEOUT", "no answer within 500 ms"]);
    socket.answer("late", socket.sent[0]);
    clock.advance(1499);
    socket.answer("in time", socket.sent[1]);
    equal(await patient, "in time");
    socket.answer(1, socket.sent[2]);
    socket.answer(2, socket.sent[3]);
    equal([await endless, await infinite], [1, 2]);
    equal(clock.left, []);
    const lost = client.sendMessage("default");
    equal(clock.left, [500]);
    client.disconnect();
    equal([(await failure(lost))[0], clock.left], ["CONNECTION_CLOSED", []]);
  }),

  "what arrived while the process was stopped counts before deadlines": onClock(async (clock) => {
    const { client, socket } = await connected();
    const [call, silent] = [client.sendMessage("a"), failure(client.sendMessage("b"))];
    clock.sleep(60_000);
    socket.answer(1, socket.sent[0]);
    equal(await call, 1);
    clock.advance(1000);
    equal(await silent, ["TIMEOUT", "no answer within 30000 ms"]);
    equal(clock.left, []);
    // A timer that is a little late is one of a busy page.
    const late = failure(client.sendMessage("c"));
    clock.sleep(30_249);
    equal([(await late)[0], clock.left], ["TIMEOUT", []]);
    // The same with an attempt.
    const other = fake();
    const connecting = other.client.connect();
    clock.sleep(60_000);
    other.Socket.last.greet();
    await connecting;
    equal(clock.left, []);
    client.disconnect();
    other.client.disconnect();
  }),

  "a signal ends a call, before it is sent or after": onClock(async (clock) => {
    const { client, socket } = await connected();
    const early = client.sendMessage("early", null, { signal: AbortSignal.abort("too early") });
    equal((await failure(early))[0], "ABORTED");
    equal([(await early.catch((error) => error)).cause, socket.sent.length], ["too early", 0]);

    const controller = new AbortController();
    let listening = 0;
    for (const [name, step] of [["addEventListener", 1], ["removeEventListener", -1]]) {
      const real = controller.signal[name].bind(controller.signal);
      controller.signal[name] = (...args) => ((listening += step), real(...args));
    }
    const answered = client.sendMessage("answered", null, controller);
    equal(listening, 1);
    socket.answer("fine");
    equal([await answered, listening], ["fine", 0]);

    const call = client.sendMessage("late", null, controller);
    controller.abort();
    const error = await call.catch((error) => error);
    equal([error.code, error.channel, error.cause.name], ["ABORTED", "late", "AbortError"]);
    equal([clock.left, listening], [[], 0]);
    socket.answer("too late");
  }),

  "a payload that JSON cannot represent is refused and not sent": onClock(async (clock) => {
    const { client, socket } = await connected();
    const circle = {};
    circle.self = circle;
    const call = client.sendMessage("circle", circle);
    equal((await failure(call))[0], "INVALID_MESSAGE");
    equal((await call.catch((error) => error)).cause.name, "TypeError");
    equal([socket.sent, clock.left], [[], []]);
  }),

  "a call without a connection is refused": async () => {
    const { Socket, client } = fake();
    equal(await failure(client.sendMessage("a")), ["CONNECTION_CLOSED", "not connected"]);
    const connecting = client.connect();
    equal((await failure(client.sendMessage("a")))[0], "CONNECTION_CLOSED");
    Socket.last.open();
    await connecting;
    Socket.last.readyState = 2;
    equal((await failure(client.sendMessage("a")))[0], "CONNECTION_CLOSED");
    equal(Socket.last.sent, []);
  },

  "connecting twice opens one socket": onClock(async (clock) => {
    const { Socket, client, log } = fake();
    equal([client.connectionState, client.isConnected], ["closed", false]);
    const both = [client.connect(), client.connect()];
    equal([client.connectionState, Socket.made.length, clock.left], ["connecting", 1, [10_000]]);
    Socket.last.greet();
    await Promise.all(both);
    await client.connect();
    equal([client.connectionState, client.isConnected, Socket.made.length], ["open", true, 1]);
    equal([log.take(), clock.left], [[["open", {}]], []]);
  }),

  "a failed first attempt rejects immediately, and others follow": onClock(async (clock) => {
    const { Socket, client, log } = fake();
    const both = [client.connect(), client.connect()];
    Socket.last.end();
    for (const connecting of both) {
      equal(await failure(connecting), ["CONNECTION_CLOSED", "cannot connect to ws://test"]);
    }
    equal(log.take(), [["reconnecting", { attempt: 1, delayMs: 1000 }]]);
    equal([client.connectionState, clock.left], ["connecting", [1000]]);
    clock.advance(1000);
    equal(Socket.made.length, 2);
    // A further call joins the attempts: it makes no socket of its own, and ends with them.
    const joined = client.connect();
    equal(Socket.made.length, 2);
    Socket.last.end();
    clock.advance(1500);
    equal(Socket.made.length, 3);
    Socket.last.greet();
    await joined;
    equal([log.take().map(([name]) => name), clock.left], [["reconnecting", "open"], []]);
    client.disconnect();

    // All attempts fail.
    const other = fake({ maxReconnectAttempts: 1 });
    const first = failure(other.client.connect());
    other.Socket.last.end();
    equal((await first)[0], "CONNECTION_CLOSED");
    const last = failure(other.client.connect());
    other.Socket.last.end();
    equal(await last, ["CONNECTION_CLOSED", "no connection after 1 more attempts: cannot connect to ws://test"]);
    equal([other.log.take().at(-1), clock.left], [["failed", { attempts: 1 }], []]);
  }),

  "a failed first attempt is not repeated with retry: false or reconnect: false": onClock(async (clock) => {
    for (const [options, argument] of [[{}, { retry: false }], [{ reconnect: false }, undefined]]) {
      const { Socket, client, log } = fake(options);
      const connecting = client.connect(argument);
      Socket.last.end();
      equal(await failure(connecting), ["CONNECTION_CLOSED", "cannot connect to ws://test"]);
      equal([client.connectionState, clock.left, Socket.made.length], ["closed", [], 1]);
      equal(log.take(), [["failed", { attempts: 0 }]]);
      const again = client.connect(argument);
      Socket.last.greet();
      await again;
      equal(Socket.made.length, 2);
    }
  }),

  "a failed first attempt is repeated with retry": onClock(async (clock) => {
    const { Socket, client, log } = fake();
    const connecting = client.connect({ retry: true });
    Socket.last.end();
    equal([client.connectionState, log.take()], ["connecting", [["reconnecting", { attempt: 1, delayMs: 1000 }]]]);
    clock.advance(1000);
    Socket.last.end();
    clock.advance(1500);
    Socket.last.greet();
    await connecting;
    equal(Socket.made.length, 3);

    // Also for a client that does not reconnect after a lost connection.
    const other = fake({ reconnect: false, maxReconnectAttempts: 1 });
    const failing = other.client.connect({ retry: true });
    other.Socket.last.end();
    clock.advance(1000);
    other.Socket.last.end();
    equal(await failure(failing), ["CONNECTION_CLOSED", "no connection after 1 more attempts: cannot connect to ws://test"]);
    equal(other.log.take(), [["reconnecting", { attempt: 1, delayMs: 1000 }], ["failed", { attempts: 1 }]]);
    equal([other.client.connectionState, clock.left], ["closed", []]);
  }),

  "an attempt that takes too long ends with TIMEOUT": onClock(async (clock) => {
    const { Socket, client, log } = fake({ connectTimeout: 300 });
    const connecting = client.connect({ retry: false });
    const slow = Socket.last;
    clock.advance(300);
    equal(await failure(connecting), ["TIMEOUT", "no connection to ws://test within 300 ms"]);
    equal([slow.closed.length, client.connectionState, clock.left], [1, "closed", []]);
    slow.open();
    slow.end(1000);
    equal([client.isConnected, log.take()], [false, [["failed", { attempts: 0 }]]]);
    equal(fakeTimers(clock, { connectTimeout: 0 }), []);
  }),

  "disconnecting ends an attempt": onClock(async (clock) => {
    const { Socket, client, log } = fake();
    const connecting = client.connect({ retry: true });
    const socket = Socket.last;
    client.disconnect();
    equal(await failure(connecting), ["CONNECTION_CLOSED", "disconnected"]);
    equal([socket.closed.length, client.connectionState, clock.left], [1, "closed", []]);
    // A browser reports this for a socket that was closed before it was open.
    socket.end();
    equal([clock.left, log.take()], [[], []]);
  }),

  "disconnecting ends the wait for the next attempt": onClock(async (clock) => {
    const { Socket, client, log, socket } = await connected();
    socket.end();
    equal(clock.left, [1000]);
    client.disconnect();
    equal([clock.left, client.connectionState], [[], "closed"]);
    log.take();
    clock.advance(100_000);
    equal([Socket.made.length, log.take()], [1, []]);
    // Earlier attempts no longer count.
    const connecting = client.connect();
    Socket.last.open();
    await connecting;
    Socket.last.end();
    equal(clock.left, [1000]);
  }),

  "a client can connect again; messages of its old socket are ignored": async () => {
    const { Socket, client, log, socket } = await connected();
    const pending = client.sendMessage("a");
    const [request] = socket.sent;
    client.disconnect();
    equal(await failure(pending), ["CONNECTION_CLOSED", "disconnected"]);
    equal(log.take(), [["closed", { code: 1000, reason: "" }]]);
    equal([socket.closed, client.connectionState], [[[1000]], "closed"]);
    client.disconnect();
    const connecting = client.connect();
    Socket.last.greet();
    await connecting;
    log.take();
    client.onMessage("*", (payload, channel) => log.add(channel, payload));
    const call = client.sendMessage("b");
    socket.answer("from the old socket", request);
    socket.answer("from the old socket", Socket.last.sent[0]);
    socket.receive({ type: "event", channel: "old", payload: 1 });
    socket.end(1000);
    equal([client.isConnected, log.take()], [true, []]);
    Socket.last.answer("from the new one");
    equal(await call, "from the new one");
  },

  "a lost connection fails calls in flight, emits events and reconnects": onClock(async (clock) => {
    const { Socket, client, log, socket } = await connected();
    const calls = [client.sendMessage("a"), client.sendMessage("b")];
    socket.end(1001, "bye");
    equal([client.isConnected, client.connectionState, clock.left], [false, "connecting", [1000]]);
    for (const call of calls) {
      const error = await call.catch((error) => error);
      equal([error.code, error.message, error.details], [
        "CONNECTION_CLOSED",
        "connection lost: bye",
        { code: 1001, reason: "bye" },
      ]);
    }
    equal(log.take(), [
      ["closed", { code: 1001, reason: "bye" }],
      ["reconnecting", { attempt: 1, delayMs: 1000 }],
    ]);
    clock.advance(999);
    equal(Socket.made.length, 1);
    clock.advance(1);
    equal([Socket.made.length, client.connectionState], [2, "connecting"]);
    Socket.last.greet();
    equal([log.take(), client.isConnected, clock.left], [[["open", {}]], true, []]);
  }),

  "a client with reconnect: false does not reconnect": onClock(async (clock) => {
    const { client, log, socket } = await connected({ reconnect: false });
    socket.end();
    equal([log.take(), client.connectionState], [[["closed", { code: 1006, reason: "" }]], "closed"]);
    equal(clock.left, []);
  }),

  "pauses grow by half up to 30 s, and attempts end": onClock(async (clock) => {
    const { Socket, client, log, socket } = await connected({ maxReconnectAttempts: 11 });
    socket.end();
    const pauses = [];
    for (let attempt = 1; attempt <= 11; attempt++) {
      pauses.push(...clock.left);
      clock.advance(clock.left[0]);
      Socket.last.end();
    }
    equal(pauses, [1000, 1500, 2250, 3375, 5063, 7594, 11_391, 17_086, 25_629, 30_000, 30_000]);
    equal(log.take().at(-1), ["failed", { attempts: 11 }]);
    equal([client.connectionState, clock.left, Socket.made.length], ["closed", [], 12]);
    // Then the count starts again.
    const connecting = client.connect();
    Socket.last.open();
    await connecting;
    Socket.last.end();
    equal(log.take().at(-1), ["reconnecting", { attempt: 1, delayMs: 1000 }]);
    client.disconnect();

    const defaults = await connected();
    defaults.socket.end();
    for (; clock.left.length > 0; clock.advance(clock.left[0])) {
      if (defaults.client.connectionState === "connecting" && defaults.Socket.last.readyState === 0) {
        defaults.Socket.last.end();
      }
    }
    equal(defaults.log.take().at(-1), ["failed", { attempts: 10 }]);
  }),

  "pauses vary by a fifth, up to 30 s": onClock(async (clock) => {
    for (const [random, reconnectInterval, pause] of [
      [0, 10_000, 8000],
      [1, 10_000, 12_000],
      [0, 100_000, 24_000],
      [1, 100_000, 30_000],
      [0.5, 0, 0],
    ]) {
      clock.random = random;
      const { client, socket } = await connected({ reconnectInterval });
      socket.end();
      equal(clock.left, [pause], `random ${random}, interval ${reconnectInterval}:`);
      client.disconnect();
    }
  }),

  "attempts count until a connection was stable": onClock(async (clock) => {
    const { Socket, log, socket } = await connected();
    const lose = () => {
      Socket.last.end();
      const [, payload] = log.take().at(-1);
      clock.advance(payload.delayMs ?? 0);
      return payload;
    };
    equal(lose(), { attempt: 1, delayMs: 1000 });
    // The server accepts the connection and drops it, before its first event and after it.
    Socket.last.open();
    clock.advance(60_000);
    equal(lose(), { attempt: 2, delayMs: 1500 });
    Socket.last.greet();
    clock.advance(4999);
    // A second one does not prolong the wait, nor the time before the first count.
    Socket.last.receive({ type: "event", channel: "server:connected", payload: {} });
    equal(lose(), { attempt: 3, delayMs: 2250 });
    Socket.last.greet();
    clock.advance(4999);
    Socket.last.receive({ type: "event", channel: "server:connected", payload: {} });
    clock.advance(1);
    equal(lose(), { attempt: 1, delayMs: 1000 });
    // The time of an earlier connection does not count for the next one.
    clock.advance(10_000);
    equal(lose(), { attempt: 2, delayMs: 1500 });
    equal(socket, Socket.made[0]);
  }),

  "a server that accepts connections and drops them is not tried forever": onClock(async (clock) => {
    for (const [stableAfter, attempts] of [[undefined, 10], [0, 30]]) {
      const { Socket, client, log } = await connected({ stableAfter });
      Socket.last.end();
      for (let turn = 1; turn < 30 && clock.left.length > 0; turn++) {
        clock.advance(clock.left[0]);
        Socket.last.greet();
        Socket.last.end();
      }
      const seen = log.take();
      equal(seen.filter(([name]) => name === "reconnecting").length, attempts);
      const last = attempts === 10 ? ["failed", { attempts }] : ["reconnecting", { attempt: 1, delayMs: 1000 }];
      equal(seen.at(-1), last);
      client.disconnect();
    }
  }),

  "a client that comes back online tries immediately, and once": onClock(async (clock) => {
    const events = new GlobalEvents();
    try {
      const { Socket, client, log, socket } = await connected();
      equal(events.names, []);
      socket.end();
      equal(events.names, ["online", "pageshow", "visibilitychange"]);
      events.fire("online");
      equal([Socket.made.length, clock.left, events.names], [2, [10_000], []]);
      Socket.last.end();
      equal(log.take().at(-1), ["reconnecting", { attempt: 2, delayMs: 1500 }]);
      client.disconnect();
      equal([events.names, clock.left], [[], []]);
      events.fire("online");
      equal(Socket.made.length, 2);
    } finally {
      events.restore();
    }
  }),

  "after connection:failed a page that is back starts a new round": onClock(async (clock) => {
    const events = new GlobalEvents();
    try {
      const { Socket, client, log } = fake({ maxReconnectAttempts: 2 });
      const fail = () => {
        while (client.connectionState === "connecting") {
          if (Socket.last.readyState === 0) Socket.last.end();
          if (clock.left.length > 0) clock.advance(clock.left[0]);
        }
        equal(log.take().at(-1), ["failed", { attempts: 2 }]);
        equal(clock.left, []);
      };
      client.connect().catch(() => {});
      fail();
      for (const [type, more, made] of [
        ["online", {}, 3],
        ["pageshow", { persisted: false }, 0],
        ["pageshow", { persisted: true }, 3],
        ["visibilitychange", { hidden: true }, 0],
        ["visibilitychange", { hidden: false }, 3],
      ]) {
        const before = Socket.made.length;
        events.fire(type, more);
        if (made > 0) fail();
        equal(Socket.made.length - before, made, `${type} ${JSON.stringify(more)}:`);
      }
      events.fire("online");
      Socket.last.greet();
      equal([client.isConnected, events.names], [true, []]);
      client.disconnect();
      // Not after the caller has disconnected, nor when the server has refused the credential.
      client.connect().catch(() => {});
      Socket.last.select();
      Socket.last.end(4403, "not yours");
      equal([client.connectionState, events.names, clock.left], ["closed", [], []]);
    } finally {
      events.restore();
    }
  }),

  "connect during a pause tries immediately": onClock(async (clock) => {
    const { Socket, client, socket } = await connected();
    socket.end();
    const connecting = client.connect();
    equal([Socket.made.length, clock.left], [2, [10_000]]);
    // The client still tries to restore the lost connection.
    Socket.last.end();
    equal(clock.left, [1500]);
    clock.advance(1500);
    Socket.last.greet();
    await connecting;
    equal([Socket.made.length, clock.left], [3, []]);
  }),

  "connect while the old socket closes opens another": onClock(async (clock) => {
    const { Socket, client, log, socket } = await connected();
    socket.readyState = 2;
    equal([client.isConnected, client.connectionState], [false, "closing"]);
    const connecting = client.connect();
    Socket.last.greet();
    await connecting;
    socket.end(1001);
    equal([client.isConnected, Socket.made.length, clock.left], [true, 2, []]);
    equal(log.take().map(([name]) => name), ["closed", "reconnecting", "open"]);
  }),

  "a listener can disconnect or connect when the connection is lost": onClock(async (clock) => {
    const first = await connected();
    first.client.once("connection:closed", () => first.client.disconnect());
    first.socket.end();
    equal([first.log.take().map(([name]) => name), clock.left], [["closed"], []]);

    const second = await connected();
    let connecting;
    second.client.once("connection:closed", () => (connecting = second.client.connect()));
    second.socket.end();
    equal([second.Socket.made.length, clock.left], [2, [10_000]]);
    second.Socket.last.greet();
    await connecting;
    equal(second.log.take().map(([name]) => name), ["closed", "open"]);

    const third = await connected();
    third.client.once("connection:reconnecting", () => third.client.disconnect());
    third.socket.end();
    equal([third.client.connectionState, clock.left], ["closed", []]);

    // The handler of a rejected promise can do the same.
    const fourth = await connected();
    fourth.client.sendMessage("a").catch(() => fourth.client.disconnect());
    fourth.socket.end();
    await settled();
    equal([fourth.client.connectionState, clock.left], ["closed", []]);
  }),

  "listeners are called in order, even if they throw or unsubscribe": async () => {
    const { client, socket } = await connected();
    const log = new Log();
    const tell = (channel, payload) => {
      socket.receive({ type: "event", channel, payload });
      return log.take();
    };
    const silenced = silenceConsole();
    try {
      const endAll = client.onMessage("*", (payload, channel) => log.add("all", channel, payload));
      const endOwn = client.onMessage("a", (payload, channel) => {
        log.add("own", channel, payload);
        endOwn();
      });
      client.onMessage("a", () => {
        throw new Error("on purpose");
      });
      client.onMessage("a", () => {
        endNext();
        client.onMessage("a", () => log.add("added"));
      });
      const endNext = client.onMessage("a", () => log.add("removed before its turn"));
      client.once("a", (payload, channel) => log.add("once", channel, payload));
      equal(tell("a", 1), [["own", "a", 1], ["once", "a", 1], ["all", "a", 1]]);
      equal(silenced.count, 1);
      equal(tell("a", 2), ["added", ["all", "a", 2]]);
      client.offMessage("a");
      equal(tell("a", undefined), [["all", "a", undefined]]);

      // The same function twice is two subscriptions, which end separately.
      const same = () => log.add("same");
      const ends = [client.onMessage("a", same), client.onMessage("a", same)];
      endAll();
      equal(tell("a"), ["same", "same"]);
      ends[0]();
      ends[0]();
      equal(tell("a"), ["same"]);
      client.offMessage("a");
      client.onMessage("a", same);
      ends[1]();
      equal(tell("a"), ["same"]);

      const endOnce = client.once("b", () => log.add("never"));
      endOnce();
      equal(tell("b"), []);
      equal(tell("__proto__"), []);
    } finally {
      silenced.restore();
    }
  },

  "invalid messages are ignored": async () => {
    const { client, socket } = await connected();
    const silenced = silenceConsole();
    try {
      for (const text of ["{", "", "null", "[]", "1", '"event"', "{}", '{"type":"request"}', '{"type":"response"}']) {
        socket.receive(text);
      }
      // Two of them are not JSON.
      equal([client.isConnected, silenced.count], [true, 2]);
    } finally {
      silenced.restore();
    }
  },

  "a token is sent as a subprotocol, and never part of an error": async () => {
    const { Socket, client } = fake({ token: "s3cret" });
    client.connect().catch(() => {});
    equal(Socket.last.protocols, ["switchboard.v1", "bearer.s3cret"]);
    const without = fake({ token: undefined });
    without.client.connect().catch(() => {});
    equal(without.Socket.last.protocols, ["switchboard.v1"]);
    client.disconnect();
    without.client.disconnect();
    for (const token of ["two words", "", "s3cret=", "a,b", null, 12345, {}]) {
      const [name, message] = await failure(Promise.resolve().then(() => fake({ token })));
      equal([name, token !== "" && message.includes(token)], ["TypeError", false], token);
      const [later, same] = await failure(client.setToken(token));
      equal([later, same], [name, message]);
      // The function of a caller is asked later, and the client gives up: another attempt would be no better.
      const asked = fake({ token: async () => token });
      const connecting = failure(asked.client.connect());
      equal(await connecting, [name, message]);
      equal([asked.log.take(), asked.client.connectionState], [[["failed", { attempts: 0 }]], "closed"]);
    }
    equal((await failure(Promise.resolve().then(() => fake({ url: "" }))))[0], "TypeError");
  },

  "a client can be created without a WebSocket class": async () => {
    const { WebSocket } = globalThis;
    globalThis.WebSocket = undefined;
    try {
      const { Socket, client } = fake({ WebSocket: undefined });
      equal([(await failure(client.connect()))[0], client.connectionState], ["TypeError", "closed"]);
      globalThis.WebSocket = Socket;
      const connecting = client.connect();
      Socket.last.greet();
      await connecting;
    } finally {
      globalThis.WebSocket = WebSocket;
    }
  },

  "an undefined option has its default": onClock(async (clock) => {
    const { client, socket } = await connected({ requestTimeout: undefined, reconnect: undefined });
    client.sendMessage("a", 1, { timeout: undefined }).catch(() => {});
    equal(clock.left, [30_000]);
    socket.end();
    equal(clock.left, [1000]);
  }),

  "ids are unique UUIDs where there is no randomUUID, and where there is no crypto": async () => {
    const own = Object.getOwnPropertyDescriptor(globalThis, "crypto");
    const { getRandomValues } = crypto;
    for (const value of [{ getRandomValues: getRandomValues.bind(crypto) }, {}, undefined]) {
      const { client, socket } = await connected();
      Object.defineProperty(globalThis, "crypto", { value, configurable: true });
      try {
        for (let n = 0; n < 100; n++) client.sendMessage("a").catch(() => {});
      } finally {
        if (own) Object.defineProperty(globalThis, "crypto", own);
        else delete globalThis.crypto;
      }
      const ids = socket.sent.map((request) => request.id);
      equal([new Set(ids).size, ids.filter((id) => !UUID.test(id))], [100, []]);
      client.disconnect();
    }
  },
};

/** Returns the timers of a client that connects with these options. */
function fakeTimers(clock, options) {
  const { client } = fake(options);
  client.connect().catch(() => {});
  const left = clock.left;
  client.disconnect();
  return left;
}

/** Counts errors on the console instead of showing them. */
function silenceConsole() {
  const real = console.error;
  const silenced = { count: 0, restore: () => (console.error = real) };
  console.error = () => silenced.count++;
  return silenced;
}

/**
 * Against the real server. `server(method, ...args)` controls it, also from within a browser: `start` answers its URL,
 * `kill`, `stop`, `pause`, `restart` do what they say. `WebSocket` is the class to use, if not the global one.
 */
export const online = {
  "calls, errors and events reach a real server and its clients": async ({ server, WebSocket }) => {
    const url = await server("start");
    const client = new WSClient({ url, WebSocket });
    const other = new WSClient({ url: new URL(url), WebSocket });
    const log = new Log();
    other.onMessage("*", (payload, channel) => log.add(channel, payload));
    await Promise.all([client.connect(), other.connect()]);
    await log.until(([channel]) => channel === "server:connected");

    const chat = await client.sendMessage("chat:create", { title: "Groceries é 😀" });
    equal(chat.title, "Groceries é 😀");
    const [, told] = await log.until(([channel]) => channel === "chat:created");
    equal(told, chat);
    equal(await client.sendMessage("chat:list"), [chat]);
    equal(await client.sendMessage("settings:set", { key: "x", value: [1] }), undefined);
    equal(await client.sendMessage("chat:get", { id: crypto.randomUUID() }), null);

    const wrong = await client.sendMessage("chat:list", { limit: "many" }).catch((error) => error);
    equal([wrong.code, wrong.channel, wrong.details.path], ["HANDLER_ERROR", "chat:list", "limit"]);
    equal((await failure(client.sendMessage("no:such")))[0], "UNKNOWN_CHANNEL");
    equal((await failure(client.sendMessage("")))[0], "INVALID_MESSAGE");
    client.disconnect();
    other.disconnect();
  },

  "each call over the rate limit fails immediately": async ({ server, WebSocket }) => {
    const client = new WSClient({ url: await server("start", { args: ["--rate-limit", "100/600000"] }), WebSocket });
    await client.connect();
    const calls = Array.from({ length: 300 }, () => client.sendMessage("system:ping"));
    const outcomes = await Promise.allSettled(calls);
    equal(outcomes.map(({ status }) => status).indexOf("rejected"), 100);
    const codes = outcomes.slice(100).map(({ reason }) => [reason?.code, reason?.details.retryAfterMs > 0]);
    equal(codes, codes.map(() => ["RATE_LIMITED", true]));
    client.disconnect();
  },

  "a client reconnects to a server that was killed": async ({ server, WebSocket }) => {
    const url = await server("start");
    const client = new WSClient({ url, WebSocket, reconnectInterval: 20, maxReconnectAttempts: Infinity });
    const log = new Log();
    client.onMessage("*", (payload, channel) => log.add(channel, payload));
    await client.connect();
    const { id } = await client.sendMessage("chat:create", { title: "Kept" });
    await server("pause");
    const failures = [failure(client.sendMessage("chat:list")), failure(client.sendMessage("chat:list"))];
    await server("kill");
    for (const [code] of await Promise.all(failures)) equal(code, "CONNECTION_CLOSED");
    equal([client.isConnected, client.connectionState], [false, "connecting"]);
    const [, closed] = await log.until(([channel]) => channel === "connection:closed");
    equal(closed.code, 1006);
    // The server is not running at the first and second attempt.
    await log.until(([channel, payload]) => channel === "connection:reconnecting" && payload.attempt === 3);
    await server("restart");
    await log.until(([channel]) => channel === "connection:open");
    await log.until(([channel]) => channel === "server:connected");
    equal((await client.sendMessage("chat:get", { id })).title, "Kept");
    client.disconnect();
  },

  "a server that stops sends server:shutdown": async ({ server, WebSocket }) => {
    const client = new WSClient({ url: await server("start"), WebSocket, reconnectInterval: 5, maxReconnectAttempts: 2 });
    const log = new Log();
    client.onMessage("*", (payload, channel) => log.add(channel, payload));
    await client.connect();
    await log.until(([channel]) => channel === "server:connected");
    await server("stop");
    await log.until(([channel]) => channel === "server:shutdown");
    equal((await log.until(([channel]) => channel === "connection:closed"))[1].code, 1001);
    const [, { attempts }] = await log.until(([channel]) => channel === "connection:failed");
    equal([attempts, client.connectionState], [2, "closed"]);
    equal((await failure(client.connect({ retry: false })))[0], "CONNECTION_CLOSED");
    await server("restart");
    await client.connect();
    equal(client.isConnected, true);
    client.disconnect();
  },

  "a client can disconnect while it connects, and connect again": async ({ server, WebSocket }) => {
    const client = new WSClient({ url: await server("start"), WebSocket });
    const connecting = client.connect();
    client.disconnect();
    equal(await failure(connecting), ["CONNECTION_CLOSED", "disconnected"]);
    await client.connect();
    client.disconnect();
    await client.connect();
    equal(typeof (await client.sendMessage("system:ping")).timestamp, "number");
    // The other connections are closed or closing.
    const clients = async () => (await client.sendMessage("system:stats")).clients;
    while ((await clients()) > 1);
    client.disconnect();
  },

  "a token gives access": async ({ server, WebSocket }) => {
    const url = await server("start", { environment: { SWITCHBOARD_TOKEN: "s3cret" } });
    const right = new WSClient({ url, WebSocket, token: "s3cret" });
    await right.connect();
    equal(typeof (await right.sendMessage("system:ping")).timestamp, "number");
    right.disconnect();
    const wrong = new WSClient({ url, WebSocket, token: "s3cres" });
    const refused = await wrong.connect().catch((error) => error);
    equal([refused.code, refused.details.code, refused.details.reason.length > 0], ["UNAUTHORIZED", 4401, true]);
    equal([wrong.connectionState, wrong.lastError === refused], ["closed", true]);
    const none = new WSClient({ url, WebSocket });
    await none.connect();
    equal((await failure(none.sendMessage("system:ping")))[0], "UNAUTHORIZED");
    none.disconnect();
  },
};
