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
