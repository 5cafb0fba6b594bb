/**
 * Switchboard for React 18 and later. The connection of a hook is open while its component is mounted.
 */

import {
  createContext,
  createElement,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useReducer,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";

import { WSClient } from "./client.js";

const Socket = createContext(null);

/**
 * Provides one connection to all components below, for `useWebSocket()`, `useEvent` and `useRequest`. Takes the options of
 * `useWebSocket`.
 */
export function WebSocketProvider({ children, ...options }) {
  return createElement(Socket.Provider, { value: useOwnWebSocket(options) }, children);
}

/**
 * Opens a connection for this component; without options, returns that of the provider above.
 *
 * @param {object} [options] those of `WSClient`, and `autoConnect`: whether to connect when mounted; default true. Functions can
 *   differ in every render; the latest one is called. Another `token` is sent on the open connection, and calls in flight
 *   continue; if the server does not accept it there, or there is none any more, the client connects again
 * @returns `{isConnected, state, lastError, sendMessage, onMessage, connect, disconnect}`. `state` is the `connectionState` of the
 *   client; `lastError` is why the last attempt failed or the connection was lost, until there is one again. The functions stay
 *   the same in every render, until an option other than `token` changes; then there is a new connection.
 */
export function useWebSocket(options) {
  // The same hooks must be called in every render: a component either always passes options or never.
  return options ? useOwnWebSocket(options) : useSocket();
}

function useOwnWebSocket({ autoConnect = true, url, token, ...options }) {
  const askUrl = useLatest(url);
  const askToken = useLatest(token);
  const currentUrl = typeof url === "function" ? askUrl : url && String(url);
  const currentToken = typeof token === "function" ? askToken : token;
  // A client that was never connected holds no resources, so React can discard one.
  const client = useMemo(
    () => new WSClient({ ...options, url: currentUrl, token: currentToken }),
    [currentUrl, ...OPTIONS.map((name) => options[name])],
  );
  const [watchers, functions] = useMemo(() => {
    const watchers = new Set();
    const disconnect = () => {
      client.disconnect();
      // A client that was not connected emits no event then.
      for (const changed of watchers) changed();
    };
    const { sendMessage, onMessage, connect } = client;
    const bound = { sendMessage, onMessage, connect };
    for (const name in bound) bound[name] = bound[name].bind(client);
    return [watchers, { ...bound, disconnect }];
  }, [client]);

  useToken(client, currentToken);
  useEffect(() => {
    let isMounted = true;
    // StrictMode mounts each component twice in a row. The delay avoids a socket for the first time.
    queueMicrotask(() => {
      // `state`, `lastError` and the connection events report the result.
      if (isMounted && autoConnect) client.connect({ retry: true }).catch(() => {});
    });
    return () => {
      isMounted = false;
      client.disconnect();
    };
  }, [client, autoConnect]);

  const subscribe = useCallback(
    (changed) => {
      watchers.add(changed);
      const ends = EVENTS.map((name) => client.onMessage(`connection:${name}`, changed));
      return () => {
        watchers.delete(changed);
        ends.forEach((end) => end());
      };
    },
    [client, watchers],
  );
  const isConnected = useSyncExternalStore(subscribe, () => client.isConnected, () => false);
  const state = useSyncExternalStore(subscribe, () => client.connectionState, () => "closed");
  const lastError = useSyncExternalStore(subscribe, () => client.lastError, () => undefined);
  return useMemo(() => ({ isConnected, state, lastError, ...functions }), [isConnected, state, lastError, functions]);
}

/** Returns a function, always the same, that calls the one of the latest render. */
function useLatest(option) {
  const latest = useRef(option);
  useEffect(() => {
    latest.current = option;
  });
  return useCallback(() => latest.current(), []);
}

/** Passes another token to the client. */
function useToken(client, token) {
  useEffect(() => {
    const wasConnected = client.isConnected;
    const reconnect = () => {
      client.disconnect();
      client.connect({ retry: true }).catch(() => {});
    };
    client.setToken(token).catch((error) => {
      // Such as that of another user. What is shown must not stay that of the earlier one.
      if (client.isConnected && error.code !== "CONNECTION_CLOSED") reconnect();
    });
    if (wasConnected && token === undefined) reconnect();
  }, [client, token]);
}

const EVENTS = ["connecting", "open", "closed", "reconnecting", "failed"];

/** A change of one of these options, or of `url`, creates a new client. */
const OPTIONS = [
  "reconnect",
  "reconnectInterval",
  "maxReconnectAttempts",
  "stableAfter",
  "requestTimeout",
  "connectTimeout",
  "maxQueued",
  "WebSocket",
];

/**
 * Calls `fn(payload, channel)` for each event while the component is mounted. `fn` can differ in every render.
 *
 * @param {string} channel `"*"` means all events
 * @param {(payload: unknown, channel: string) => void} fn
 * @param {object} [socket] the result of `useWebSocket`; default: that of the provider
 */
export function useEvent(channel, fn, socket) {
  const { onMessage } = useSocket(socket);
  const latest = useRef(fn);
  useEffect(() => {
    latest.current = fn;
  });
  useEffect(
    () => onMessage(channel, (payload, from) => latest.current(payload, from)),
    [onMessage, channel],
  );
}

/**
 * Sends a request as soon as the client is connected, again when the channel, the payload's JSON or the connection changes,
 * and on `refetch()`.
 *
 * @param {string} channel
 * @param {unknown} [payload]
 * @param {object} [options] `{enabled, socket}`, or the socket alone. With `enabled: false` no request is sent. `socket` is the
 *   result of `useWebSocket`; default: that of the provider
 * @returns `{data, error, loading, refetch}`. `loading` is true until there is a response, or the client has given up connecting:
 *   then `error` says why. It is false while the request is not enabled. `data` is kept while the same request is repeated.
 */
export function useRequest(channel, payload, options = {}) {
  const { enabled = true, socket } = "sendMessage" in options ? { socket: options } : options;
  const { isConnected, state: connection, lastError, sendMessage } = useSocket(socket);
  const [round, refetch] = useReducer((round) => round + 1, 0);
  const key = JSON.stringify([channel, payload]);
  const [state, setState] = useState({ key, loading: true });

  useEffect(() => {
    if (!isConnected || !enabled) return;
    const abort = new AbortController();
    setState((last) => ({ key, data: last.key === key ? last.data : undefined, loading: true }));
    sendMessage(channel, payload, { signal: abort.signal }).then(
      (data) => setState({ key, data, loading: false }),
      // An aborted request has been replaced by another one, or the component is unmounted.
      (error) => error.code !== "ABORTED" && setState(({ data }) => ({ key, data, error, loading: false })),
    );
    return () => abort.abort();
  }, [sendMessage, isConnected, enabled, key, round]);

  // Until the effect has run, the state is that of the previous request.
  const { data, error, loading } = state.key === key ? state : { loading: true };
  if (!enabled) return { data, error, loading: false, refetch };
  const hasEnded = loading && connection === "closed" && lastError;
  return hasEnded ? { data, error: lastError, loading: false, refetch } : { data, error, loading, refetch };
}

function useSocket(own) {
  const provided = useContext(Socket);
  const socket = own ?? provided;
  if (!socket) throw new Error("there is no WebSocketProvider above this component, and no socket was given");
  return socket;
}
