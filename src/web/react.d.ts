/** Types of react.js: Switchboard for React 18 and newer. */

import type { ReactElement, ReactNode } from "react";
import type { Channels, Events, OnMessage, SendMessage, WSClientError, WSClientOptions } from "./client.js";

export interface UseWebSocketOptions extends WSClientOptions {
  /** Whether to connect when mounted, and to go on trying if that fails. Default true. */
  autoConnect?: boolean;
}

/** The functions are the same ones at every render, until an option changes, which makes a new connection. */
export interface UseWebSocketReturn {
  /** Whether calls go through now. */
  isConnected: boolean;
  sendMessage: SendMessage;
  onMessage: OnMessage;
  connect: (options?: { retry?: boolean }) => Promise<void>;
  disconnect: () => void;
}

export interface UseRequestReturn<Response> {
  /** The last answer to this very request. */
  data: Response | undefined;
  error: WSClientError | undefined;
  /** Whether an answer is to come; before the connection stands, too. */
  loading: boolean;
  /** Asks again. */
  refetch: () => void;
}

/** One connection for everything below it. */
export function WebSocketProvider(props: UseWebSocketOptions & { children?: ReactNode }): ReactElement;

/** A connection of this component's own, or without options that of the provider above. */
export function useWebSocket(options?: UseWebSocketOptions): UseWebSocketReturn;

type Payload<Channel> = Channel extends keyof Channels ? Channels[Channel]["payload"] : unknown;
type Response<Channel> = Channel extends keyof Channels ? Channels[Channel]["response"] : any;
type Event<Channel> = Channel extends keyof Events ? Events[Channel] : any;
/** Any string, of which an editor offers the known ones. */
type Name<Known> = keyof Known | (string & {});

/**
 * Calls `fn` at each event, as long as the component is mounted. `socket` is what `useWebSocket` returned; default the
 * provider's.
 */
export function useEvent<Channel extends Name<Events>>(
  channel: Channel,
  fn: (payload: Event<Channel>, channel: Channel) => void,
  socket?: UseWebSocketReturn,
): void;

/**
 * Asks as soon as it is connected, again when the channel, the payload's JSON or the connection is another one, and on
 * `refetch()`. `socket` is what `useWebSocket` returned; default the provider's.
 */
export function useRequest<Channel extends Name<Channels>>(
  channel: Channel,
  payload?: Payload<Channel>,
  socket?: UseWebSocketReturn,
): UseRequestReturn<Response<Channel>>;
