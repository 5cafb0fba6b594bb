// What src/web/react.js promises, with the real React in StrictMode, against the real server. Runs in a browser.

import { Component, StrictMode, createElement, useEffect, version } from "react";
import { flushSync } from "react-dom";
import { createRoot } from "react-dom/client";

import { WebSocketProvider, useEvent, useRequest, useWebSocket } from "../../src/web/react.js";
import { fakeWebSocket } from "./fakes.mjs";
import { Log, equal, failure, settled, within } from "./check.mjs";

const RealWebSocket = globalThis.WebSocket;

/** Counts the sockets that were created, and knows which are not closed. */
class Sockets {
  made = 0;
  #open = new Set();
  #changed = new Log();

  constructor() {
    const sockets = this;
    globalThis.WebSocket = class extends RealWebSocket {
      constructor(...args) {
        super(...args);
        sockets.made += 1;
        sockets.#open.add(this);
        this.addEventListener("close", () => {
          sockets.#open.delete(this);
          sockets.#changed.add(sockets.#open.size);
        });
      }
    };
  }

  async closed() {
    if (this.#open.size > 0) await this.#changed.until((left) => left === 0, "the end of all sockets");
  }
}

/** The delays of timers that are still running; those of React are short. */
class Timers {
  #left = new Map();

  constructor() {
    const { setTimeout, clearTimeout } = globalThis;
    globalThis.setTimeout = (callback, ms, ...rest) => {
      const id = setTimeout(() => {
        this.#left.delete(id);
        callback(...rest);
      }, ms);
      this.#left.set(id, ms);
      return id;
    };
    globalThis.clearTimeout = (id) => {
      this.#left.delete(id);
      clearTimeout(id);
    };
  }

