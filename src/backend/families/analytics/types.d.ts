/** `from` and `to` are Unix ms; `to` is exclusive. Results cover every hour (UTC) that the range touches, as a whole. */
export type TimeRange = "24h" | "7d" | "30d" | "90d" | "all" | { from: number, to: number };

/** In UTC; weeks start on Monday. */
export type Granularity = "hour" | "day" | "week" | "month";

/** A bucket without data has zeros. */
export interface TimeSeriesData {
  granularity: Granularity;
  buckets: { start: number, values: Record<string, number> }[];
  series: string[];
  total: Record<string, number>;
}

export interface LifetimeTotals {
  requests: number;
  errors: number;
  aiCalls: number;
  inputTokens: number;
  outputTokens: number;
  costUsd: number;
  images: number;
  artifactCalls: number;
  sessions: number;
  /** The hour of the first record; null if there is no record. */
  since: number | null;
}

/** Most expensive first. A call whose cost is not known counts as free. */
export interface CostSummary {
  totalUsd: number;
  byProvider: { provider: string, usd: number, calls: number }[];
  byModel: { provider: string, model: string, usd: number, calls: number, inputTokens: number, outputTokens: number }[];
}

/** Most frequent first; in `recent` the newest first, at most 50. */
export interface ErrorSummary {
  total: number;
  byCode: { code: string, count: number }[];
  byChannel: { channel: string, count: number }[];
  recent: { code: string, channel: string, message: string, at: number }[];
}

/** Most used first; `share` is the share of all calls, from 0 to 1. */
export interface ModelUsageData {
  models: {
    provider: string;
    model: string;
    calls: number;
    inputTokens: number;
    outputTokens: number;
    usd: number;
    share: number;
    meanLatencyMs: number;
  }[];
}

/** Most used first; `meanMs` is null for tools of models, which run elsewhere. */
export interface ToolUsageData {
  tools: { tool: string, source: "ai" | "artifact", calls: number, errors: number, meanMs: number | null }[];
}

/** A session counts in the hour in which it started, and has no duration before it ends. `day` is like `2026-11-23`. */
export interface SessionStats {
  sessions: number;
  totalMs: number;
  meanMs: number;
  longestMs: number;
  byDay: { day: string, sessions: number, ms: number }[];
}

export interface DashboardData {
  totals: LifetimeTotals;
  cost: CostSummary;
  errors: ErrorSummary;
  models: ModelUsageData;
  tokens: TimeSeriesData;
  /** `requests` and `errors`. */
  requests: TimeSeriesData;
}
