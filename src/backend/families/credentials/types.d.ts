/** What is shown of a credential: never its token. */
export interface Credential {
  exists: boolean;
  metadata: Record<string, unknown> | null;
}
