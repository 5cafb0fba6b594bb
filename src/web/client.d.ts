/** Types of client.js, a client of a Switchboard server. */

/** Error codes of the specification. */
export type WSServerErrorCode =
  | "UNKNOWN_CHANNEL"
  | "HANDLER_ERROR"
  | "TIMEOUT"
  | "CONNECTION_CLOSED"
  | "INVALID_MESSAGE"
  | "RATE_LIMITED"
  | "UNAUTHORIZED";

/** An error code: of the specification, of the client, or any other that the server's app has chosen. */
export type WSErrorCode = WSServerErrorCode | "FORBIDDEN" | "ABORTED" | (string & {});

/** The reason why a call, or an attempt to connect, failed. */
export class WSClientError extends Error {
  readonly name: "WSClientError";
  /**
   * A code of the server or of its app, or of the client: `TIMEOUT`, `CONNECTION_CLOSED`, `ABORTED`, and for a connection that
   * was closed with 4401 or 4403 `UNAUTHORIZED` or `FORBIDDEN`.
   */
  readonly code: WSErrorCode;
  /** The channel that was called; undefined when connecting failed. */
  readonly channel: string | undefined;
  /**
   * More from the server: `{path, expected, got}` for a wrong payload, `{retryAfterMs, …}` for `RATE_LIMITED`, the close
   * `{code, reason}` for a connection.
   */
  readonly details: any;
  /** For `ABORTED`, the reason of the signal; for an attempt to connect, the error of your function or of the runtime. */
  readonly cause?: unknown;
  constructor(
    code: WSErrorCode,
    message: string,
    more?: { channel?: string; details?: unknown; cause?: unknown },
  );
}

/** A value, or a function that returns it or a promise of it. */
export type Option<Value> = Value | (() => Value | Promise<Value>);

/** All times are in milliseconds. */
export interface WSClientOptions {
  /** `ws://host:port` or `wss://…`, or a function that is called for it at each attempt. */
  url: Option<string | URL>;
  /**
   * Sent as subprotocol `bearer.TOKEN`: browsers cannot set headers. A function is called at each attempt, before the token
   * expires, and after the server has closed the connection with 4401; undefined means no token. What a function throws is the
   * `cause` of the error of an attempt that failed. An empty token, or null, is a `TypeError`.
   */
  token?: string | (() => string | undefined | Promise<string | undefined>);
  /** Whether to try again after a failed attempt or a lost connection. Default true. */
  reconnect?: boolean;
  /** Pause before the first attempt; each further pause is 1.5 times as long, varied by up to 20 %, at most 30 000. Default 1000. */
  reconnectInterval?: number;
  /** Attempts before `connection:failed`. Default 10. */
  maxReconnectAttempts?: number;
  /** The count of attempts starts again after a connection that lived this long after `server:connected`. Default 5000. */
  stableAfter?: number;
  /** The longest time for a call; 0 waits until the connection closes. Default 30 000. */
  requestTimeout?: number;
  /** The longest time for one attempt to connect, your functions included; 0 leaves it to the browser. Default 10 000. */
  connectTimeout?: number;
  /** Calls that can wait for a connection; further ones fail. Default 0: every call needs an open connection. */
  maxQueued?: number;
  /** The class to use, such as that of the package `ws`. Default: the global one. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
}

export interface RequestOptions {
  /** The longest time for this call, instead of `requestTimeout`; 0 waits until the connection closes. */
  timeout?: number;
  /** Stops waiting: the call fails with `ABORTED`. The server is not notified. */
  signal?: AbortSignal;
}

export type ConnectionState = "connecting" | "open" | "closing" | "closed";

export interface ConnectOptions {
  /**
   * Whether other attempts follow if the first one fails. Default: that of the option `reconnect`, and the promise rejects after
   * the first one. With true it waits until the last one; with false there is only one.
   */
  retry?: boolean;
}

