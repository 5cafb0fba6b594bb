/** The public part of a credential, without its token. */
export interface Credential {
  exists: boolean;
  metadata: Record<string, unknown> | null;
}
