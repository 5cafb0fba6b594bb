// Headless Firefox, driven over WebDriver BiDi.

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import WebSocket from "ws";

import { within } from "./check.mjs";

const PROGRAM = process.env.FIREFOX ?? "firefox-esr";

/** Whether Firefox is installed. */
export const hasFirefox = () => spawnSync(PROGRAM, ["--version"]).status === 0;

export class Firefox {
  #process;
  #socket;
  #profile = mkdtempSync(join(tmpdir(), "switchboard-firefox-"));
  #waiting = new Map();
  #lastId = 0;
  #context;

  /** Opens a page. */
  static async open(url) {
    const firefox = new Firefox();
    const options = ["--headless", "--no-remote", "--remote-debugging-port", "0", "--profile", firefox.#profile];
    firefox.#process = spawn(PROGRAM, options, { stdio: ["ignore", "ignore", "pipe"] });
    const address = new Promise((resolve, reject) => {
      createInterface(firefox.#process.stderr).on("line", (line) => {
        const found = /^WebDriver BiDi listening on (ws:.*)$/.exec(line);
        if (found) resolve(found[1]);
      });
      firefox.#process.on("exit", () => reject(new Error("Firefox has ended")));
    });
    firefox.#socket = new WebSocket(`${await within(address, "Firefox")}/session`);
    firefox.#socket.on("message", (data) => {
      const { id, ...message } = JSON.parse(data);
      firefox.#waiting.get(id)?.(message);
    });
    await within(once(firefox.#socket, "open"), "the session of Firefox");
    await firefox.#send("session.new", { capabilities: {} });
    ({ context: firefox.#context } = await firefox.#send("browsingContext.create", { type: "tab" }));
    await firefox.#send("browsingContext.navigate", { context: firefox.#context, url, wait: "complete" });
    return firefox;
  }

  /** Calls a function in the page with arguments that JSON can represent. Returns its result, in the same form. */
  async evaluate(call, ...args) {
    const text = `async () => JSON.stringify(await (${call})(...${JSON.stringify(args)}))`;
    const target = { context: this.#context };
    const { type, result, exceptionDetails } = await this.#send("script.callFunction", {
      functionDeclaration: text,
      awaitPromise: true,
      target,
    });
    if (type === "exception") throw new Error(exceptionDetails.text);
    return JSON.parse(result.value ?? "null");
  }

  async close() {
    this.#socket?.terminate();
    if (this.#process.exitCode === null) {
      const exit = once(this.#process, "exit");
      this.#process.kill();
      await within(exit, "the end of Firefox");
    }
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 10 });
  }

  async #send(method, params) {
    const id = ++this.#lastId;
    const answer = new Promise((resolve) => this.#waiting.set(id, resolve));
    this.#socket.send(JSON.stringify({ id, method, params }));
    const { type, error, message, result } = await answer;
    this.#waiting.delete(id);
    if (type === "error") throw new Error(`${method}: ${error}: ${message}`);
    return result;
  }
}
