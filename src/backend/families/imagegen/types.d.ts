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