/** The events of every connection, most of them emitted by the client itself. `reason` is the text that the server gave, else the message of `error`. */
export interface ConnectionEvents {
  /** An attempt starts. */
  "connection:connecting": {};
  /** The connection is open. */
  "connection:open": {};
  /** A connection that was open has closed. */
  "connection:closed": { code: number; reason: string };
  /** The next attempt starts after `delayMs`. */
  "connection:reconnecting": { attempt: number; delayMs: number; reason: string; error: WSClientError };
  /**
   * The client does not try again on its own, unless the network comes back or the page is shown again. It does not do so after
   * 4401 and 4403, the codes `UNAUTHORIZED` and `FORBIDDEN`.
   */
  "connection:failed": { attempts: number; reason: string; error: WSClientError };
  /** A new token could not be sent on the open connection, which stays open until the server closes it. */
  "connection:auth-failed": { error: WSClientError };
  /** From the server: the credential expires. The client calls the token function, and sends what it returns. */
  "auth:expiring": { inMs: number };
}

/** A string that is not a key of `Listed`: listed names must use their types. */
type Unlisted<Name extends string, Listed> = Name extends keyof Listed ? never : Name;

/** The payload type of a channel, if it is known. */
type Payload<Name> = Name extends keyof Channels ? Channels[Name]["payload"] : unknown;

/** The arguments after a channel. A payload without required members can be omitted. */
type CallArguments<Payload> = undefined extends Payload
  ? [payload?: Payload, options?: RequestOptions]
  : {} extends Payload
    ? [payload?: Payload, options?: RequestOptions]
    : [payload: Payload, options?: RequestOptions];

// The compiler reports a mistake for the last overload below; an editor completes with the first.

export interface SendMessage {
  /** Sends a request on any channel. Rejects with a `WSClientError`. */
  <Response = unknown, Channel extends string = string>(
    channel: Unlisted<Channel, Channels>,
    payload?: Payload<Channel>,
    options?: RequestOptions,
  ): Promise<Response>;
  /** Sends a request on a channel of the registry. Rejects with a `WSClientError`. */
  <Channel extends keyof Channels>(
    channel: Channel,
    ...rest: CallArguments<Channels[Channel]["payload"]>
  ): Promise<Channels[Channel]["response"]>;
}

export interface OnMessage {
  /** Subscribes to any event; `"*"` means all of them. Returns a function that ends the subscription. */
  <Payload = unknown, Channel extends string = string>(
    channel: Unlisted<Channel, Events>,
    callback: (payload: Payload, channel: string) => void,
  ): () => void;
  /** Subscribes to an event of the registry or of the client. Returns a function that ends the subscription. */
  <Channel extends keyof Events>(
    channel: Channel,
    callback: (payload: Events[Channel], channel: Channel) => void,
  ): () => void;
}

/** A client of a Switchboard server. */
export class WSClient {
  /** Creates a client, not yet connected. Throws a `TypeError` if an option is invalid. */
  constructor(options: WSClientOptions);
  /** Whether the socket is open, so that calls can be sent. */
  readonly isConnected: boolean;
  /** While the client waits for its next attempt: `"connecting"`. */
  readonly connectionState: ConnectionState;
  /** Why the last attempt failed, or the connection was lost; undefined once there is a connection, and after `disconnect`. */
  readonly lastError: WSClientError | undefined;
  /**
   * Connects, unless the client is connected. Joins an attempt that is in progress. A client that waits for its next attempt
   * tries immediately. Rejects when the first attempt has failed; if attempts were in progress, when the last one has.
   */
  connect(options?: ConnectOptions): Promise<void>;
  /**
   * Replaces the token. On an open connection it is sent to the server, and calls in flight continue; rejects if the server
   * refuses it. Without a connection the next attempt uses it.
   */
  setToken(token: WSClientOptions["token"]): Promise<void>;
  /** Closes the connection, or stops trying to connect. Calls in flight fail with `CONNECTION_CLOSED`. */
  disconnect(): void;
  sendMessage: SendMessage;
  onMessage: OnMessage;
  /** As `onMessage`, but only for the next event. */
  once: OnMessage;
  /** Ends every subscription to a channel. */
  offMessage(channel: string): void;
}

