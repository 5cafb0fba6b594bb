/** `source` is what it was installed from, as it was asked for. */
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

/** `input` is a part of JSON Schema; a manifest may have further members, which mean nothing. */
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
