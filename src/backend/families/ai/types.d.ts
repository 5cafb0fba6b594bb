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