// Generated from the registry by `switchboard channels --typescript`.

export interface Chat {
  id: string;
  title: string;
  systemPrompt: string | null;
  messageCount: number;
  createdAt: number;
  updatedAt: number;
}

export type Role = "user" | "assistant" | "system" | "tool";

/** Stored unchanged. */
export interface ContentBlock {
  type: string;
  [member: string]: unknown;
}

export interface CreateMessageInput {
  chatId: string;
  role: Role;
  content: string | ContentBlock[];
  provider?: string;
  model?: string;
  usage?: { inputTokens: number, outputTokens: number };
  metadata?: Record<string, unknown>;
}

export interface Message extends CreateMessageInput {
  id: string;
  createdAt: number;
}

/** Oldest first; `nextBefore` is the `before` of the preceding page. */
export interface MessagePage {
  messages: Message[];
  hasMore: boolean;
  nextBefore: string | null;
}

/** `snippet` is HTML: hits are in `<mark>`, everything else is escaped. */
export interface SearchResult {
  chatId: string;
  chatTitle: string;
  messageId: string;
  role: Role;
  snippet: string;
  score: number;
  createdAt: number;
  /** Whether more matched than were ranked: only the newest, at most `db.max_ranked_rows`. */
  truncated?: true;
}

export type AiProvider = "anthropic" | "openai" | "echo";

export interface ChatRequest {
  provider: AiProvider;
  model: string;
  messages: { role: "user" | "assistant" | "system", content: string | ContentBlock[] }[];
  system?: string;
  temperature?: number;
  maxTokens?: number;
  stopSequences?: string[];
  /** The chat in which the last user message and the answer are stored. */
  chatId?: string;
  /** Identifies this request in events. Default: the id of the request. */
  requestId?: string;
  /** Whether the provider sends its answer as a stream. Default: true. */
  stream?: boolean;
}

/** `inputTokens` does not include the tokens that were read from a cache or written to one. */
export interface AiUsage {
  inputTokens: number;
  outputTokens: number;
  cacheReadTokens?: number;
  cacheWriteTokens?: number;
}

export interface ChatResponse {
  requestId: string;
  provider: AiProvider;
  model: string;
  content: string;
  stopReason: "end" | "max_tokens" | "stop_sequence" | "tool_use" | "refusal" | "other";
  /** All 0 if the provider reports no usage. */
  usage: AiUsage;
  costUsd: number | null;
  latencyMs: number;
}

/** `input` is the object that the model wrote, or its text if the token limit cut it off. */
export type StreamChunk =
  | { type: "text", text: string }
  | { type: "thinking", text: string }
  | { type: "tool_use", id: string, name: string, input: unknown }
  | { type: "usage", usage: AiUsage };

export interface ModelConfig {
  id: string;
  provider: AiProvider;
  name: string;
  contextWindow: number | null;
  maxOutput: number | null;
  inputUsdPerMTok: number | null;
  outputUsdPerMTok: number | null;
}

/** `messageCount` counts the entries of the transcript, `skippedLines` its lines that could not be used. */
export interface Session {
  id: string;
  project: string;
  cwd: string | null;
  title: string;
  model: string | null;
  messageCount: number;
  restorePointCount: number;
  startedAt: number;
  updatedAt: number;
  skippedLines: number;
}

/** Either `before` or `after`, each the id of an entry. */
export interface TranscriptQuery {
  sessionId: string;
  limit?: number;
  before?: string;
  after?: string;
  roles?: Role[];
}

/** `sidechain` marks the entries of a subagent. An entry that is too long to send has one block `{type: "too_long", bytes}`. */
export interface TranscriptEntry {
  id: string;
  sessionId: string;
  parentId: string | null;
  role: Role;
  content: ContentBlock[];
  model?: string;
  usage?: { inputTokens: number, outputTokens: number };
  sidechain?: true;
  createdAt: number;
}

