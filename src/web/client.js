/**
 * A client of a Switchboard server, for browsers and Node. Input: calls and subscriptions. Output: promises and events.
 * It opens one socket at a time, sends only what it is asked to send, and has no timer running after `disconnect`.
 *
 *     const client = new WSClient({ url: "ws://localhost:3001" });
 *     client.onMessage("chat:created", (chat) => console.log("new:", chat.title));
 *     await client.connect();
 *     const chats = await client.sendMessage("chat:list", { limit: 5 });
 *
 * In addition to the events of the server, a client emits its own. `error` is a `WSClientError`; `reason` is the text that the
 * server gave, else the message of the error.
 *
 * | channel | payload | when |
 * |---|---|---|
 * | `connection:connecting` | `{}` | an attempt starts |
 * | `connection:open` | `{}` | the connection is open |
 * | `connection:closed` | `{code, reason}` | a connection that was open has closed |
 * | `connection:reconnecting` | `{attempt, delayMs, reason, error}` | the next attempt starts after `delayMs` |
 * | `connection:failed` | `{attempts, reason, error}` | the client does not try again on its own |
 * | `connection:auth-failed` | `{error}` | a new token could not be sent on the open connection, which stays open |
 *
 * What happens after a connection has closed, or was refused:
 *
 * | close code | meaning | the client |
 * |---|---|---|
 * | 4401 | the credential is missing, wrong or expired | asks the token function once more; without one, or the second time, it ends |
 * | 4403 | the credential is right, and does not give access | ends |
 * | others, or none | the server stops, is overloaded or has closed the connection; the network fails | tries again |
 */

