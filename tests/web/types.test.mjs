// src/web/*.d.ts: correct uses type-check, wrong ones do not, and an editor completes names. The uses are in types/.

import { spawn, spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

import { equal, within } from "./check.mjs";

const TSC = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc");
const here = (name) => fileURLToPath(new URL(name, import.meta.url));

function compile(project) {
  const { status, stdout } = spawnSync(process.execPath, [TSC, "--pretty", "false", "-p", project], {
    encoding: "utf8",
  });
  return { status, stdout };
}

test("known channels are type-checked, unknown ones accept anything", () => {
  equal(compile(here("types")), { status: 0, stdout: "" });
});

test("a type error is reported at its line, with the expected type", () => {
  const { stdout } = compile(here("types/wrong.json"));
  equal([...stdout.matchAll(/wrong\.ts\((\d+),/g)].map(([, line]) => line), ["5", "6"]);
  equal(stdout.includes("Type 'string' is not assignable to type 'number'."), true, stdout);
  equal(stdout.includes("Property 'name' does not exist on type 'Chat'."), true, stdout);
});

for (const [file, languages] of [
  ["README.md", ["js", "jsx"]],
  ["src/docs/clients.md", ["js", "js", "ts", "jsx"]],
]) {
  test(`the examples in ${file} type-check`, (t) => {
    const folder = mkdtempSync(join(tmpdir(), "switchboard-examples-"));
    t.after(() => rmSync(folder, { recursive: true }));
    symlinkSync(here("node_modules"), join(folder, "node_modules"));
    cpSync(here("../../src/web"), folder, { recursive: true });
    const text = readFileSync(here(`../../${file}`), "utf8");
    const examples = [...text.matchAll(/^```(js|ts|jsx)\n(.*?)^```$/gms)].map(([, language, code]) => [language, code]);
    equal(examples.map(([language]) => language), languages);
    const files = examples.map(([language, code], index) => {
      const name = `example-${index}.${language === "jsx" ? "tsx" : "ts"}`;
      writeFileSync(join(folder, name), `${code}\nexport {};\n`);
      return name;
    });
    const compilerOptions = { strict: true, noEmit: true, module: "esnext", moduleResolution: "bundler", target: "es2022" };
    const config = { compilerOptions: { ...compilerOptions, jsx: "react-jsx", types: [] }, files };
    writeFileSync(join(folder, "package.json"), '{"type":"module"}');
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
    equal(compile(folder), { status: 0, stdout: "" });
  });
}

test("an editor completes channels, payloads, responses and events", async (t) => {
  const editor = new Editor();
  t.after(() => editor.close());
  const complete = async (line) => {
    const text = `
      import { WSClient } from "../../../src/web/client.js";
      const client = new WSClient({ url: "ws://localhost:3001" });
      ${line}`;
    return editor.complete(here("types/typed.ts"), text);
  };
  equal((await complete('client.sendMessage("|")')).includes("chat:get-messages"), true);
  equal(await complete('client.sendMessage("chat:get-messages", { | })'), ["chatId", "limit?", "before?"]);
  equal((await complete('client.sendMessage("chat:get", { id: "1" }).then((chat) => chat?.|)')).includes("title"), true);
  equal((await complete('client.onMessage("|", () => {})')).includes("connection:failed"), true);
  equal(await complete('client.onMessage("settings:changed", (change) => change.|)'), ["key", "value"]);
});

/** The compiler as a language server, as editors use it. */
class Editor {
  #process = spawn(process.execPath, [TSC, "--lsp", "--stdio"], { stdio: ["pipe", "pipe", "inherit"] });
  #input = Buffer.alloc(0);
  #waiting = new Map();
  #lastId = 0;
  #ready;

  constructor() {
    this.#process.stdout.on("data", (data) => {
      this.#input = Buffer.concat([this.#input, data]);
      for (let message; (message = this.#next()); ) {
        if (!message.method) this.#waiting.get(message.id)(message.result);
        // It requests settings; there are none.
        else if (message.id !== undefined) this.#send({ id: message.id, result: null });
      }
    });
    this.#ready = this.#ask("initialize", { processId: process.pid, rootUri: null, capabilities: {} });
    this.#send({ method: "initialized", params: {} });
  }

  /** Returns the completions at the `|` in the text. */
  async complete(file, text) {
    await this.#ready;
    const before = text.slice(0, text.indexOf("|")).split("\n");
    const textDocument = { uri: `file://${file}`, languageId: "typescript", version: 1, text: text.replace("|", "") };
    this.#send({ method: "textDocument/didOpen", params: { textDocument } });
    const position = { line: before.length - 1, character: before.at(-1).length };
    const offered = await this.#ask("textDocument/completion", { textDocument, position });
    this.#send({ method: "textDocument/didClose", params: { textDocument } });
    return offered.items.map((item) => item.label);
  }

  close() {
    this.#process.kill();
  }

  #ask(method, params) {
    const id = ++this.#lastId;
    const answer = new Promise((resolve) => this.#waiting.set(id, resolve));
    this.#send({ id, method, params });
    return within(answer, method);
  }

  #send(message) {
    const text = JSON.stringify({ jsonrpc: "2.0", ...message });
    this.#process.stdin.write(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
  }

  #next() {
    const head = /^Content-Length: (\d+)\r\n(?:.+\r\n)*\r\n/.exec(this.#input.toString("latin1"));
    const end = head && head[0].length + Number(head[1]);
    if (!head || this.#input.length < end) return undefined;
    const message = JSON.parse(this.#input.subarray(head[0].length, end));
    this.#input = this.#input.subarray(end);
    return message;
  }
}
