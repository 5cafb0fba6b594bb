/** A line of the registry. Types are written as in TypeScript; `-` is none. */
export interface Channel {
  channel: string;
  direction: "Request" | "Event";
  payload: string;
  response: string;
  description: string;
  example?: unknown;
}

export interface Stats {
  uptimeMs: number;
  clients: number;
  requests: number;
  eventsSent: number;
  bytesIn: number;
  bytesOut: number;
  errors: Record<Exclude<WSErrorCode, "ABORTED">, number>;
}
