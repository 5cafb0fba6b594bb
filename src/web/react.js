/**
 * Switchboard for React 18 and newer. A hook's connection lives as long as its component.
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
 * One connection for everything below it: `useWebSocket()`, `useEvent` and `useRequest` find it by themselves. Takes the
 * options of `useWebSocket`.
 */
export function WebSocketProvider({ children, ...options }) {
  return createElement(Socket.Provider, { value: useOwnWebSocket(options) }, children);
}

/**
 * A connection of this component's own, or without options that of the provider above.
 *
 * @param {object} [options] those of `WSClient`, and `autoConnect`: whether to connect when mounted, and to go on trying if
 *   that fails; default true
 * @returns `{isConnected, sendMessage, onMessage, connect, disconnect}`. The functions are the same ones at every render,
 *   until an option changes, which makes a new connection.
 */
export function useWebSocket(options) {
  // Which hooks are called may not change between renders: a component that came with options keeps having them.
  return options ? useOwnWebSocket(options) : useSocket();
}

function useOwnWebSocket({ autoConnect = true, ...options }) {
  // A client that was not connected holds nothing, so one more that React throws away does no harm.
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
    // StrictMode mounts everything twice in one go. Not even a socket is made for the first time.
    queueMicrotask(() => {
      // `isConnected` and the connection events tell how it ended.
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

/** Options that make another client when they change. */
const OPTIONS = [
  "url",
  "token",
  "reconnect",
  "reconnectInterval",
  "maxReconnectAttempts",
  "requestTimeout",
  "connectTimeout",
  "WebSocket",
];

/**
 * Calls `fn(payload, channel)` at each event, as long as the component is mounted. `fn` may be another function at every render.
 *
 * @param {string} channel `"*"` is all of them
 * @param {(payload: unknown, channel: string) => void} fn
 * @param {object} [socket] what `useWebSocket` returned; default the provider's
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
 * Asks the server as soon as it is connected, again when the channel, the payload's JSON or the connection is another one,
 * and on `refetch()`.
 *
 * @param {string} channel
 * @param {unknown} [payload]
 * @param {object} [socket] what `useWebSocket` returned; default the provider's
 * @returns `{data, error, loading, refetch}`. `loading` until there is an answer. While it asks the same again, `data` stays.
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
      // One that was aborted has nothing to say any more: another has taken its place, or will.
      (error) => error.code !== "ABORTED" && setState(({ data }) => ({ key, data, error, loading: false })),
    );
    return () => abort.abort();
  }, [sendMessage, isConnected, key, round]);

  // Until its effect has run, the state is that of the request before.
  const { data, error, loading } = state.key === key ? state : { loading: true };
  return { data, error, loading, refetch };
}

function useSocket(own) {
  const provided = useContext(Socket);
  const socket = own ?? provided;
  if (!socket) throw new Error("there is no WebSocketProvider above this component, and no socket was given");
  return socket;
}
