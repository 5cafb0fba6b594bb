/**
 * A client of a Switchboard server, for browsers and for Node. In: calls and subscriptions. Out: promises and events.
 * It opens one socket at a time, sends nothing unasked, and leaves no timer behind when it is disconnected.
 *
 *     const client = new WSClient({ url: "ws://localhost:3001" });
 *     client.onMessage("chat:created", (chat) => console.log("new:", chat.title));
 *     await client.connect();
 *     const chats = await client.sendMessage("chat:list", { limit: 5 });
 *
 * Beside the server's events a client tells of itself:
 *
 * | channel | payload | when |
 * |---|---|---|
 * | `connection:open` | `{}` | the socket is open |
 * | `connection:closed` | `{code, reason}` | a socket that was open is closed |
 * | `connection:reconnecting` | `{attempt, delayMs}` | it will be tried again after so long |
 * | `connection:failed` | `{attempts}` | it was tried often enough; nothing more happens by itself |
 */

/** No pause between two attempts is longer. */
const MAX_DELAY_MS = 30_000;
/** Timers that are set to more than this fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;
const OPEN = 1;
/** By `readyState`. */
const STATES = ["connecting", "open", "closing", "closed"];
/** What may stand in a subprotocol (RFC 9110, section 5.6.2). */
const TOKEN = /^[-!#$%&'*+.^_`|~0-9A-Za-z]+$/;

/**
 * Why a call, or an attempt to connect, has failed.
 *
 * `code` is the server's (`UNKNOWN_CHANNEL`, `HANDLER_ERROR`, `INVALID_MESSAGE`, `RATE_LIMITED`, `UNAUTHORIZED`, …) or one
 * of the client's own: `TIMEOUT`, `CONNECTION_CLOSED`, `ABORTED`, and `INVALID_MESSAGE` for a payload that JSON cannot hold.
 * `details` is what the server adds, `channel` the channel that was called.
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
  /** Whether the end of `#socket`, or of the attempt to open it, is followed by another attempt. */
  #persists = false;
  /** Attempts to reconnect since the last `server:connected`. */
  #attempts = 0;
  #retryTimer;
  #connectTimer;
  /** What callers of `connect` wait for: `{promise, resolve, reject}`. */
  #opening = null;

  /** Calls without an answer, by id. */
  #pending = new Map();
  /** Sets of `{callback}`, by channel. An object each, so that one function may subscribe twice. */
  #listeners = new Map();

  /**
   * Makes a client that is not connected yet. All times are in milliseconds.
   *
   * @param {object} options
   * @param {string} options.url `ws://host:port` or `wss://…`
   * @param {string} [options.token] shown as subprotocol `bearer.TOKEN`, where browsers can show one
   * @param {boolean} [options.reconnect] whether a connection that was lost is opened again; default true
   * @param {number} [options.reconnectInterval] pause before the first attempt, each further one half as long again, give or
   *   take a fifth, at most 30 000; default 1000
   * @param {number} [options.maxReconnectAttempts] attempts before `connection:failed`; default 10
   * @param {number} [options.requestTimeout] how long a call may take; 0: as long as the connection lives; default 30 000
   * @param {number} [options.connectTimeout] how long one attempt may take; 0: as long as the browser likes; default 10 000
   * @param {Function} [options.WebSocket] the class to use; default the global one
   * @throws {TypeError} when there is no URL, or the token cannot stand in a subprotocol
   */
  constructor({
    url,
    token,
    reconnect = true,
    reconnectInterval = 1000,
    maxReconnectAttempts = 10,
    requestTimeout = 30_000,
    connectTimeout = 10_000,
    WebSocket,
  }) {
    if (!url) throw new TypeError("WSClient needs a url");
    if (token !== undefined && !TOKEN.test(token)) {
      throw new TypeError("the token has characters that cannot stand in a subprotocol");
    }
    this.#url = String(url);
    this.#protocols = token === undefined ? [] : ["switchboard.v1", `bearer.${token}`];
    this.#options = { reconnect, reconnectInterval, maxReconnectAttempts, requestTimeout, connectTimeout, WebSocket };
  }

  /** Whether calls go through. */
  get isConnected() {
    return this.#socket?.readyState === OPEN;
  }

  /** `"connecting"`, `"open"`, `"closing"` or `"closed"`. A client that waits to try again is connecting. */
  get connectionState() {
    if (this.#socket) return STATES[this.#socket.readyState];
    return this.#persists ? "connecting" : "closed";
  }

  /**
   * Connects, unless it is connected; while an attempt is under way, waits for that one. A client that is waiting to
   * reconnect tries at once.
   *
   * @param {object} [options]
   * @param {boolean} [options.retry] whether a first attempt that fails is followed by others, as after a loss; default
   *   false
   * @returns {Promise<void>} resolves when the socket is open; rejects with a `WSClientError` when the attempt has failed
   *   (`CONNECTION_CLOSED`, `TIMEOUT`) and no other follows, or `disconnect` was called; with what the WebSocket class
   *   throws when it cannot take the URL
   */
  async connect({ retry = false } = {}) {
    if (this.isConnected) return;
    // It is closing. Its end counts as come, so that there is one socket at a time.
    if (this.#socket?.readyState > OPEN) this.#handleClose(this.#socket, { code: 1006, reason: "" });
    if (!this.#socket) this.#open();
    this.#persists ||= retry;
    this.#opening ??= deferred();
    await this.#opening.promise;
  }

  /** Closes the connection, or ends the attempts to get one. Calls without an answer fail with `CONNECTION_CLOSED`. */
  disconnect() {
    const socket = this.#socket;
    const wasOpen = this.#letGo("disconnected");
    this.#persists = false;
    this.#attempts = 0;
    this.#settleOpening(new WSClientError("CONNECTION_CLOSED", "disconnected"));
    socket?.close(1000);
    if (wasOpen) this.#emit("connection:closed", { code: 1000, reason: "" });
  }

  /**
   * Asks the server.
   *
   * @param {string} channel
   * @param {unknown} [payload] anything that JSON can hold; undefined is left out
   * @param {object} [options]
   * @param {number} [options.timeout] milliseconds, instead of `requestTimeout`
   * @param {AbortSignal} [options.signal] gives up waiting; the server is not told
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
   * Subscribes to an event; `"*"` is all of them, those of the client included. Listeners are called in the order of their
   * subscription. One that throws is reported on the console and stops nobody else.
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

  /** As `onMessage`, for the next event alone. */
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
    // Looked up this late, a client can be made where none can connect, as when a page is drawn on a server.
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
    // The close event that follows tells as much. In Node an error without a listener ends the process.
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

  /** The end of a socket, or of an attempt. A listener may call `connect` or `disconnect` on the way. */
  #handleClose(socket, { code, reason }, error) {
    if (socket !== this.#socket) return;
    const wasOpen = this.#letGo("connection lost", { code, reason });
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
    // The clients of a server that comes back should not all knock at the same moment.
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

  /** Forgets the socket and fails what waits for it. Answers whether it had been open. */
  #letGo(why, details) {
    const wasOpen = this.#wasOpen;
    this.#socket = null;
    this.#wasOpen = false;
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
    // Not before: a server that accepts connections and drops them would be tried without end.
    if (message.channel === "server:connected") this.#attempts = 0;
    this.#emit(message.channel, message.payload);
  }

  #handleResponse({ id, payload, error }) {
    const request = this.#pending.get(id) ?? this.#pending.get(refusedId(error));
    if (error) request?.fail(error.code, error.message, { details: error.details });
    else request?.answer(payload);
  }

  #emit(channel, payload) {
    const of = (name) => [...(this.#listeners.get(name) ?? [])].map((listener) => ({ name, listener }));
    for (const { name, listener } of [...of(channel), ...of("*")]) {
      // One called before may have unsubscribed it.
      if (!this.#listeners.get(name)?.has(listener)) continue;
      try {
        listener.callback(payload, channel);
      } catch (error) {
        console.error(`[WS Client] Event handler error (${channel}):`, error);
      }
    }
  }
}

/** The call that an error belongs to whose response has another id: the server refuses some before it reads ids. */
function refusedId(error) {
  const isRefusal = error?.code === "RATE_LIMITED" || error?.code === "INVALID_MESSAGE";
  return isRefusal ? error.details?.requestId : undefined;
}

/** A timer, unless `ms` is 0. */
function after(ms, callback) {
  return ms > 0 ? setTimeout(callback, Math.min(ms, MAX_TIMER_MS)) : undefined;
}

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

function newId() {
  // Pages that came over plain http from another host have no randomUUID.
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(16)).join("-");
}
