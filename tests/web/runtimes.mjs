// Other versions of Node, which npm installs where it has them.

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The path of a version of Node, if it is installed. */
export function node(version) {
  const path = fileURLToPath(new URL(`node_modules/node-${version}/bin/node`, import.meta.url));
  return existsSync(path) ? path : undefined;
}
