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
  /** `custom` counts the codes of the app together. */
  errors: Record<WSServerErrorCode | "custom", number>;
}
