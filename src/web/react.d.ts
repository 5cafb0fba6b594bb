/** Types of react.js: Switchboard for React 18 and later. */

import type { ReactElement, ReactNode } from "react";
import type {
  Channels,
  ConnectOptions,
  ConnectionState,
  Events,
  OnMessage,
  SendMessage,
  WSClientError,
  WSClientOptions,
} from "./client.js";

/**
 * Functions can differ in every render; the latest one is called. Another `token` is sent on the open connection, and calls in
 * flight continue; if the server does not accept it there, or there is none any more, the client connects again.
 */
export interface UseWebSocketOptions extends WSClientOptions {
  /** Whether to connect when mounted. Default true. */
  autoConnect?: boolean;
}

/** The functions stay the same in every render, until an option other than `token` changes; then there is a new connection. */
export interface UseWebSocketReturn {
  /** Whether the connection is open, so that calls can be sent. */
  isConnected: boolean;
  /** The `connectionState` of the client. With `"closed"` and a `lastError` the client does not try again on its own. */
  state: ConnectionState;
  /** Why the last attempt failed, or the connection was lost; undefined once there is a connection. */
  lastError: WSClientError | undefined;
  sendMessage: SendMessage;
  onMessage: OnMessage;
  connect: (options?: ConnectOptions) => Promise<void>;
  disconnect: () => void;
}

export interface UseRequestOptions {
  /** Whether to send the request. Default true. */
  enabled?: boolean;
  /** The result of `useWebSocket`. Default: that of the provider. */
  socket?: UseWebSocketReturn;
}

export interface UseRequestReturn<Response> {
  /** The last response to this request. */
  data: Response | undefined;
  error: WSClientError | undefined;
  /**
   * True until there is a response, also while the client connects; false when it has given up connecting, for the reason in
   * `error`, and while the request is not enabled.
   */
  loading: boolean;
  /** Sends the request again. */
  refetch: () => void;
}

/** Provides one connection to all components below. */
export function WebSocketProvider(props: UseWebSocketOptions & { children?: ReactNode }): ReactElement;

/** Opens a connection for this component; without options, returns that of the provider above. */
export function useWebSocket(options?: UseWebSocketOptions): UseWebSocketReturn;

type Payload<Channel> = Channel extends keyof Channels ? Channels[Channel]["payload"] : unknown;
type Response<Channel> = Channel extends keyof Channels ? Channels[Channel]["response"] : any;
type Event<Channel> = Channel extends keyof Events ? Events[Channel] : any;
/** Any string; an editor suggests the known ones. */
type Name<Known> = keyof Known | (string & {});

/**
 * Calls `fn` for each event while the component is mounted. `socket` is the result of `useWebSocket`; default: that of the
 * provider.
 */
export function useEvent<Channel extends Name<Events>>(
  channel: Channel,
  fn: (payload: Event<Channel>, channel: Channel) => void,
  socket?: UseWebSocketReturn,
): void;

/**
 * Sends a request as soon as the client is connected, again when the channel, the payload's JSON or the connection changes,
 * and on `refetch()`.
 */
export function useRequest<Channel extends Name<Channels>>(
  channel: Channel,
  payload?: Payload<Channel>,
  options?: UseRequestOptions | UseWebSocketReturn,
): UseRequestReturn<Response<Channel>>;
