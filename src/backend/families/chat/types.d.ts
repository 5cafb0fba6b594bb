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
