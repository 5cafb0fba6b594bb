/**
 * A client of a Switchboard server, for browsers and Node. Input: calls and subscriptions. Output: promises and events.
 * It opens one socket at a time, sends only what it is asked to send, and has no timer running after `disconnect`.
 *
 *     const client = new WSClient({ url: "ws://localhost:3001" });
 *     client.onMessage("chat:created", (chat) => console.log("new:", chat.title));
 *     await client.connect();
 *     const chats = await client.sendMessage("chat:list", { limit: 5 });
 *
 * In addition to the events of the server, a client emits its own:
 *
 * | channel | payload | when |
 * |---|---|---|
 * | `connection:open` | `{}` | the socket is open |
 * | `connection:closed` | `{code, reason}` | an open socket has closed |
 * | `connection:reconnecting` | `{attempt, delayMs}` | the next attempt starts after `delayMs` |
 * | `connection:failed` | `{attempts}` | the last attempt has failed; the client does not try again |
 */

/** The longest pause between two attempts. */
const MAX_DELAY_MS = 30_000;
/** The longest time that a timer supports; a longer one would fire immediately. */
const MAX_TIMER_MS = 2 ** 31 - 1;
/** A longer code is not one that a server means; the longest known one has 17 characters. */
const MAX_CODE_LENGTH = 64;
const OPEN = 1;
/** Indexed by `readyState`. */
const STATES = ["connecting", "open", "closing", "closed"];
/** The characters allowed in a subprotocol (RFC 9110, section 5.6.2). */
const TOKEN = /^[-!#$%&'*+.^_`|~0-9A-Za-z]+$/;

/**
 * The reason why a call, or an attempt to connect, failed.
 *
 * `code` is a code of the server (`UNKNOWN_CHANNEL`, `HANDLER_ERROR`, `INVALID_MESSAGE`, `RATE_LIMITED`, `UNAUTHORIZED`, …) or of
 * the client: `TIMEOUT`, `CONNECTION_CLOSED`, `ABORTED`, and `INVALID_MESSAGE` for a payload that JSON cannot represent.
 * `details` comes from the server; `channel` is the channel that was called.
 */
export class WSClientError extends Error {
  constructor(code, message, { channel, details, cause } = {}) {
    super(message, { cause });
    this.name = "WSClientError";
    this.code = code;
    this.channel = channel;
    this.details = details;
  }
}

export class WSClient {
  #url;
  #protocols;
  #options;

  #socket = null;
  /** Whether `#socket` has been open. */
  #wasOpen = false;
  /** Whether the client tries again when `#socket` closes, or cannot be opened. */
  #persists = false;
  /** Attempts to reconnect since the last connection that was stable. */
  #attempts = 0;
  /** The time of `server:connected` on `#socket`. */
  #greetedAt;
  #retryTimer;
  #connectTimer;
  /** The promise that callers of `connect` wait for: `{promise, resolve, reject}`. */
  #opening = null;

  /** Calls in flight, by id. */
  #pending = new Map();
  /** Sets of `{callback}`, by channel. Each is an object of its own, so that one function can subscribe twice. */
  #listeners = new Map();

  /**
   * Creates a client, not yet connected. All times are in milliseconds.
   *
   * @param {object} options
   * @param {string} options.url `ws://host:port` or `wss://…`
   * @param {string} [options.token] sent as subprotocol `bearer.TOKEN`: browsers cannot set headers
   * @param {boolean} [options.reconnect] whether to reconnect after a lost connection; default true
   * @param {number} [options.reconnectInterval] pause before the first attempt; each further pause is 1.5 times as long,
   *   varied by up to 20 %, at most 30 000; default 1000
   * @param {number} [options.maxReconnectAttempts] attempts before `connection:failed`; default 10
   * @param {number} [options.stableAfter] the count of attempts starts again after a connection that lived this long after
   *   `server:connected`; default 5000
   * @param {number} [options.requestTimeout] the longest time for a call; 0 waits until the connection closes; default 30 000
   * @param {number} [options.connectTimeout] the longest time for one attempt; 0 leaves it to the browser; default 10 000
   * @param {Function} [options.WebSocket] the class to use; default the global one
   * @throws {TypeError} if there is no URL, or the token has characters that a subprotocol cannot have
   */
  constructor({
    url,
    token,
    reconnect = true,
    reconnectInterval = 1000,
    maxReconnectAttempts = 10,
    stableAfter = 5000,
    requestTimeout = 30_000,
    connectTimeout = 10_000,
    WebSocket,
  }) {
    if (!url) throw new TypeError("WSClient needs a url");
    if (token !== undefined && !TOKEN.test(token)) {
      throw new TypeError("the token has characters that are not allowed in a subprotocol");
    }
    this.#url = String(url);
    this.#protocols = token === undefined ? [] : ["switchboard.v1", `bearer.${token}`];
    this.#options = {
      reconnect,
      reconnectInterval,
      maxReconnectAttempts,
      stableAfter,
      requestTimeout,
      connectTimeout,
      WebSocket,
    };
  }

  /** Whether the socket is open, so that calls can be sent. */
  get isConnected() {
    return this.#socket?.readyState === OPEN;
  }

  /** `"connecting"`, `"open"`, `"closing"` or `"closed"`. While the client waits for its next attempt: connecting. */
  get connectionState() {
    if (this.#socket) return STATES[this.#socket.readyState];
    return this.#persists ? "connecting" : "closed";
  }

  /**
   * Connects, unless the client is connected. Waits for an attempt that is in progress. A client that waits to reconnect
   * tries immediately.
   *
   * @param {object} [options]
   * @param {boolean} [options.retry] whether to try again if the first attempt fails, as after a lost connection;
   *   default false
   * @returns {Promise<void>} resolves when the socket is open. Rejects with a `WSClientError` when the attempt has failed
   *   (`CONNECTION_CLOSED`, `TIMEOUT`) and no other follows, or when `disconnect` was called; with the error of the
   *   WebSocket class if it does not accept the URL
   */
  async connect({ retry = false } = {}) {
    if (this.isConnected) return;
    // It is closing. Treat it as closed, so that there is one socket at a time.
    if (this.#socket?.readyState > OPEN) this.#handleClose(this.#socket, { code: 1006, reason: "" });
    if (!this.#socket) this.#open();
    this.#persists ||= retry;
    this.#opening ??= deferred();
    await this.#opening.promise;
  }

  /** Closes the connection, or stops trying to connect. Calls in flight fail with `CONNECTION_CLOSED`. */
  disconnect() {
    const socket = this.#socket;
    const wasOpen = this.#forgetSocket("disconnected");
    this.#persists = false;
    this.#attempts = 0;
    this.#settleOpening(new WSClientError("CONNECTION_CLOSED", "disconnected"));
    socket?.close(1000);
    if (wasOpen) this.#emit("connection:closed", { code: 1000, reason: "" });
  }

  /**
   * Sends a request.
   *
   * @param {string} channel
   * @param {unknown} [payload] any value that JSON can represent; undefined is omitted
   * @param {object} [options]
   * @param {number} [options.timeout] milliseconds, instead of `requestTimeout`
   * @param {AbortSignal} [options.signal] stops waiting; the server is not notified
   * @returns {Promise<unknown>} the response's payload; rejects with a `WSClientError`
   */
  sendMessage(channel, payload, { timeout = this.#options.requestTimeout, signal } = {}) {
    return new Promise((resolve, reject) => {
      const refuse = (code, message, more) => reject(new WSClientError(code, message, { channel, ...more }));
      if (signal?.aborted) return refuse("ABORTED", "aborted", { cause: signal.reason });
      if (!this.isConnected) return refuse("CONNECTION_CLOSED", "not connected");
      const id = newId();
      let text;
      try {
        text = JSON.stringify({ type: "request", id, channel, payload, timestamp: Date.now() });
      } catch (cause) {
        return refuse("INVALID_MESSAGE", "the payload cannot be written as JSON", { cause });
      }
      const forget = () => {
        this.#pending.delete(id);
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
      };
      const fail = (...why) => {
        forget();
        refuse(...why);
      };
      const answer = (payload) => {
        forget();
        resolve(payload);
      };
      const abort = () => fail("ABORTED", "aborted", { cause: signal.reason });
      const timer = after(timeout, () => fail("TIMEOUT", `no answer within ${timeout} ms`));
      signal?.addEventListener("abort", abort);
      this.#pending.set(id, { answer, fail });
      this.#socket.send(text);
    });
  }

  /**
   * Subscribes to an event; `"*"` means all of them, including those of the client. Listeners are called in the order in
   * which they subscribed. If one throws, the error is logged to the console and the next one is called.
   *
   * @param {string} channel
   * @param {(payload: unknown, channel: string) => void} callback
   * @returns {() => void} ends the subscription
   */
  onMessage(channel, callback) {
    const listener = { callback };
    if (!this.#listeners.has(channel)) this.#listeners.set(channel, new Set());
    this.#listeners.get(channel).add(listener);
    return () => {
      const listeners = this.#listeners.get(channel);
      if (listeners?.delete(listener) && listeners.size === 0) this.#listeners.delete(channel);
    };
  }

  /** As `onMessage`, but only for the next event. */
  once(channel, callback) {
    const unsubscribe = this.onMessage(channel, (payload, from) => {
      unsubscribe();
      callback(payload, from);
    });
    return unsubscribe;
  }

  /** Ends every subscription to a channel. */
  offMessage(channel) {
    this.#listeners.delete(channel);
  }

  #open() {
    this.#stopTimers();
    // Looked up only here: a client can also be created where there is no WebSocket, as in server-side rendering.
    const { WebSocket = globalThis.WebSocket, connectTimeout } = this.#options;
    if (!WebSocket) throw new TypeError("there is no global WebSocket: pass a class as option WebSocket");
    const socket = new WebSocket(this.#url, this.#protocols);
    this.#socket = socket;
    this.#connectTimer = after(connectTimeout, () => {
      const error = new WSClientError("TIMEOUT", `no connection to ${this.#url} within ${connectTimeout} ms`);
      this.#handleClose(socket, { code: 1006, reason: "" }, error);
      socket.close();
    });
    socket.onopen = () => this.#handleOpen(socket);
    socket.onmessage = ({ data }) => socket === this.#socket && this.#handleMessage(data);
    socket.onclose = (event) => this.#handleClose(socket, event);
    // A close event follows and is enough. In Node an error event without a listener ends the process.
    socket.onerror = () => {};
  }

  #handleOpen(socket) {
    if (socket !== this.#socket) return;
    this.#stopTimers();
    this.#wasOpen = true;
    this.#persists = this.#options.reconnect;
    this.#settleOpening();
    this.#emit("connection:open", {});
  }

  /** Handles the end of a socket, or of an attempt. Listeners can call `connect` or `disconnect` meanwhile. */
  #handleClose(socket, { code, reason }, error) {
    if (socket !== this.#socket) return;
    // Not before: else a server that accepts connections and drops them would be tried forever.
    if (performance.now() - this.#greetedAt >= this.#options.stableAfter) this.#attempts = 0;
    const wasOpen = this.#forgetSocket("connection lost", { code, reason });
    if (wasOpen) this.#emit("connection:closed", { code, reason });
    if (this.#socket) return;
    if (this.#persists) this.#retryLater();
    else this.#settleOpening(error ?? new WSClientError("CONNECTION_CLOSED", `cannot connect to ${this.#url}`));
  }

  #retryLater() {
    const { reconnectInterval, maxReconnectAttempts } = this.#options;
    const attempts = this.#attempts;
    if (attempts >= maxReconnectAttempts) {
      this.#attempts = 0;
      this.#persists = false;
      this.#settleOpening(new WSClientError("CONNECTION_CLOSED", `no connection after ${attempts} more attempts`));
      this.#emit("connection:failed", { attempts });
      return;
    }
    // The clients of a restarted server must not all connect at the same moment.
    const jitter = 0.8 + 0.4 * Math.random();
    const delay = Math.min(reconnectInterval * 1.5 ** attempts, MAX_DELAY_MS);
    const delayMs = Math.min(Math.round(delay * jitter), MAX_DELAY_MS);
    this.#attempts += 1;
    this.#retryTimer = setTimeout(this.#retryNow, delayMs);
    globalThis.addEventListener?.("online", this.#retryNow);
    this.#emit("connection:reconnecting", { attempt: this.#attempts, delayMs });
  }

  #retryNow = () => this.#open();

  #stopTimers() {
    clearTimeout(this.#connectTimer);
    clearTimeout(this.#retryTimer);
    globalThis.removeEventListener?.("online", this.#retryNow);
  }

  /** Forgets the socket and fails the calls in flight. Returns whether it was open. */
  #forgetSocket(why, details) {
    const wasOpen = this.#wasOpen;
    this.#socket = null;
    this.#wasOpen = false;
    this.#greetedAt = undefined;
    this.#stopTimers();
    for (const { fail } of [...this.#pending.values()]) fail("CONNECTION_CLOSED", why, { details });
    return wasOpen;
  }

  #settleOpening(error) {
    const opening = this.#opening;
    this.#opening = null;
    if (error) opening?.reject(error);
    else opening?.resolve();
  }

  #handleMessage(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch (error) {
      console.error("[WS Client] Message is not JSON:", error);
      return;
    }
    if (message?.type === "response") this.#handleResponse(message);
    if (message?.type !== "event") return;
    if (message.channel === "server:connected") this.#greetedAt ??= performance.now();
    this.#emit(message.channel, message.payload);
  }

  #handleResponse({ id, payload, error }) {
    const request = this.#pending.get(id) ?? this.#pending.get(refusedId(error));
    if (error === undefined) request?.answer(payload);
    else request?.fail(...readError(error));
  }

  #emit(channel, payload) {
    const of = (name) => [...(this.#listeners.get(name) ?? [])].map((listener) => ({ name, listener }));
    for (const { name, listener } of [...of(channel), ...of("*")]) {
      // An earlier listener can have unsubscribed it.
      if (!this.#listeners.get(name)?.has(listener)) continue;
      try {
        listener.callback(payload, channel);
      } catch (error) {
        console.error(`[WS Client] Event handler error (${channel}):`, error);
      }
    }
  }
}

/** The id of the call that an error is about, if the server refused the call before it read the id. */
function refusedId(error) {
  const isRefusal = error?.code === "RATE_LIMITED" || error?.code === "INVALID_MESSAGE";
  return isRefusal ? error.details?.requestId : undefined;
}

/**
 * The code, the message and the details of an error. What a server sends that is not an error of the protocol becomes a
 * `HANDLER_ERROR` whose details are what came.
 */
function readError(error) {
  const { code, message, details } = error ?? {};
  const isCode = typeof code === "string" && code.length > 0 && code.length <= MAX_CODE_LENGTH;
  const isMessage = typeof message === "string";
  return [
    isCode ? code : "HANDLER_ERROR",
    isMessage ? message : "the server gave no reason",
    { details: details ?? (isCode && isMessage ? undefined : error) },
  ];
}

/** Starts a timer, unless `ms` is 0. */
function after(ms, callback) {
  return ms > 0 ? setTimeout(callback, Math.min(ms, MAX_TIMER_MS)) : undefined;
}

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

function newId() {
  // There is no randomUUID in pages from another host over plain HTTP.
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(16)).join("-");
}
