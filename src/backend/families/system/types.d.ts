/** An entry of the registry. Types are written in TypeScript; `-` means none. */
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