/**
 * Oldest first. `total` counts the entries of these roles; `hasMore` says whether there are more in the direction of the query;
 * `nextBefore` and `nextAfter` are the `before` and `after` of the adjacent pages, or null.
 */
export interface TranscriptPage {
  entries: TranscriptEntry[];
  total: number;
  hasMore: boolean;
  nextBefore: string | null;
  nextAfter: string | null;
}

/** `snippet` is HTML: hits are in `<mark>`, everything else is escaped. */
export interface TranscriptSearchResult {
  sessionId: string;
  entryId: string;
  role: Role;
  snippet: string;
  score: number;
  createdAt: number;
  /** Whether more matched than were ranked: only the newest, at most `db.max_ranked_rows`. */
  truncated?: true;
}

/** The files as they were before the prompt `entryId`, if their backup exists. */
export interface RestorePoint {
  id: string;
  sessionId: string;
  entryId: string | null;
  label: string;
  createdAt: number;
  files: { path: string, size: number, sha1: string }[];
}

/** `restored` has paths below `targetDir`, `skipped` paths as the restore point has them. */
export interface RestoreResult {
  restorePointId: string;
  targetDir: string;
  restored: string[];
  skipped: { path: string, reason: string }[];
}

export type ImageProvider = "openai" | "automatic1111" | "pattern";
export type QueueStatus = "queued" | "running" | "completed" | "failed" | "cancelled";

export interface QueueGroup {
  id: string;
  name: string;
  createdAt: number;
  counts: { queued: number, running: number, completed: number, failed: number, cancelled: number };
}

/** The default provider is the setting `imagegen.defaultProvider`. `params` are further members of the request to it. */
export interface CreateEntryInput {
  groupId?: string;
  prompt: string;
  negativePrompt?: string;
  provider?: ImageProvider;
  model?: string;
  width?: number;
  height?: number;
  batchSize?: number;
  batchCount?: number;
  steps?: number;
  cfgScale?: number;
  seed?: number;
  params?: Record<string, unknown>;
}

export interface QueueEntry {
  id: string;
  groupId: string;
  jobId: string | null;
  status: QueueStatus;
  prompt: string;
  negativePrompt: string | null;
  provider: ImageProvider;
  model: string | null;
  width: number;
  height: number;
  batchSize: number;
  batchCount: number;
  steps: number | null;
  cfgScale: number | null;
  seed: number | null;
  params: Record<string, unknown>;
  batchesDone: number;
  error: string | null;
  createdAt: number;
  startedAt: number | null;
  finishedAt: number | null;
}

/** The processing of an entry. */
export interface Job {
  id: string;
  entryId: string;
  status: QueueStatus;
  startedAt: number | null;
  finishedAt: number | null;
  error: string | null;
}

/** `url` is a path on this server. If a token is required, add `?token=` where no header can be sent, as in `<img>`. */
export interface Image {
  id: string;
  entryId: string;
  jobId: string;
  groupId: string;
  batchIndex: number;
  url: string;
  mimeType: string;
  width: number;
  height: number;
  seed: number | null;
  prompt: string;
  model: string | null;
  createdAt: number;
  /** Whether more prompts matched than were searched: only the newest, at most `db.max_ranked_rows`. */
  truncated?: true;
}

/** `from` and `to` are Unix ms, both inclusive. */
export interface GalleryFilters {
  groupId?: string;
  entryId?: string;
  query?: string;
  from?: number;
  to?: number;
  limit?: number;
  before?: string;
}

/** Newest first. `nextBefore` is the `before` of the next page. */
export interface GalleryPage {
  images: Image[];
  hasMore: boolean;
  nextBefore: string | null;
}