  get long() {
    return [...this.#left.values()].filter((ms) => ms >= 1000);
  }
}

/** Renders components in StrictMode. `log` has what they note after each commit; `errors` has the errors of React. */
function draw() {
  const log = new Log();
  const errors = [];
  console.error = (...words) => errors.push(words.map(String).join(" "));
  const root = createRoot(document.getElementById("root"));
  return {
    log,
    errors,
    render: (...element) => root.render(createElement(StrictMode, null, createElement(...element))),
    unmount: () => root.unmount(),
  };
}

/** Records values of a component whenever they change. */
function useNote(log, ...values) {
  useEffect(() => log.add(...values), values);
}

export const cases = {
  "a component connects once; unmounting leaves no socket and no timer": async ({ server, react }) => {
    equal(version.split(".")[0], await react());
    const [sockets, timers] = [new Sockets(), new Timers()];
    const { log, errors, render, unmount } = draw();
    const url = await server("start");
    function App() {
      const socket = useWebSocket({ url });
      useNote(log, socket.isConnected, socket);
      return null;
    }
    render(App);
    equal((await log.until(Boolean))[0], false);
    const [, socket] = await log.until(([isConnected]) => isConnected);
    equal(sockets.made, 1);
    equal(typeof (await socket.sendMessage("system:ping")).timestamp, "number");
    equal([Object.keys(socket), timers.long], [
      ["isConnected", "state", "lastError", "sendMessage", "onMessage", "connect", "disconnect"],
      [],
    ]);
    await server("pause");
    const call = failure(socket.sendMessage("system:ping"));
    equal(timers.long, [30_000]);
    unmount();
    equal((await call)[0], "CONNECTION_CLOSED");
    await server("kill");
    await sockets.closed();
    equal([timers.long, errors, sockets.made], [[], [], 1]);
  },

  "isConnected follows a lost connection, and the functions stay": async ({ server }) => {
    const { log, errors, render, unmount } = draw();
    const url = await server("start");
    const functions = new Set();
    function App({ drawn }) {
      const socket = useWebSocket({ url, reconnectInterval: 50, maxReconnectAttempts: 1000 });
      const { isConnected, state, lastError, ...rest } = socket;
      useEffect(() => Object.values(rest).forEach((one) => functions.add(one)));
      useNote(log, isConnected, drawn, socket);
      return null;
    }
    render(App);
    const [, , socket] = await log.until(([isConnected]) => isConnected);
    render(App, { drawn: "again" });
    const [, , again] = await log.until(([, drawn]) => drawn === "again");
    equal(again === socket, true);
    for (let round = 0; round < 2; round++) {
      await server("kill");
      await log.until(([isConnected]) => !isConnected);
      await server("restart");
      await log.until(([isConnected]) => isConnected);
    }
    equal([functions.size, errors], [4, []]);
    unmount();
  },

  "a component unmounted while it waits to reconnect leaves no timer": async ({ server }) => {
    const [sockets, timers] = [new Sockets(), new Timers()];
    const { log, errors, render, unmount } = draw();
    const url = await server("start");
    function App() {
      const { isConnected } = useWebSocket({ url, reconnectInterval: 20_000 });
      useNote(log, isConnected);
      useEffect(() => () => log.add("unmounted"), []);
      return null;
    }
    render(App);
    await log.until((isConnected) => isConnected === true);
    await server("kill");
    await log.until((isConnected) => isConnected === false);
    equal(timers.long.length, 1);
    log.take();
    unmount();
    await log.until((entry) => entry === "unmounted");
    equal([timers.long, sockets.made, errors], [[], 1, []]);
    await sockets.closed();
  },

  "a component that is unmounted immediately creates no socket": async ({ server }) => {
    const sockets = new Sockets();
    const { errors, render, unmount } = draw();
    const url = await server("start");
    function App() {
      useWebSocket({ url });
      return null;
    }
    flushSync(() => render(App));
    unmount();
    await settled();
    equal([sockets.made, errors], [0, []]);
  },

  "a component that is mounted before the server starts connects later": async ({ server }) => {
    const { log, render, unmount } = draw();
    const url = await server("start");
    await server("kill");
    function App() {
      const { isConnected, onMessage } = useWebSocket({ url, reconnectInterval: 50, maxReconnectAttempts: 1000 });
      useEffect(() => onMessage("connection:reconnecting", ({ attempt }) => log.add(attempt)), [onMessage]);
      useNote(log, isConnected);
      return null;
    }
    render(App);
    await log.until((attempt) => attempt === 2);
    await server("restart");
    await log.until((isConnected) => isConnected === true);
    unmount();
  },

  "autoConnect: false waits for connect; a new url is a new connection": async ({ server }) => {
    const sockets = new Sockets();
    const { log, errors, render, unmount } = draw();
    const url = await server("start");
    function App({ path = "/" }) {
      const socket = useWebSocket({ url: url + path, autoConnect: path !== "/" });
      useNote(log, socket.isConnected, socket, path);
      return null;
    }
    render(App);
    const [isConnected, socket] = await log.until(Boolean);
    equal([isConnected, sockets.made], [false, 0]);
    await socket.connect();
    await log.until(([isConnected]) => isConnected);
    equal(sockets.made, 1);
    socket.disconnect();
    await log.until(([isConnected]) => !isConnected);
    render(App, { path: "/other" });
    const [, other] = await log.until(([isConnected, , path]) => isConnected && path === "/other");
    equal([other.sendMessage === socket.sendMessage, sockets.made, errors], [false, 2, []]);
    unmount();
    await sockets.closed();
  },

  "a child receives events with its latest function": async ({ server }) => {
    const { log, errors, render, unmount } = draw();
    const url = await server("start");
    function Child({ word, socket }) {
      useEvent("settings:changed", ({ key }, channel) => log.add(word, key, channel), socket);
      useNote(log, "drawn", word);
      return null;
    }
    function Sender() {
      const { isConnected, sendMessage } = useWebSocket();
      useNote(log, "sender", isConnected, sendMessage);
      return null;
    }
    function Own({ word }) {
      return createElement(Child, { word, socket: useWebSocket({ url }) });
    }
    const app = (word) => [
      WebSocketProvider,
      { url, key: "app" },
      createElement(Child, { word, key: "child" }),
      createElement(Sender, { key: "sender" }),
    ];
    render(...app("first"));
    const [, , send] = await log.until(([name, isConnected]) => name === "sender" && isConnected);
    await send("settings:set", { key: "a", value: 1 });
    equal(await log.until(([name]) => name === "first"), ["first", "a", "settings:changed"]);
    render(...app("second"));
    await log.until(([name, word]) => name === "drawn" && word === "second");
    log.take();
    await send("settings:set", { key: "b", value: 1 });
    // Each event is received once, also in StrictMode.
    equal(log.take(), [["second", "b", "settings:changed"]]);

    // With a socket as argument no provider is needed.
    render(Own, { word: "own" });
    await log.until(([name, word]) => name === "drawn" && word === "own");
    equal(errors, []);
    unmount();
  },

  "useRequest never returns the response to another request": async ({ server }) => {
    const { log, errors, render, unmount } = draw();
    const url = await server("start");
    function Setting({ name, limit }) {
      const setting = useRequest("settings:get", { key: name });
      const chats = useRequest("chat:list", { limit });
      const { sendMessage } = useWebSocket();
      useNote(log, name, setting.data, setting.loading, setting.error?.code, setting.refetch, sendMessage);
      useNote(log, "chats", chats.data?.length, chats.loading, chats.error?.code, limit);
      return null;
    }
    const app = (name, limit = 5) => [WebSocketProvider, { url }, createElement(Setting, { name, limit })];
    render(...app("theme"));
    const first = await log.until(([name, , loading]) => name === "theme" && loading !== undefined);
    equal(first.slice(0, 4), ["theme", undefined, true, undefined]);
    const [, data, , error, refetch, sendMessage] = await log.until(([name, , loading]) => name === "theme" && !loading);
    equal([data, error], ["system", undefined]);

    // The old response is kept while the same request is repeated.
    await sendMessage("settings:set", { key: "theme", value: "dark" });
    log.take();
    refetch();
    equal((await log.until(([name]) => name === "theme")).slice(1, 3), ["system", true]);
    equal((await log.until(([name]) => name === "theme")).slice(1, 3), ["dark", false]);

    // It is not kept for another request.
    render(...app("language"));
    equal((await log.until(([name]) => name === "language")).slice(1, 3), [undefined, true]);
    equal((await log.until(([name, , loading]) => name === "language" && !loading)).slice(1, 3), ["en", false]);

    render(...app("language", 0));
    equal((await log.until(([name, , , , limit]) => name === "chats" && limit === 0)).slice(1, 3), [undefined, true]);
    const failed = await log.until(([name, , loading, , limit]) => name === "chats" && limit === 0 && !loading);
    equal(failed.slice(1, 4), [undefined, false, "HANDLER_ERROR"]);
    render(...app("language", 1));
    equal((await log.until(([name, , loading, , limit]) => name === "chats" && limit === 1 && !loading)).slice(1, 4), [
      0,
      false,
      undefined,
    ]);
    equal(errors, []);
    unmount();
  },

  "useRequest repeats its request after a reconnect": async ({ server }) => {
    const { log, errors, render, unmount } = draw();
    const url = await server("start");
    function Setting() {
      const { data, loading, error } = useRequest("settings:get", { key: "theme" });
      const { isConnected, sendMessage } = useWebSocket();
      useNote(log, isConnected, data, loading, error?.code, sendMessage);
      return null;
    }
    render(WebSocketProvider, { url, reconnectInterval: 50, maxReconnectAttempts: 1000 }, createElement(Setting));
    const [, , , , sendMessage] = await log.until(([, data]) => data === "system");
    await sendMessage("settings:set", { key: "theme", value: "light" });
    await server("kill");
    equal((await log.until(([isConnected]) => !isConnected)).slice(0, 4), [false, "system", false, undefined]);
    await server("restart");
    equal((await log.until(([, data]) => data === "light")).slice(0, 4), [true, "light", false, undefined]);
    equal(errors, []);
    unmount();
  },

  "a request that is lost with its connection fails and is repeated": async ({ server }) => {
    const { log, render, unmount } = draw();
    const url = await server("start");
    function Setting({ name }) {
      const { data, loading, error } = useRequest("settings:get", { key: name });
      useNote(log, name, data, loading, error?.code);
      return null;
    }
    const options = { url, reconnectInterval: 50, maxReconnectAttempts: 1000 };
    const app = (name) => [WebSocketProvider, options, createElement(Setting, { name })];
    render(...app("theme"));
    await log.until(([, data]) => data === "system");
    await server("pause");
    render(...app("language"));
    // The effect that sends the request runs before the one that records.
    await log.until(([name]) => name === "language");
    await server("kill");
    equal((await log.until(([, , loading]) => !loading)).slice(1), [undefined, false, "CONNECTION_CLOSED"]);
    await server("restart");
    equal((await log.until(([, data]) => data !== undefined)).slice(1), ["en", false, undefined]);
    unmount();
  },

  "a replaced request is aborted silently": async ({ server }) => {
    const timers = new Timers();
    const { log, render, unmount } = draw();
    const url = await server("start");
    function Setting({ name, path }) {
      const { data, loading, error, refetch } = useRequest("settings:get", { key: name });
      useNote(log, name, data, loading, error?.code, refetch, path);
      return null;
    }
    const app = (name, path) => [WebSocketProvider, { url: url + path }, createElement(Setting, { name, path })];
    render(...app("theme", "/"));
    const [, , , , refetch] = await log.until(([, data]) => data === "system");
    await server("pause");
    log.take();
    refetch();
    await log.until(([, , loading]) => loading);
    render(...app("language", "/"));
    await log.until(([name]) => name === "language");
    // Only one request is in flight.
    equal(timers.long, [30_000]);
    // Another connection, not yet open.
    render(...app("language", "/other"));
    await log.until(([, , , , , path]) => path === "/other");
    await settled();
    render(...app("language", "/third"));
    const seen = await log.until(([, , , , , path]) => path === "/third");
    equal(seen.slice(1, 4), [undefined, true, undefined]);
    unmount();
  },

  "state and lastError follow the client; a failed connection ends loading with its error": async () => {
    const timers = new Timers();
    const { log, errors, render, unmount } = draw();
    const Socket = (globalThis.WebSocket = fakeWebSocket());
    function Chats() {
      const socket = useWebSocket();
      const { data, loading, error } = useRequest("chat:list");
      useNote(log, socket.state, socket.lastError?.code, data, loading, error?.code, socket);
      return null;
    }
    render(WebSocketProvider, { url: "ws://test", token: () => "t" }, createElement(Chats));
    const shown = async (state) => (await log.until(([now]) => now === state)).slice(0, 5);
    equal(await shown("connecting"), ["connecting", undefined, undefined, true, undefined]);
    for (let attempt = 0; attempt < 2; attempt++) {
      await settled();
      Socket.last.select();
      Socket.last.end(4401, "unknown token");
    }
    equal(await shown("closed"), ["closed", "UNAUTHORIZED", undefined, false, "UNAUTHORIZED"]);
    const [, , , , , socket] = await (render(WebSocketProvider, { url: "ws://test/2" }, createElement(Chats)),
    log.until(([state]) => state === "connecting"));
    Socket.last.greet();
    equal(await shown("open"), ["open", undefined, undefined, true, undefined]);
    Socket.last.answer([]);
    await log.until(([, , data]) => data);
    Socket.last.end(4403, "banned");
    // The response that was there stays.
    equal(await shown("closed"), ["closed", "FORBIDDEN", [], false, undefined]);
    socket.connect().catch(() => {});
    equal(await shown("connecting"), ["connecting", "FORBIDDEN", [], false, undefined]);
    socket.disconnect();
    equal(await shown("closed"), ["closed", undefined, [], false, undefined]);
    equal([timers.long, errors], [[], []]);
    unmount();
  },

  "another token keeps the connection and its calls": async () => {
    const { log, errors, render, unmount } = draw();
    const Socket = (globalThis.WebSocket = fakeWebSocket());
    function App({ token, drawn }) {
      const socket = useWebSocket({ url: "ws://test", token });
      useNote(log, drawn, socket.isConnected, socket.sendMessage);
      return null;
    }
    const draws = async (token, drawn) => {
      render(App, { token, drawn });
      await log.until(([now]) => now === drawn);
      await settled();
    };
    await draws("one", 1);
    Socket.last.greet();
    const [, , sendMessage] = await log.until(([, isConnected]) => isConnected);
    const call = sendMessage("slow");
    const socket = Socket.last;
    await draws("two", 2);
    equal([socket.sent.at(-1).channel, socket.sent.at(-1).payload], ["auth", { token: "two" }]);
    socket.answer({ authenticated: true });
    // Functions differ in every render; that is not another token. It is sent once, as the first function.
    await draws(() => "three", 3);
    equal([socket.sent.length, socket.sent.at(-1).payload], [3, { token: "three" }]);
    socket.answer({ authenticated: true });
    await draws(() => "four", 4);
    equal(socket.sent.length, 3);
    socket.receive({ type: "event", channel: "auth:expiring", payload: { inMs: 2000 } });
    await settled();
    equal(socket.sent.at(-1).payload, { token: "four" });
    socket.answer({ authenticated: true });
    socket.answer("undisturbed", socket.sent[0]);
    equal([await call, Socket.made.length], ["undisturbed", 1]);

    // One that the server does not accept on this connection, such as that of another user, needs another connection.
    await draws("other", 5);
    socket.refuse({ code: "UNAUTHORIZED", message: "another user" });
    await settled();
    equal([Socket.made.length, socket.closed, Socket.last.protocols[1]], [2, [[1000]], "bearer.other"]);
    Socket.last.greet();
    // So does none at all.
    await draws(undefined, 6);
    equal([Socket.made.length, Socket.last.protocols], [3, ["switchboard.v1"]]);
    equal(errors, []);
    unmount();
  },

  "a request that is not enabled is not sent": async () => {
    const { log, errors, render, unmount } = draw();
    const Socket = (globalThis.WebSocket = fakeWebSocket());
    function Chat({ id }) {
      const socket = useWebSocket({ url: "ws://test" });
      const { data, loading } = useRequest("chat:get", { id }, { enabled: Boolean(id), socket });
      useNote(log, id, socket.isConnected, data, loading);
      return null;
    }
    render(Chat, {});
    await log.until(([, isConnected]) => isConnected === false);
    await settled();
    Socket.last.greet();
    equal(await log.until(([, isConnected]) => isConnected), [undefined, true, undefined, false]);
    equal(Socket.last.sent, []);
    render(Chat, { id: "1" });
    equal(await log.until(([id]) => id), ["1", true, undefined, true]);
    await settled();
    equal(Socket.last.sent.map(({ payload }) => payload), [{ id: "1" }]);
    Socket.last.answer({ title: "one" });
    equal(await log.until(([, , data]) => data), ["1", true, { title: "one" }, false]);
    equal(errors, []);
    unmount();
  },

  "without a provider the hooks throw a clear error": async () => {
    const { log, render, unmount } = draw();
    class Boundary extends Component {
      state = {};
      static getDerivedStateFromError = (error) => ({ error });
      render() {
        if (this.state.error) log.add(this.state.error.message);
        return this.state.error ? null : this.props.children;
      }
    }
    function Lost() {
      useRequest("chat:list");
      return null;
    }
    render(Boundary, null, createElement(Lost));
    equal((await within(log.until(() => true), "the error")).startsWith("there is no WebSocketProvider"), true);
    unmount();
  },
};
