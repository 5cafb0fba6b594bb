// A WebSocket class and a clock that are controlled by a test, in Node and in browsers.

/** Returns a class that records its sockets in `made`. The sockets do nothing on their own. */
export function fakeWebSocket() {
  return class FakeSocket {
    static made = [];

    readyState = 0;
    sent = [];
    closed = [];

    constructor(url, protocols) {
      Object.assign(this, { url, protocols });
      FakeSocket.made.push(this);
    }

    static get last() {
      return FakeSocket.made.at(-1);
    }

    send(text) {
      this.sent.push(JSON.parse(text));
    }

    close(...why) {
      this.closed.push(why);
      this.readyState = 2;
    }

    // Called by tests:

    open() {
      this.readyState = 1;
      this.onopen({});
    }

    /** Opens the socket as a Switchboard server does, before its first event. */
    select() {
      this.protocol = "switchboard.v1";
      this.open();
    }

    /** Opens the socket and sends the first event of the server. */
    greet() {
      this.select();
      this.receive({ type: "event", channel: "server:connected", payload: {} });
    }

    receive(message) {
      this.onmessage({ data: typeof message === "string" ? message : JSON.stringify(message) });
    }

    /** Answers the last request, or another one. */
    answer(payload, { id, channel } = this.sent.at(-1)) {
      this.receive({ type: "response", id, channel, payload });
    }

    refuse(error, { id, channel } = this.sent.at(-1)) {
      this.receive({ type: "response", id, channel, error });
    }

    end(code = 1006, reason = "") {
      this.readyState = 3;
      if (code === 1006) this.onerror({});
      this.onclose({ code, reason });
    }
  };
}

/** Replaces the global timers, `performance.now` and `Math.random` until `restore`. */
export class Clock {
  #now = 0;
  #lastId = 0;
  #timers = new Map();
  #real = { setTimeout, clearTimeout, random: Math.random };

  /** The result of `Math.random`. 0.5 means no jitter. */
  random = 0.5;

  constructor() {
    globalThis.setTimeout = (callback, ms) => {
      this.#timers.set(++this.#lastId, { callback, at: this.#now + ms });
      return this.#lastId;
    };
    globalThis.clearTimeout = (id) => this.#timers.delete(id);
    Math.random = () => this.random;
    // It covers the method of the prototype.
    performance.now = () => this.#now;
  }

  restore() {
    const { random, ...timers } = this.#real;
    Object.assign(globalThis, timers);
    Math.random = random;
    delete performance.now;
  }

  /** The remaining time of each timer. */
  get left() {
    return [...this.#timers.values()].map(({ at }) => at - this.#now);
  }

  /** The process is stopped for so long, and then its timers fire before anything else happens. */
  sleep(ms) {
    this.#now += ms;
    this.advance(0);
  }

  /** Advances the time, and fires the timers that are due. */
  advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at);
      if (due.length === 0) break;
      const [id, { callback, at }] = due[0];
      this.#timers.delete(id);
      this.#now = Math.max(this.#now, at);
      callback();
    }
    this.#now = end;
  }
}

/** Records the listeners of the global object, which Node does not have, and fires its events. Ends with `restore`. */
export class GlobalEvents {
  #real = {
    addEventListener: globalThis.addEventListener,
    removeEventListener: globalThis.removeEventListener,
    document: globalThis.document,
  };
  #listeners = new Map();

  constructor() {
    globalThis.addEventListener = (name, listener) => this.#listeners.set(name, listener);
    globalThis.removeEventListener = (name, listener) =>
      this.#listeners.get(name) === listener && this.#listeners.delete(name);
  }

  restore() {
    const { document, ...functions } = this.#real;
    Object.assign(globalThis, functions);
    if (document) delete document.hidden;
    else delete globalThis.document;
  }

  /** The names of the events for which there is a listener. */
  get names() {
    return [...this.#listeners.keys()];
  }

  fire(type, { hidden = false, ...more } = {}) {
    globalThis.document ??= {};
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    this.#listeners.get(type)?.({ type, ...more });
  }
}