/** One flat object. Keys that are not listed belong to the frontend; their values can be any JSON. */
export interface Settings {
  "ai.anthropic.baseUrl": string;
  "ai.defaultModel": string | null;
  "ai.defaultProvider": string;
  "ai.openai.baseUrl": string;
  "analytics.retentionDays": number;
  "imagegen.automatic1111.baseUrl": string;
  "imagegen.defaultProvider": ImageProvider;
  "imagegen.openai.baseUrl": string;
  language: string;
  theme: "system" | "light" | "dark";
  [key: string]: unknown;
}

/** The public part of a credential, without its token. */
export interface Credential {
  exists: boolean;
  metadata: Record<string, unknown> | null;
}

/** `source` is the source from which it was installed, as the request named it. */
export interface ArtifactMetadata {
  id: string;
  name: string;
  version: string;
  description: string | null;
  enabled: boolean;
  source: string;
  installedAt: number;
  updatedAt: number;
}

/** `input` is a subset of JSON Schema. A manifest can have further members, which are ignored. */
export interface ArtifactManifest {
  id: string;
  name: string;
  version: string;
  description?: string;
  command: string[];
  input?: Record<string, unknown>;
  timeoutMs?: number;
}

export interface Artifact extends ArtifactMetadata {
  manifest: ArtifactManifest;
  files: { path: string, size: number }[];
}

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

