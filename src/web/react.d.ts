/** Types of react.js: Switchboard for React 18 and later. */

import type { ReactElement, ReactNode } from "react";
import type { Channels, Events, OnMessage, SendMessage, WSClientError, WSClientOptions } from "./client.js";

export interface UseWebSocketOptions extends WSClientOptions {
  /** Whether to connect when mounted, and to try again if that fails. Default true. */
  autoConnect?: boolean;
}

/** The functions stay the same in every render, until an option changes; then there is a new connection. */
export interface UseWebSocketReturn {
  /** Whether the socket is open, so that calls can be sent. */
  isConnected: boolean;
  sendMessage: SendMessage;
  onMessage: OnMessage;
  connect: (options?: { retry?: boolean }) => Promise<void>;
  disconnect: () => void;
}

export interface UseRequestReturn<Response> {
  /** The last response to this request. */
  data: Response | undefined;
  error: WSClientError | undefined;
  /** True until there is a response, also while the client is not connected. */
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
 * and on `refetch()`. `socket` is the result of `useWebSocket`; default: that of the provider.
 */
export function useRequest<Channel extends Name<Channels>>(
  channel: Channel,
  payload?: Payload<Channel>,
  socket?: UseWebSocketReturn,
): UseRequestReturn<Response<Channel>>;
