// What src/web/client.js promises about tokens, addresses, and why a connection ends. Runs in Node and in browsers, with
// simulated sockets and time.

import { WSClientError } from "../../src/web/client.js";
import { equal, failure, settled } from "./check.mjs";
import { connected, fake, onClock } from "./client.cases.mjs";

/** Greets with the socket of the next attempt. */
async function greet({ Socket, client }) {
  await settled();
  Socket.last.greet();
  equal(client.isConnected, true);
}

/** The token of each attempt. */
const tokens = (Socket) => Socket.made.map(({ protocols }) => protocols[1]?.slice("bearer.".length));

/** A server's warning that the credential expires. */
const expiring = (inMs) => ({ type: "event", channel: "auth:expiring", payload: { inMs } });

export const credentials = {
  "functions are asked for the token and the URL at each attempt": onClock(async (clock) => {
    let round = 0;
    for (const wrap of [(value) => value, async (value) => value, (value) => ({ then: (resolve) => resolve(value) })]) {
      round = 0;
      const parts = fake({ url: () => wrap(new URL(`ws://test/${round}`)), token: () => wrap(`t${round++}`) });
      const { Socket, client } = parts;
      const connecting = client.connect();
      equal([client.connectionState, Socket.made.length], ["connecting", 0]);
      // A second call does not ask again.
      const second = client.connect();
      await greet(parts);
      await Promise.all([connecting, second]);
      Socket.last.end();
      clock.advance(1000);
      await settled();
      Socket.last.end();
      clock.advance(1500);
      await greet(parts);
      equal([tokens(Socket), Socket.made.map(({ url }) => url)], [
        ["t0", "t1", "t2"],
        ["ws://test/0", "ws://test/1", "ws://test/2"],
      ]);
      client.disconnect();
      equal(clock.left, []);
    }
    // No token, this time.
    const parts = fake({ token: () => undefined });
    parts.client.connect().catch(() => {});
    await greet(parts);
    equal(parts.Socket.last.protocols, ["switchboard.v1"]);
  }),

  "a function that fails is a failed attempt, with the cause": onClock(async (clock) => {
    const cause = new TypeError("no network");
    const functions = [
      () => {
        throw cause;
      },
      () => Promise.reject(cause),
    ];
    for (const name of ["url", "token"]) {
      for (const fails of functions) {
        let isWell = false;
        const parts = fake({ [name]: () => (isWell ? (name === "url" ? "ws://test" : "t") : fails()) });
        const { client, log, reasons } = parts;
        const error = await client.connect().catch((error) => error);
        equal([error instanceof WSClientError, error.code, error.message], [
          true,
          "CONNECTION_CLOSED",
          `the ${name} function failed`,
        ]);
        equal([error.cause === cause, client.lastError === error], [true, true]);
        equal(log.take(), [["reconnecting", { attempt: 1, delayMs: 1000 }]]);
        equal([reasons[0][1], reasons[0][2] === error], [`the ${name} function failed`, true]);
        isWell = true;
        clock.advance(1000);
        await greet(parts);
        equal([client.lastError, log.take()], [undefined, [["open", {}]]]);
        client.disconnect();
      }
    }
  }),

  "a function that never answers is a failed attempt after the connect timeout": onClock(async (clock) => {
    for (const [connectTimeout, limit] of [[300, 300], [undefined, 10_000], [0, 10_000]]) {
      const { Socket, client } = fake({ token: () => new Promise(() => {}), connectTimeout });
      const connecting = failure(client.connect());
      equal(clock.left, [limit]);
      clock.advance(limit);
      equal(await connecting, ["TIMEOUT", `the token function did not return within ${limit} ms`]);
      equal([Socket.made.length, clock.left, client.connectionState], [0, [1000], "connecting"]);
      client.disconnect();
      equal(clock.left, []);
    }
    // The whole attempt takes no longer than that.
    let answer;
    const { client } = fake({ token: () => new Promise((resolve) => (answer = resolve)), connectTimeout: 300 });
    const connecting = failure(client.connect({ retry: false }));
    clock.advance(200);
    answer("t");
    await settled();
    equal(clock.left, [100]);
    clock.advance(100);
    equal(await connecting, ["TIMEOUT", "no connection to ws://test within 300 ms"]);
  }),

  "a late answer of a function is ignored": onClock(async (clock) => {
    const answers = [];
    const parts = fake({ token: () => new Promise((resolve) => answers.push(resolve)) });
    const { Socket, client } = parts;
    const connecting = failure(client.connect());
    client.disconnect();
    equal([await connecting, clock.left], [["CONNECTION_CLOSED", "disconnected"], []]);
    client.connect().catch(() => {});
    answers[0]("old");
    await settled();
    equal(Socket.made.length, 0);
    answers[1]("new");
    await greet(parts);
    equal(tokens(Socket), ["new"]);
    client.disconnect();
  }),

  "a Switchboard server accepts with its first event, and refuses with a close": onClock(async (clock) => {
    const { Socket, client, log, reasons } = fake({ token: "t" });
    const connecting = client.connect();
    Socket.last.select();
    await settled();
    equal([client.isConnected, client.connectionState, log.take()], [false, "connecting", []]);
    equal((await failure(client.sendMessage("a")))[0], "CONNECTION_CLOSED");
    Socket.last.end(4401, "unknown token");
    const refused = await connecting.catch((error) => error);
    equal([refused.code, refused.message], ["UNAUTHORIZED", "cannot connect to ws://test: unknown token"]);
    equal(refused.details, { code: 4401, reason: "unknown token" });
    equal([log.take(), reasons[0][1], clock.left], [[["failed", { attempts: 0 }]], "unknown token", []]);
    equal([client.connectionState, client.lastError === refused], ["closed", true]);
    // The timeout also covers the wait for the first event.
    const silent = failure(client.connect({ retry: false }));
    Socket.last.select();
    clock.advance(10_000);
    equal((await silent)[0], "TIMEOUT");
  }),

  "every close code is retried, but 4401 and 4403": onClock(async (clock) => {
    const codes = [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4400, 4402, 4404, 4999];
    for (const code of [...codes, 4401, 4403]) {
      const isEnd = code === 4401 || code === 4403;
      // A connection is lost.
      const { client, log, reasons, socket } = await connected({ token: "t" });
      const call = client.sendMessage("a");
      socket.end(code, "why");
      equal((await failure(call)), ["CONNECTION_CLOSED", "connection lost: why"]);
      const names = log.take().map(([name]) => name);
      equal([names, clock.left.length], isEnd ? [["closed", "failed"], 0] : [["closed", "reconnecting"], 1], code);
      const codeOfError = { 4401: "UNAUTHORIZED", 4403: "FORBIDDEN" }[code] ?? "CONNECTION_CLOSED";
      const [, reason, error] = reasons.at(-1);
      equal([reason, error.code, error.details], ["why", codeOfError, { code, reason: "why" }]);
      equal(client.connectionState, isEnd ? "closed" : "connecting");
      client.disconnect();
      equal(client.lastError, undefined);
      // An attempt is refused, also when attempts go on.
      const other = fake();
      const first = failure(other.client.connect());
      other.Socket.last.end();
      await first;
      clock.advance(1000);
      const joined = failure(other.client.connect());
      other.Socket.last.select();
      other.Socket.last.end(code, "");
      if (isEnd) equal((await joined)[0], codeOfError);
      equal(other.client.connectionState, isEnd ? "closed" : "connecting", code);
      other.client.disconnect();
      await joined;
      equal(clock.left, []);
    }
  }),

  "after 4401 the token function is asked once more": onClock(async (clock) => {
    const given = ["stale", "fresh"];
    const parts = fake({ token: () => given.shift() });
    const { Socket, client, log } = parts;
    const connecting = client.connect();
    await settled();
    Socket.last.select();
    Socket.last.end(4401, "expired");
    await greet(parts);
    await connecting;
    equal([tokens(Socket), log.take(), clock.left], [["stale", "fresh"], [["open", {}]], []]);

    // Both are refused.
    const refused = fake({ token: () => "wrong" });
    const failed = failure(refused.client.connect());
    for (const made of [1, 2]) {
      await settled();
      equal(refused.Socket.made.length, made);
      refused.Socket.last.select();
      refused.Socket.last.end(4401, "unknown");
    }
    equal(await failed, ["UNAUTHORIZED", "cannot connect to ws://test: unknown"]);
    equal([refused.log.take(), clock.left], [[["failed", { attempts: 0 }]], []]);
    await settled();
    equal(refused.Socket.made.length, 2);

    // 4403 is not about the token.
    const forbidden = fake({ token: () => "right" });
    const outcome = failure(forbidden.client.connect());
    await settled();
    forbidden.Socket.last.select();
    forbidden.Socket.last.end(4403, "");
    equal(await outcome, ["FORBIDDEN", "cannot connect to ws://test: access refused"]);
    equal(forbidden.Socket.made.length, 1);
  }),

  "a connection whose credential has expired is opened with another": onClock(async (clock) => {
    let round = 0;
    const parts = fake({ token: () => `t${round++}` });
    const { Socket, client, log } = parts;
    client.connect();
    await greet(parts);
    for (let turn = 1; turn <= 30; turn++) {
      // Each lives long enough, so this can go on for a week.
      clock.advance(5000);
      Socket.last.end(4401, "credential expired");
      await greet(parts);
    }
    equal([Socket.made.length, clock.left], [31, []]);
    log.take();
    // One that expires immediately is not renewed in a loop: there are pauses, and an end.
    for (let turn = 1; turn <= 10; turn++) {
      Socket.last.end(4401, "credential expired");
      equal(log.take().at(-1)[1].attempt, turn);
      clock.advance(clock.left[0]);
      await greet(parts);
    }
    Socket.last.end(4401, "credential expired");
    equal([log.take().at(-1), clock.left], [["failed", { attempts: 10 }], []]);
  }),

  "auth:expiring sends another token on the open connection": onClock(async (clock) => {
    let round = 0;
    const parts = fake({ token: async () => `t${round++}` });
    const { Socket, client, log } = parts;
    client.connect();
    await greet(parts);
    const socket = Socket.last;
    const call = client.sendMessage("slow");
    for (const token of ["t1", "t2"]) {
      socket.receive(expiring(2000));
      // A second one meanwhile does not ask again.
      socket.receive(expiring(1900));
      await settled();
      const { channel, payload, type } = socket.sent.at(-1);
      equal([type, channel, payload], ["request", "auth", { token }]);
      socket.answer({ authenticated: true });
      await settled();
    }
    socket.answer("in time", socket.sent[0]);
    equal([await call, Socket.made.length, socket.sent.length, clock.left], ["in time", 1, 3, []]);
    equal(log.take(), [["open", {}]]);
    // A client with a value has no other token.
    const fixed = await connected({ token: "t" });
    fixed.socket.receive(expiring(2000));
    await settled();
    equal([fixed.socket.sent, clock.left], [[], []]);
  }),

  "a renewal that fails is repeated until the credential expires, and disturbs nothing": onClock(async (clock) => {
    const outcomes = [];
    const cause = new Error("no network");
    const parts = fake({ token: () => outcomes.shift()() });
    const { Socket, client, reasons, log } = parts;
    const [works, fails, hangs] = [() => "t", () => Promise.reject(cause), () => new Promise(() => {})];
    outcomes.push(works);
    client.connect();
    await greet(parts);
    log.take();
    const socket = Socket.last;
    const call = client.sendMessage("slow", undefined, { timeout: 0 });

    outcomes.push(fails, fails, works);
    socket.receive(expiring(4000));
    for (let turn = 1; turn <= 2; turn++) {
      await settled();
      equal([reasons.length, reasons.at(-1)[0], reasons.at(-1)[2].cause === cause], [turn, "auth-failed", true]);
      equal(clock.left, [1000]);
      clock.advance(1000);
    }
    await settled();
    equal(socket.sent.at(-1).channel, "auth");
    socket.answer({ authenticated: true });
    await settled();
    equal([clock.left, client.isConnected], [[], true]);

    // It does not go on after the expiry.
    outcomes.push(fails, fails, fails, fails);
    socket.receive(expiring(4000));
    for (let turn = 0; turn < 10; turn++) {
      await settled();
      clock.advance(1000);
    }
    equal([outcomes.length, reasons.length, clock.left], [0, 6, []]);

    // A refused token is not sent again.
    outcomes.push(works);
    socket.receive(expiring(4000));
    await settled();
    socket.refuse({ code: "UNAUTHORIZED", message: "unknown token" });
    await settled();
    equal([reasons.at(-1)[2].message, clock.left, client.isConnected], ["unknown token", [], true]);

    // Nor is anything left of a renewal when the client disconnects.
    for (const outcome of [hangs, fails]) {
      outcomes.push(outcome);
      socket.receive(expiring(4000));
      await settled();
      equal(clock.left.length, 1);
      if (outcome === fails) client.disconnect();
      else clock.advance(10_000);
      await settled();
    }
    equal([(await failure(call))[0], clock.left], ["CONNECTION_CLOSED", []]);
  }),

  "another token is sent on the open connection, or used for the next attempt": onClock(async (clock) => {
    const { Socket, client, socket, log } = await connected({ token: "old" });
    const call = client.sendMessage("slow");
    const change = client.setToken("new");
    await settled();
    equal([socket.sent.at(-1).channel, socket.sent.at(-1).payload], ["auth", { token: "new" }]);
    socket.answer({ authenticated: true });
    await change;
    socket.answer("undisturbed", socket.sent[0]);
    equal([await call, Socket.made.length, log.take()], ["undisturbed", 1, []]);

    // The server refuses it, or does not know `auth`: the connection stays.
    const refused = client.setToken("wrong");
    await settled();
    socket.refuse({ code: "UNAUTHORIZED", message: "another user" });
    equal(await failure(refused), ["UNAUTHORIZED", "another user"]);
    const unneeded = client.setToken("newer");
    await settled();
    socket.refuse({ code: "UNKNOWN_CHANNEL", message: "No handler for: auth" });
    await unneeded;
    equal([client.isConnected, log.take()], [true, []]);

    socket.end();
    await client.setToken("next");
    clock.advance(1000);
    equal(Socket.last.protocols[1], "bearer.next");
    // While the client connects: the attempt continues, and the token is sent when it has succeeded.
    await client.setToken("last");
    Socket.last.greet();
    await settled();
    equal([Socket.made.length, Socket.last.sent.at(-1).payload], [2, { token: "last" }]);
    client.disconnect();
    await client.setToken(undefined);
    client.connect().catch(() => {});
    equal(Socket.last.protocols, ["switchboard.v1"]);
    client.disconnect();
  }),

  "a client that ended because of its token starts again with another": onClock(async (clock) => {
    const { Socket, client } = fake({ token: "old" });
    const connecting = failure(client.connect());
    Socket.last.select();
    Socket.last.end(4401, "expired");
    equal((await connecting)[0], "UNAUTHORIZED");
    await client.setToken("new");
    equal([Socket.made.length, Socket.last.protocols[1], client.connectionState], [2, "bearer.new", "connecting"]);
    Socket.last.greet();
    equal(client.isConnected, true);
    client.disconnect();
    await client.setToken("newer");
    equal([Socket.made.length, clock.left], [2, []]);
  }),

  "an error has the cause, and no credential": onClock(async () => {
    const { Socket, client } = fake({ url: "wss://user:s3cret@test/path?token=s3cret#x" });
    const connecting = client.connect({ retry: false }).catch((error) => error);
    const cause = new Error("self-signed certificate");
    // In Node 22 no close event follows.
    Socket.last.onerror({ error: cause, message: cause.message });
    const error = await connecting;
    equal([error.message, error.cause === cause], ["cannot connect to wss://test/path: self-signed certificate", true]);
    equal([client.connectionState, Socket.last.closed.length], ["closed", 1]);
    // The same for a URL that the WebSocket class does not accept.
    const wrong = new SyntaxError("not a URL");
    const strict = fake({
      WebSocket: class {
        constructor() {
          throw wrong;
        }
      },
    });
    equal([(await strict.client.connect().catch((error) => error)) === wrong, strict.client.lastError.cause === wrong], [true, true]);
    equal([strict.log.take(), strict.client.connectionState], [[["failed", { attempts: 0 }]], "closed"]);
  }),

  "calls wait for a connection, up to a limit": onClock(async (clock) => {
    const { Socket, client } = fake({ maxQueued: 3, requestTimeout: 5000 });
    const aborted = new AbortController();
    const calls = [client.sendMessage("a"), client.sendMessage("b", null, aborted)];
    const connecting = client.connect();
    calls.push(client.sendMessage("c"));
    equal(await failure(client.sendMessage("d")), ["CONNECTION_CLOSED", "not connected, and 3 calls wait already"]);
    aborted.abort();
    equal((await failure(calls[1]))[0], "ABORTED");
    calls.push(client.sendMessage("e"));
    Socket.last.select();
    equal(Socket.last.sent, []);
    client.once("connection:open", () => client.sendMessage("f").catch(() => {}));
    Socket.last.greet();
    await connecting;
    equal(Socket.last.sent.map(({ channel }) => channel), ["a", "c", "e", "f"]);
    for (const request of Socket.last.sent) Socket.last.answer(request.channel, request);
    equal([await calls[0], await calls[2], await calls[3], clock.left], ["a", "c", "e", []]);

    // Calls in flight fail with their connection; those that wait are sent on the next one, unless they are too late.
    const inFlight = client.sendMessage("g");
    Socket.last.end();
    equal((await failure(inFlight))[0], "CONNECTION_CLOSED");
    const late = failure(client.sendMessage("h", null, { timeout: 900 }));
    const waiting = client.sendMessage("i");
    clock.advance(1000);
    equal((await late)[0], "TIMEOUT");
    Socket.last.greet();
    equal(Socket.last.sent.map(({ channel }) => channel), ["i"]);
    Socket.last.answer("i");
    equal(await waiting, "i");

    // They fail when there will be no connection, with the reason.
    Socket.last.end();
    const refused = failure(client.sendMessage("j"));
    clock.advance(1500);
    Socket.last.select();
    Socket.last.end(4403, "banned");
    equal(await refused, ["FORBIDDEN", "cannot connect to ws://test: banned"]);
    equal(await failure(client.sendMessage("k")), ["CONNECTION_CLOSED", "not connected"]);
    client.connect().catch(() => {});
    const disconnected = failure(client.sendMessage("l"));
    client.disconnect();
    equal([await disconnected, clock.left], [["CONNECTION_CLOSED", "disconnected"], []]);
  }),
};