/** The payload and the response of every request channel. Channels of your own are added by declaration merging. */
export interface Channels {
  /** List chats, last updated first: 1..=500 of them, 50 by default, those after the chat `before`. */
  "chat:list": { payload: { limit?: number, before?: string }; response: Chat[] };
  /** Create a chat; the default title is "New Chat". */
  "chat:create": { payload: { title?: string, systemPrompt?: string | null }; response: Chat };
  /** Get a chat. */
  "chat:get": { payload: { id: string }; response: Chat | null };
  /** Change the given fields of a chat. */
  "chat:update": { payload: { id: string, title?: string, systemPrompt?: string | null }; response: Chat };
  /** Delete a chat with its messages and return whether it existed. */
  "chat:delete": { payload: { id: string }; response: boolean };
  /** Get the last messages, or those just before the message `before`, oldest first: 1..=500 of them, 50 by default. */
  "chat:get-messages": { payload: { chatId: string, limit?: number, before?: string }; response: MessagePage };
  /** Add a message, which moves its chat to the top of the list. */
  "chat:add-message": { payload: CreateMessageInput; response: Message };
  /** Search the text of messages, best match first: 1..=100 results, 20 by default. */
  "chat:search": { payload: { query: string, limit?: number, chatId?: string }; response: SearchResult[] };
  /** Send a request to a model and return its answer. With `chatId` the last user message and the answer are stored in that chat. */
  "ai:chat": { payload: ChatRequest; response: ChatResponse };
  /** Like `ai:chat`, but the answer is also sent in pieces, as events. */
  "ai:chat-stream": { payload: ChatRequest; response: ChatResponse };
  /** List models with their prices: the provider's own list, or the built-in one if there is no key. */
  "ai:models": { payload: { provider?: AiProvider }; response: ModelConfig[] };
  /** Return whether there is a key for a provider and its base URL; always true for one that needs none. */
  "ai:has-credentials": { payload: { provider: AiProvider }; response: boolean };
  /** List coding sessions of one project or of all, last updated first: 1..=500 of them, 50 by default. */
  "code:list-sessions": { payload: { project?: string, limit?: number }; response: Session[] };
  /** Get a coding session. */
  "code:get-session": { payload: { id: string }; response: Session | null };
  /** Get the last entries of a session, or those just before or after an entry, oldest first: 1..=500 of them, 100 by default. */
  "code:get-transcript": { payload: TranscriptQuery; response: TranscriptPage };
  /** Search the text of entries, best match first: 1..=100 results, 20 by default. */
  "code:search-transcript": { payload: { query: string, sessionId?: string, limit?: number }; response: TranscriptSearchResult[] };
  /** List the restore points of a session, newest first: the files that it backed up. */
  "code:list-restore-points": { payload: { sessionId: string }; response: RestorePoint[] };
  /** Copy the files of a restore point to a folder below the restore root; existing files are skipped unless `overwrite` is set. */
  "code:restore": { payload: { restorePointId: string, targetDir: string, overwrite?: boolean }; response: RestoreResult };
  /** List the groups of the queue, oldest first; the group `default` always exists. */
  "imagegen:list-groups": { payload: undefined; response: QueueGroup[] };
  /** Create a group. */
  "imagegen:create-group": { payload: { name: string }; response: QueueGroup };
  /** List the entries of a group, newest first: 1..=500 of them, 500 by default, those older than the entry `before`. */
  "imagegen:list-entries": { payload: { groupId: string, limit?: number, before?: string }; response: QueueEntry[] };
  /** Add an entry to the queue, for one or more batches of images. */
  "imagegen:create-entry": { payload: CreateEntryInput; response: QueueEntry };
  /** Cancel an entry that is queued or running; its completed batches stay. One that has already ended is returned unchanged. */
  "imagegen:cancel-entry": { payload: { id: string }; response: QueueEntry };
  /** List images, newest first: 1..=500 of them, 50 by default, those older than the image `before`. */
  "imagegen:list-images": { payload: GalleryFilters; response: GalleryPage };
  /** Get every setting: the value that was set, or the default. */
  "settings:get-all": { payload: undefined; response: Settings };
  /** Get one setting; null if it is not set and has no default. */
  "settings:get": { payload: { key: string }; response: unknown };
  /** Set one setting. A base URL with another origin needs the provider's credential again. */
  "settings:set": { payload: { key: string, value: unknown }; response: undefined };
  /** Set several settings, all of them or none. */
  "settings:update": { payload: Partial<Settings>; response: Settings };
  /** Reset one setting, or all, to the default; keys without a default are removed. */
  "settings:reset": { payload: { key?: string }; response: Settings };
  /** List the keys of the credentials, sorted. */
  "credentials:list": { payload: undefined; response: string[] };
  /** Get whether a credential exists, and its metadata; never its token. */
  "credentials:get": { payload: { key: string }; response: Credential };
  /** Store or replace a credential; its token is encrypted on disk. A provider's token is sent only to `origin`, by default to that of the base URL that is set at this time. */
  "credentials:set": { payload: { key: string, token: string, metadata?: Record<string, unknown>, origin?: string }; response: undefined };
  /** Delete a credential and return whether it existed. */
  "credentials:delete": { payload: { key: string }; response: boolean };
  /** List the installed artifacts, by id. */
  "artifact:list": { payload: undefined; response: ArtifactMetadata[] };
  /** Get an artifact with its manifest and the list of its files. */
  "artifact:get": { payload: { id: string }; response: Artifact | null };
  /** Install or update an artifact from a folder or a .tar file below a source folder of the server. */
  "artifact:install": { payload: { source: string }; response: Artifact };
  /** Run an enabled artifact and return the JSON that it writes. */
  "artifact:invoke": { payload: { id: string, input?: unknown }; response: unknown };
  /** Enable an artifact. */
  "artifact:enable": { payload: { id: string }; response: undefined };
  /** Disable an artifact; runs in progress continue. */
  "artifact:disable": { payload: { id: string }; response: undefined };
  /** Remove an artifact and return whether it existed; runs in progress continue. */
  "artifact:remove": { payload: { id: string }; response: boolean };
  /** Get an overview, by default of the last 30 days and by day. `totals` are always those of the lifetime. */
  "analytics:dashboard": { payload: { timeRange?: TimeRange, granularity?: Granularity }; response: DashboardData };
  /** Get the totals since the first record. */
  "analytics:lifetime-totals": { payload: undefined; response: LifetimeTotals };
  /** Get costs by provider and model. */
  "analytics:cost-summary": { payload: { timeRange: TimeRange }; response: CostSummary };
  /** Get costs over time in USD, one series per provider. */
  "analytics:cost-timeseries": { payload: { timeRange: TimeRange, granularity: Granularity }; response: TimeSeriesData };
  /** Get errors by code and channel. */
  "analytics:error-summary": { payload: { timeRange: TimeRange }; response: ErrorSummary };
  /** Get errors over time, one series per code. */
  "analytics:error-timeseries": { payload: { timeRange: TimeRange, granularity: Granularity }; response: TimeSeriesData };
  /** Get tokens over time: `input`, `output`, `cacheRead`, `cacheWrite`. */
  "analytics:token-timeseries": { payload: { timeRange: TimeRange, granularity: Granularity }; response: TimeSeriesData };
  /** Get the calls of each model, most used first. */
  "analytics:model-usage": { payload: { timeRange: TimeRange }; response: ModelUsageData };
  /** Get images over time: `images`, `batches`, `failed`. */
  "analytics:imagegen-timeseries": { payload: { timeRange: TimeRange, granularity: Granularity }; response: TimeSeriesData };
  /** Get the calls of artifacts and of tools of models, most used first. */
  "analytics:tool-usage": { payload: { timeRange: TimeRange }; response: ToolUsageData };
  /** Get the number and the duration of sessions. */
  "analytics:session-stats": { payload: { timeRange: TimeRange }; response: SessionStats };
  /** Roll up raw rows now; this changes no totals. */
  "analytics:run-aggregation": { payload: undefined; response: { aggregated: number } };
  /** Roll up raw rows, then delete those older than `analytics.retentionDays`; this changes no totals. */
  "analytics:run-cleanup": { payload: undefined; response: { deleted: number } };
  /** Get the server's time. */
  "system:ping": { payload: undefined; response: { timestamp: number } };
  /** List the channels of this server. */
  "system:channels": { payload: undefined; response: Channel[] };
  /** Get the counters of the server since its start. */
  "system:stats": { payload: undefined; response: Stats };
}

