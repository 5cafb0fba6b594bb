// A WebSocket class and a clock that do only what a test says, in Node and in browsers alike.

/** A class whose sockets are kept in `made`, and do nothing by themselves. */
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

    // What a test makes happen:

    open() {
      this.readyState = 1;
      this.onopen({});
    }

    /** As the server greets. */
    greet() {
      this.open();
      this.receive({ type: "event", channel: "server:connected", payload: {} });
    }

    receive(message) {
      this.onmessage({ data: typeof message === "string" ? message : JSON.stringify(message) });
    }

    /** The answer to the call that was sent last, or to another one. */
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

/** Takes the place of the global timers and of `Math.random` until `restore`. */
export class Clock {
  #now = 0;
  #lastId = 0;
  #timers = new Map();
  #real = { setTimeout, clearTimeout, random: Math.random };

  /** What `Math.random` answers: the middle, which takes the jitter away. */
  random = 0.5;

  constructor() {
    globalThis.setTimeout = (callback, ms) => {
      this.#timers.set(++this.#lastId, { callback, at: this.#now + ms });
      return this.#lastId;
    };
    globalThis.clearTimeout = (id) => this.#timers.delete(id);
    Math.random = () => this.random;
  }

  restore() {
    const { random, ...timers } = this.#real;
    Object.assign(globalThis, timers);
    Math.random = random;
  }

  /** How long each timer still has to go. */
  get left() {
    return [...this.#timers.values()].map(({ at }) => at - this.#now);
  }

  /** Lets time pass, and what is due happen. */
  advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at);
      if (due.length === 0) break;
      const [id, { callback, at }] = due[0];
      this.#timers.delete(id);
      this.#now = at;
      callback();
    }
    this.#now = end;
  }
}

/** The listeners that are registered on the global object, which Node's has no place for. Ends with `restore`. */
export class GlobalEvents {
  #real = {
    addEventListener: globalThis.addEventListener,
    removeEventListener: globalThis.removeEventListener,
  };
  #listeners = new Set();

  constructor() {
    globalThis.addEventListener = (name, listener) => name === "online" && this.#listeners.add(listener);
    globalThis.removeEventListener = (_, listener) => this.#listeners.delete(listener);
  }

  restore() {
    Object.assign(globalThis, this.#real);
  }

  get count() {
    return this.#listeners.size;
  }

  online() {
    for (const listener of [...this.#listeners]) listener({ type: "online" });
  }
}
