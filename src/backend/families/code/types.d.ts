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
