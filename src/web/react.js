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
 * @param {object} [options] those of `WSClient`, and `autoConnect`: whether to connect when mounted, and to try again if that
 *   fails; default true
 * @returns `{isConnected, sendMessage, onMessage, connect, disconnect}`. The functions stay the same in every render,
 *   until an option changes; then there is a new connection.
 */
export function useWebSocket(options) {
  // The same hooks must be called in every render: a component either always passes options or never.
  return options ? useOwnWebSocket(options) : useSocket();
}

function useOwnWebSocket({ autoConnect = true, ...options }) {
  // A client that was never connected holds no resources, so React can discard one.
  const client = useMemo(() => new WSClient(options), OPTIONS.map((name) => options[name]));
  const functions = useMemo(
    () => ({
      sendMessage: client.sendMessage.bind(client),
      onMessage: client.onMessage.bind(client),
      connect: client.connect.bind(client),
      disconnect: client.disconnect.bind(client),
    }),
    [client],
  );

  useEffect(() => {
    let isMounted = true;
    // StrictMode mounts each component twice in a row. The delay avoids a socket for the first time.
    queueMicrotask(() => {
      // `isConnected` and the connection events report the result.
      if (isMounted && autoConnect) client.connect({ retry: true }).catch(() => {});
    });
    return () => {
      isMounted = false;
      client.disconnect();
    };
  }, [client, autoConnect]);

  const subscribe = useCallback(
    (changed) => {
      const ends = ["connection:open", "connection:closed"].map((channel) => client.onMessage(channel, changed));
      return () => ends.forEach((end) => end());
    },
    [client],
  );
  const isConnected = useSyncExternalStore(subscribe, () => client.isConnected, () => false);
  return useMemo(() => ({ isConnected, ...functions }), [isConnected, functions]);
}

/** A change of one of these options creates a new client. */
const OPTIONS = [
  "url",
  "token",
  "reconnect",
  "reconnectInterval",
  "maxReconnectAttempts",
  "stableAfter",
  "requestTimeout",
  "connectTimeout",
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
 * @param {object} [socket] the result of `useWebSocket`; default: that of the provider
 * @returns `{data, error, loading, refetch}`. `loading` is true until there is a response. `data` is kept while the same request is
 *   repeated.
 */
export function useRequest(channel, payload, socket) {
  const { isConnected, sendMessage } = useSocket(socket);
  const [round, refetch] = useReducer((round) => round + 1, 0);
  const key = JSON.stringify([channel, payload]);
  const [state, setState] = useState({ key, loading: true });

  useEffect(() => {
    if (!isConnected) return;
    const abort = new AbortController();
    setState((last) => ({ key, data: last.key === key ? last.data : undefined, loading: true }));
    sendMessage(channel, payload, { signal: abort.signal }).then(
      (data) => setState({ key, data, loading: false }),
      // An aborted request has been replaced by another one, or the component is unmounted.
      (error) => error.code !== "ABORTED" && setState(({ data }) => ({ key, data, error, loading: false })),
    );
    return () => abort.abort();
  }, [sendMessage, isConnected, key, round]);

  // Until the effect has run, the state is that of the previous request.
  const { data, error, loading } = state.key === key ? state : { loading: true };
  return { data, error, loading, refetch };
}

function useSocket(own) {
  const provided = useContext(Socket);
  const socket = own ?? provided;
  if (!socket) throw new Error("there is no WebSocketProvider above this component, and no socket was given");
  return socket;
}