/** The longest pause between two attempts. */
const MAX_DELAY_MS = 30_000;
/** The longest time that a timer supports; a longer one would fire immediately. */
const MAX_TIMER_MS = 2 ** 31 - 1;
/** The longest time for a function that returns a token or a URL, if there is no `connectTimeout`. */
const MAX_ASK_MS = 10_000;
/** A longer code is not one that a server means; the longest known one has 17 characters. */
const MAX_CODE_LENGTH = 64;
/** What a client of this protocol offers, and a Switchboard server selects. */
const SUBPROTOCOL = "switchboard.v1";
/** The close of a connection that was cut. */
const LOST = { code: 1006, reason: "" };
const OPEN = 1;
/** How long a closed connection can wait in Node for the other side to confirm. */
const LINGER_MS = 3000;
/** A timer that fires so late does not end anything yet. */
const LATE_MS = 250;
const TIME_TO_READ_MS = 1000;
/** Indexed by `readyState`. */
const STATES = ["connecting", "open", "closing", "closed"];
/** The characters allowed in a subprotocol (RFC 9110, section 5.6.2). */
const TOKEN = /^[-!#$%&'*+.^_`|~0-9A-Za-z]+$/;
/** The close codes with which a server refuses a credential, and the codes of the errors. */
const REFUSALS = new Map([
  [4401, "UNAUTHORIZED"],
  [4403, "FORBIDDEN"],
]);
/** What makes a new attempt worthwhile: the network is back, or the page is shown again. */
const WAKING = ["online", "pageshow", "visibilitychange"];

/**
 * The reason why a call, or an attempt to connect, failed.
 *
 * `code` is a code of the server (`UNKNOWN_CHANNEL`, `HANDLER_ERROR`, `INVALID_MESSAGE`, `RATE_LIMITED`, `UNAUTHORIZED`, …) or of
 * the client: `TIMEOUT`, `CONNECTION_CLOSED`, `ABORTED`, `INVALID_MESSAGE` for a payload that JSON cannot represent, and
 * `UNAUTHORIZED` or `FORBIDDEN` for a connection that was closed with 4401 or 4403. `details` comes from the server: for a
 * connection its close `{code, reason}`. `cause` is the error of a function of yours, or of the runtime's WebSocket. `channel`
 * is the channel that was called.
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
  #token;
  #options;

  /** The attempt in progress, or the connection: `{socket, release, url, token, hasOpened, greetedAt, isRenewing, cause}`. */
  #attempt = null;
  /** Whether the connection is open, and the server has accepted it. */
  #isOpen = false;
  /** Whether the client tries again when the attempt fails, or the connection is lost. */
  #persists = false;
  /** Attempts to reconnect since the last connection that was stable. */
  #attempts = 0;
  /** Whether a credential was refused since the last one that was accepted. */
  #wasRefused = false;
  /** Whether the client has ended because of its credential, so that another one is a reason to connect. */
  #needsToken = false;
  /** Whether calls can wait for a connection: not after the client has ended. */
  #mayQueue = true;
  #lastError;
  #retryTimer;
  #connectTimer;
  #renewTimer;
  /** What callers of `connect` wait for: the end of the first attempt, or of all attempts. Both are `{promise, resolve, reject}`. */
  #first = null;
  #round = null;

  /** Calls in flight, by id. */
  #pending = new Map();
  /** Calls that wait for a connection, by id. */
  #queue = new Map();
  /** Sets of `{callback}`, by channel. Each is an object of its own, so that one function can subscribe twice. */
  #listeners = new Map();

  /**
   * Creates a client, not yet connected. All times are in milliseconds.
   *
   * @param {object} options
   * @param {string|URL|Function} options.url `ws://host:port` or `wss://…`, or a function that returns it or a promise of it, and is
   *   called at each attempt
   * @param {string|Function} [options.token] sent as subprotocol `bearer.TOKEN`: browsers cannot set headers. A function returns
   *   it, or a promise of it, or undefined for none; it is called at each attempt, before the token expires, and after 4401
   * @param {boolean} [options.reconnect] whether to try again after a failed attempt or a lost connection; default true
   * @param {number} [options.reconnectInterval] pause before the first attempt; each further pause is 1.5 times as long,
   *   varied by up to 20 %, at most 30 000; default 1000
   * @param {number} [options.maxReconnectAttempts] attempts before `connection:failed`; default 10
   * @param {number} [options.stableAfter] the count of attempts starts again after a connection that lived this long after
   *   `server:connected`; default 5000
   * @param {number} [options.requestTimeout] the longest time for a call; 0 waits until the connection closes; default 30 000
   * @param {number} [options.connectTimeout] the longest time for one attempt, the functions included; 0 leaves it to the
   *   browser; default 10 000
   * @param {number} [options.maxQueued] calls that can wait for a connection; further ones fail. Default 0: every call needs
   *   an open connection
   * @param {Function} [options.WebSocket] the class to use; default the global one
   * @throws {TypeError} if there is no URL, or the token is not a string that a subprotocol can have
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
    maxQueued = 0,
    WebSocket,
  }) {
    this.#url = isFunction(url) ? url : checkUrl(url);
    this.#token = isFunction(token) ? token : checkToken(token);
    this.#options = {
      reconnect,
      reconnectInterval,
      maxReconnectAttempts,
      stableAfter,
      requestTimeout,
      connectTimeout,
      maxQueued,
      WebSocket,
    };
  }

  /** Whether the connection is open, so that calls can be sent. */
  get isConnected() {
    return this.#isOpen && this.#attempt.socket.readyState === OPEN;
  }

  /** `"connecting"`, `"open"`, `"closing"` or `"closed"`. While the client waits for its next attempt: connecting. */
  get connectionState() {
    if (this.#isOpen) return STATES[this.#attempt.socket.readyState];
    return this.#attempt || this.#persists ? "connecting" : "closed";
  }

  /** Why the last attempt failed, or the connection was lost; undefined once there is a connection, and after `disconnect`. */
  get lastError() {
    return this.#lastError;
  }

  /**
   * Connects, unless the client is connected. Joins an attempt that is in progress. A client that waits for its next attempt
   * tries immediately.
   *
   * @param {object} [options]
   * @param {boolean} [options.retry] whether other attempts follow if the first one fails. Default: that of the option
   *   `reconnect`, and the promise rejects after the first one. With true it waits until the last one; with false there is one
   * @returns {Promise<void>} resolves when the connection is open. Rejects with a `WSClientError` when the first attempt has
   *   failed; if attempts were in progress, when the last one has; and when `disconnect` was called. Rejects with the
   *   `TypeError` or the error of the WebSocket class if it does not accept the token or the URL; no attempt follows
   */
  async connect({ retry } = {}) {
    if (this.isConnected) return;
    // It is closing. Treat it as closed, so that there is one socket at a time.
    if (this.#isOpen) this.#end(this.#attempt, LOST);
    const isJoining = this.#persists && !this.#first;
    const waiting = retry || isJoining ? (this.#round ??= deferred()) : (this.#first ??= deferred());
    this.#persists ||= retry ?? this.#options.reconnect;
    this.#mayQueue = true;
    if (!this.#attempt) this.#open();
    await waiting.promise;
  }

  /** Closes the connection, or stops trying to connect. Calls in flight, and those that wait, fail with `CONNECTION_CLOSED`. */
  disconnect() {
    const error = new WSClientError("CONNECTION_CLOSED", "disconnected");
    const wasOpen = this.#forgetAttempt(error);
    this.#stop(error);
    this.#lastError = undefined;
    this.#needsToken = false;
    if (wasOpen) this.#emit("connection:closed", { code: 1000, reason: "" });
  }

  /**
   * Replaces the token, or the function that returns it. On an open connection it is sent to the server, which then uses it
   * instead of the earlier one; calls in flight continue. Without a connection the next attempt uses it. A client that ended
   * because its token was refused starts again.
   *
   * @param {string|Function} [token] undefined for none, from the next attempt on
   * @returns {Promise<void>} resolves when the server has accepted the token, or immediately without a connection. Rejects with
   *   a `WSClientError` if the server refuses it: the connection stays as it was
   * @throws {TypeError} (as a rejection) if the token is not a string that a subprotocol can have
   */
  async setToken(token) {
    this.#token = isFunction(token) ? token : checkToken(token);
    if (token === undefined) return;
    if (this.#needsToken) this.connect().catch(() => {});
    else if (this.isConnected) await this.#authenticate(this.#attempt);
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
      const { isConnected } = this;
      if (!isConnected) {
        const { maxQueued } = this.#options;
        if (!this.#mayQueue || maxQueued <= 0) return refuse("CONNECTION_CLOSED", "not connected");
        if (this.#queue.size >= maxQueued) {
          return refuse("CONNECTION_CLOSED", `not connected, and ${maxQueued} calls wait already`);
        }
      }
      const id = newId();
      let text;
      try {
        text = JSON.stringify({ type: "request", id, channel, payload, timestamp: Date.now() });
      } catch (cause) {
        return refuse("INVALID_MESSAGE", "the payload cannot be written as JSON", { cause });
      }
      const forget = () => {
        this.#pending.delete(id);
        this.#queue.delete(id);
        stop(timer);
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
      (isConnected ? this.#pending : this.#queue).set(id, { answer, fail, text });
      if (isConnected) this.#attempt.socket.send(text);
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

  /** Starts an attempt. The URL and the token are asked for first if they are functions. */
  #open() {
    this.#stopTimers();
    const attempt = (this.#attempt = { hasOpened: false });
    this.#emit("connection:connecting", {});
    if (attempt !== this.#attempt) return;
    // With a value the socket is created before `connect` returns.
    if (!isFunction(this.#url) && !isFunction(this.#token)) return this.#start(attempt, this.#url, this.#token);
    const started = performance.now();
    Promise.all([this.#ask("url", this.#url, checkUrl), this.#ask("token", this.#token, checkToken)]).then(
      ([url, token]) => attempt === this.#attempt && this.#start(attempt, url, token, performance.now() - started),
      (error) => {
        if (error instanceof WSClientError) this.#end(attempt, LOST, error);
        else if (attempt === this.#attempt) this.#giveUp(error);
      },
    );
  }

  /** Creates the socket of an attempt that has taken `elapsed` milliseconds. */
  #start(attempt, url, token, elapsed = 0) {
    // Looked up only here: a client can also be created where there is no WebSocket, as in server-side rendering.
    const { WebSocket = globalThis.WebSocket, connectTimeout } = this.#options;
    const protocols = token === undefined ? [SUBPROTOCOL] : [SUBPROTOCOL, `bearer.${token}`];
    Object.assign(attempt, { token, url: withoutSecrets(url) });
    try {
      if (!WebSocket) throw new TypeError("there is no global WebSocket: pass one as option WebSocket, such as that of the package ws");
      Object.assign(attempt, openSocket(WebSocket, url, protocols));
    } catch (error) {
      return this.#giveUp(error);
    }
    const { socket } = attempt;
    this.#connectTimer = after(connectTimeout && Math.max(connectTimeout - elapsed, 1), () => {
      const message = `no connection to ${attempt.url} within ${connectTimeout} ms`;
      this.#end(attempt, LOST, new WSClientError("TIMEOUT", message));
    });
    socket.onopen = () => {
      attempt.hasOpened = true;
      // A Switchboard server refuses a credential after the socket is open; `server:connected` means that it has not.
      if (socket.protocol !== SUBPROTOCOL) this.#handleOpen(attempt);
    };
    socket.onmessage = ({ data }) => attempt === this.#attempt && this.#handleMessage(attempt, data);
    socket.onclose = (event) => this.#end(attempt, event);
    // In Node an error event without a listener ends the process.
    socket.onerror = (event) => {
      attempt.cause ??= event.error ?? event.message;
      // In Node 22 no close event follows if the attempt fails.
      if (!attempt.hasOpened) this.#end(attempt, LOST);
    };
  }

  #handleOpen(attempt) {
    if (attempt !== this.#attempt || this.#isOpen) return;
    this.#stopTimers();
    this.#isOpen = true;
    this.#persists = this.#options.reconnect;
    this.#lastError = undefined;
    this.#needsToken = false;
    this.#settle();
    for (const [id, call] of this.#queue) {
      this.#queue.delete(id);
      this.#pending.set(id, call);
      attempt.socket.send(call.text);
    }
    this.#emit("connection:open", {});
    // `setToken` was called while the client connected.
    if (attempt === this.#attempt && this.#hasOtherToken(attempt) && !isFunction(this.#token)) this.#renew(attempt);
  }

  /** Handles the end of an attempt, or of a connection. Listeners can call `connect` or `disconnect` meanwhile. */
  #end(attempt, { code, reason }, error = closeError(attempt, this.#isOpen, code, reason)) {
    if (attempt !== this.#attempt) return;
    const isStable = performance.now() - attempt.greetedAt >= this.#options.stableAfter;
    // Not before: else a server that accepts connections and drops them would be tried forever.
    if (isStable) this.#attempts = 0;
    const wasOpen = this.#forgetAttempt(error);
    this.#lastError = error;
    if (wasOpen) this.#emit("connection:closed", { code, reason });
    if (this.#attempt || this.#lastError !== error) return;
    const mayContinue = this.#persists || !wasOpen;
    if (REFUSALS.has(code) && mayContinue) {
      const wasAccepted = attempt.greetedAt !== undefined && attempt.token !== undefined;
      const mayAsk = code === 4401 && this.#hasOtherToken(attempt) && (wasAccepted || !this.#wasRefused);
      if (!mayAsk) return this.#giveUp(error);
      this.#wasRefused ||= !wasAccepted;
      // A credential that expires as soon as it is accepted must not be renewed in a loop.
      if (isStable || !wasAccepted) return this.#open();
    }
    if (this.#persists) this.#retryLater(error);
    else if (wasOpen) this.#mayQueue = false;
    else this.#giveUp(error);
  }

  /** Whether there can be another token than that of an attempt. */
  #hasOtherToken(attempt) {
    return isFunction(this.#token) || (this.#token !== undefined && this.#token !== attempt.token);
  }

  #retryLater(error) {
    this.#first?.reject(error);
    this.#first = null;
    const { reconnectInterval, maxReconnectAttempts } = this.#options;
    const attempts = this.#attempts;
    const { message, details } = error;
    if (attempts >= maxReconnectAttempts) {
      const all = `no connection after ${attempts} more attempts: ${message}`;
      this.#giveUp(new WSClientError("CONNECTION_CLOSED", all, { details, cause: error }));
      // Then there is a new round of attempts.
      for (const name of WAKING) globalThis.addEventListener?.(name, this.#wake);
      return;
    }
    // The clients of a restarted server must not all connect at the same moment.
    const jitter = 0.8 + 0.4 * Math.random();
    const delay = Math.min(reconnectInterval * 1.5 ** attempts, MAX_DELAY_MS);
    const delayMs = Math.min(Math.round(delay * jitter), MAX_DELAY_MS);
    this.#attempts += 1;
    this.#retryTimer = setTimeout(() => this.#open(), delayMs);
    for (const name of WAKING) globalThis.addEventListener?.(name, this.#wake);
    this.#emit("connection:reconnecting", { attempt: this.#attempts, delayMs, reason: reasonOf(error), error });
  }

  #wake = ({ type, persisted }) => {
    // The page was loaded, not restored, or it is hidden.
    if (type === "pageshow" && !persisted) return;
    if (type === "visibilitychange" && document.hidden) return;
    this.#persists = true;
    this.#mayQueue = true;
    this.#open();
  };

  /** Ends the attempts. */
  #giveUp(error) {
    const attempts = this.#attempts;
    const failure = asClientError(error);
    if (this.#attempt) this.#forgetAttempt(failure);
    this.#stop(error);
    this.#lastError = failure;
    this.#needsToken = [...REFUSALS.values()].includes(failure.code);
    this.#emit("connection:failed", { attempts, reason: reasonOf(failure), error: failure });
  }

  /** Forgets the attempts, and fails what waits for a connection. */
  #stop(error) {
    this.#persists = false;
    this.#attempts = 0;
    this.#wasRefused = false;
    this.#mayQueue = false;
    this.#stopTimers();
    const { code, message, details, cause } = asClientError(error);
    for (const { fail } of [...this.#queue.values()]) fail(code, message, { details, cause });
    this.#settle(error);
  }

  /** Forgets the attempt or the connection, and fails the calls in flight. Returns whether it was open. */
  #forgetAttempt({ message, details }) {
    const attempt = this.#attempt;
    const wasOpen = this.#isOpen;
    this.#attempt = null;
    this.#isOpen = false;
    this.#stopTimers();
    for (const { fail } of [...this.#pending.values()]) fail("CONNECTION_CLOSED", message, { details });
    if (attempt?.socket?.readyState <= OPEN) attempt.socket.close(1000);
    attempt?.release?.();
    return wasOpen;
  }

  #stopTimers() {
    stop(this.#connectTimer);
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#renewTimer);
    for (const name of WAKING) globalThis.removeEventListener?.(name, this.#wake);
  }

  /** Answers the callers of `connect`. */
  #settle(error) {
    const waiting = [this.#first, this.#round];
    this.#first = this.#round = null;
    for (const caller of waiting) error ? caller?.reject(error) : caller?.resolve();
  }

  /** Returns the value of an option that can be a function. */
  async #ask(name, option, check) {
    return isFunction(option) ? check(await this.#call(name, option)) : option;
  }

  /** Calls a function of an option, until the end of the attempt. What it throws becomes the cause of an error. */
  #call(name, option) {
    const limit = this.#options.connectTimeout || MAX_ASK_MS;
    return new Promise((resolve, reject) => {
      // Not the id of a call.
      const key = {};
      const forget = () => {
        this.#pending.delete(key);
        stop(timer);
      };
      const fail = (code, message, more) => {
        forget();
        reject(new WSClientError(code, message, more));
      };
      const answer = (value) => {
        forget();
        resolve(value);
      };
      const timer = after(limit, () => fail("TIMEOUT", `the ${name} function did not return within ${limit} ms`));
      this.#pending.set(key, { fail });
      new Promise((resolve) => resolve(option())).then(answer, (cause) =>
        fail("CONNECTION_CLOSED", `the ${name} function failed`, { cause }),
      );
    });
  }

  /** Sends the token on the open connection. */
  async #authenticate(attempt) {
    const token = await this.#ask("token", this.#token, checkToken);
    if (token === undefined) throw new TypeError("the token function returned no token");
    if (attempt !== this.#attempt || !this.isConnected) throw new WSClientError("CONNECTION_CLOSED", "connection lost");
    try {
      await this.sendMessage("auth", { token });
    } catch (error) {
      // The server does not need tokens.
      if (error.code !== "UNKNOWN_CHANNEL") throw error;
    }
    attempt.token = token;
  }

  /** Sends another token on the open connection, which expires at `expiry`. After a failure, again every `pause` milliseconds. */
  #renew(attempt, expiry = 0, pause = 0) {
    if (attempt.isRenewing) return;
    attempt.isRenewing = true;
    const fail = (error) => {
      if (attempt !== this.#attempt) return;
      this.#emit("connection:auth-failed", { error: asClientError(error) });
      // A refused token, or one of the wrong type, is not better the second time.
      const isFinal = !(error instanceof WSClientError) || error.code === "UNAUTHORIZED" || error.code === "FORBIDDEN";
      if (attempt !== this.#attempt || isFinal || performance.now() + pause >= expiry) return;
      this.#renewTimer = setTimeout(() => this.#renew(attempt, expiry, pause), pause);
    };
    this.#authenticate(attempt).catch(fail).finally(() => (attempt.isRenewing = false));
  }

  #handleMessage(attempt, data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch (error) {
      console.error("[WS Client] Message is not JSON:", error);
      return;
    }
    if (message?.type === "response") this.#handleResponse(message);
    if (message?.type !== "event") return;
    if (message.channel === "server:connected") {
      attempt.greetedAt ??= performance.now();
      if (attempt.token !== undefined) this.#wasRefused = false;
      this.#handleOpen(attempt);
    }
    this.#emit(message.channel, message.payload);
    if (message.channel !== "auth:expiring" || attempt !== this.#attempt || !isFunction(this.#token)) return;
    const left = Number(message.payload?.inMs) || 0;
    this.#renew(attempt, performance.now() + left, Math.max(left / 4, 100));
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

const isFunction = (option) => typeof option === "function";

function checkUrl(url) {
  if (!url) throw new TypeError("WSClient needs a url");
  return String(url);
}

function checkToken(token) {
  if (token === undefined || (typeof token === "string" && TOKEN.test(token))) return token;
  throw new TypeError("the token must be a string, not empty, of characters that are allowed in a subprotocol");
}

/** A query and a user name can have a credential, which must not be part of an error. */
function withoutSecrets(url) {
  return url.replace(/[?#].*$/s, "").replace(/\/\/[^/]*@/, "//");
}

/** The error for the close of a connection or an attempt. */
function closeError({ url, cause }, wasOpen, code, reason) {
  const what = wasOpen ? "connection lost" : `cannot connect to ${url}`;
  const why = reason || (code === 4401 ? "credential refused" : code === 4403 ? "access refused" : (cause?.message ?? cause));
  const details = { code, reason };
  return new WSClientError(REFUSALS.get(code) ?? "CONNECTION_CLOSED", why ? `${what}: ${why}` : what, { details, cause });
}

function asClientError(error) {
  return error instanceof WSClientError ? error : new WSClientError("CONNECTION_CLOSED", error.message, { cause: error });
}

const reasonOf = (error) => error.details?.reason || error.message;

/**
 * Opens a socket. Returns it, and in Node a function `release` for the end: a closed socket must not keep the process alive until
 * the other side confirms, which a dead one never does. The WebSocket of Node has no method for that, and that of `ws` waits for
 * 30 s. So this watches which TCP sockets Node's HTTP client makes for this WebSocket: while the constructor runs, it looks up
 * the client as its documentation says, at `Symbol.for("undici.globalDispatcher.N")`.
 */
function openSocket(WebSocket, url, protocols) {
  if (!globalThis.process?.versions?.node) return { socket: new WebSocket(url, protocols) };
  const sockets = new Set();
  const created = globalThis.process.getBuiltinModule?.("node:diagnostics_channel").channel("net.client.socket");
  const add = ({ socket }) => sockets.add(socket);
  const watch = (dispatch) => (options, handler) => {
    const watched = Object.create(handler);
    for (const name of ["onUpgrade", "onRequestUpgrade"].filter((name) => handler[name])) {
      watched[name] = (...args) => {
        add({ socket: args.at(-1) });
        return handler[name].apply(watched, args);
      };
    }
    created?.subscribe(add);
    try {
      return dispatch(options, watched);
    } finally {
      created?.unsubscribe(add);
    }
  };
  const symbols = Object.getOwnPropertySymbols(globalThis);
  const names = symbols.filter((symbol) => Symbol.keyFor(symbol)?.startsWith("undici.globalDispatcher."));
  const dispatchers = names.map((name) => [name, globalThis[name]]);
  for (const [name, dispatcher] of dispatchers) {
    const get = (_, key) => (key === "dispatch" ? watch(dispatcher.dispatch.bind(dispatcher)) : dispatcher[key]);
    globalThis[name] = new Proxy(dispatcher, { get });
  }
  let socket;
  try {
    socket = new WebSocket(url, protocols);
  } finally {
    for (const [name, dispatcher] of dispatchers) globalThis[name] = dispatcher;
  }
  socket.on?.("upgrade", add);
  return { socket, release: () => release(socket, sockets) };
}

function release(socket, sockets) {
  socket._closeTimer?.unref();
  for (const one of sockets) {
    one.unref();
    // One that is not connected keeps the process alive all the same.
    if (one.connecting) one.destroy(new Error("not needed any more"));
    else setTimeout(() => one.destroy(), LINGER_MS).unref();
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

/**
 * Starts the timer of a deadline, unless `ms` is 0; `stop` ends it. If it fires late, the process was stopped, or the page frozen,
 * and timers come before messages: there is time to read what arrived meanwhile.
 */
function after(ms, callback) {
  if (!(ms > 0)) return undefined;
  const limit = Math.min(ms, MAX_TIMER_MS);
  const due = performance.now() + limit;
  const judge = () => {
    if (performance.now() - due < LATE_MS) callback();
    else timer.id = setTimeout(callback, TIME_TO_READ_MS);
  };
  const timer = { id: setTimeout(judge, limit) };
  return timer;
}

function stop(timer) {
  clearTimeout(timer?.id);
}

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

/** A UUID. An id has to be unique on its connection, not secret, so any randomness will do where there is no `crypto`. */
function newId() {
  const { crypto } = globalThis;
  // There is no randomUUID in pages from another host over plain HTTP, and no `crypto` in Node 18 and React Native.
  if (crypto?.randomUUID) return crypto.randomUUID();
  const bytes = Array.from({ length: 16 }, () => Math.floor(Math.random() * 256));
  crypto?.getRandomValues?.(new Uint8Array(16)).forEach((byte, index) => (bytes[index] = byte));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const text = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return text.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