/** The payload of every event. Events of your own are added by declaration merging. */
export interface Events extends ConnectionEvents {
  /** A chat was created. */
  "chat:created": Chat;
  /** A chat's title or system prompt has changed. */
  "chat:updated": Chat;
  /** A chat was deleted. */
  "chat:deleted": { id: string };
  /** A message was added to a chat. */
  "chat:message-added": Message;
  /** A piece of an answer, only to the client that asked. */
  "ai:stream-chunk": { requestId: string, chunk: StreamChunk };
  /** An answer is complete; the response follows. */
  "ai:stream-complete": { requestId: string, response: ChatResponse };
  /** A request failed, perhaps after some chunks; the error response follows. */
  "ai:stream-error": { requestId: string, error: { code: WSErrorCode, message: string, details?: unknown } };
  /** The worker has started an entry. */
  "imagegen:job-created": { jobId: string, job: Job };
  /** A job has completed, failed or was cancelled. */
  "imagegen:job-completed": { jobId: string, job: Job };
  /** A batch has started. */
  "imagegen:batch-started": { jobId: string, batchIndex: number };
  /** A batch is complete. */
  "imagegen:batch-completed": { jobId: string, batchIndex: number, images: Image[] };
  /** A setting has changed. */
  "settings:changed": { key: string, value: unknown };
  /** A credential was stored or deleted. */
  "credentials:changed": { key: string, exists: boolean };
  /** A new artifact was installed. */
  "artifact:installed": { artifact: Artifact };
  /** An artifact was updated, enabled or disabled. */
  "artifact:updated": { artifact: Artifact };
  /** Installation progress, from 0 to 1; it never reaches 1 if the installation fails. */
  "artifact:progress": { id: string, progress: number };
  /** An artifact was removed. */
  "artifact:removed": { id: string };
  /** The first message: the connection is ready. */
  "server:connected": { clientId: string, serverTime: number };
  /** Heartbeat, every 30 s. */
  "server:heartbeat": { timestamp: number };
  /** The server is stopping; the connection closes with 1001. */
  "server:shutdown": { reason: string };
}
