// The real server as a process: the program that SWITCHBOARD_BIN names, on a port that it chooses, with data of its own.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { within } from "./check.mjs";

const PROGRAM = process.env.SWITCHBOARD_BIN;
if (!PROGRAM) throw new Error("SWITCHBOARD_BIN has to name the program of the server");

export class Server {
  #child;
  #options;
  #dataDir = mkdtempSync(join(tmpdir(), "switchboard-web-"));
  port = 0;

  /** `arguments`: further ones; `environment`: further variables. */
  static async start({ args = [], environment = {} } = {}) {
    const server = new Server();
    server.#options = { args, environment };
    await server.restart();
    return server;
  }

  get url() {
    return `ws://localhost:${this.port}`;
  }

  /** Starts it again after `kill` or `stop`, on the same port and with the same data. */
  async restart() {
    const { args, environment } = this.#options;
    const own = ["--port", String(this.port), "--max-port-attempts", "1", "--data-dir", this.#dataDir];
    const unhurried = ["--rate-limit", "1000000"];
    const env = { PATH: process.env.PATH, HOME: this.#dataDir, ...environment };
    this.#child = spawn(PROGRAM, ["serve", ...own, ...unhurried, ...args], { env, stdio: ["ignore", "pipe", "inherit"] });
    const [line] = await within(once(createInterface(this.#child.stdout), "line"), "the server's first line");
    this.port = Number(/^\[WS\] Server listening on ws:\/\/localhost:(\d+)$/.exec(line)[1]);
  }

  /** As a crash would end it. */
  async kill() {
    await this.#end("SIGKILL");
  }

  /** As an operator ends it. */
  async stop() {
    await this.#end("SIGTERM");
  }

  /** It answers nothing any more, until `kill`. */
  async pause() {
    this.#child.kill("SIGSTOP");
    // The signal stops one thread after the other.
    const tasks = `/proc/${this.#child.pid}/task`;
    const isStopped = (task) => /^\d+ \(.*\) T /s.test(readFileSync(join(tasks, task, "stat"), "utf8"));
    while (!readdirSync(tasks).every(isStopped)) await new Promise(setImmediate);
  }

  /** Kills it and removes its data. */
  async remove() {
    await this.kill();
    rmSync(this.#dataDir, { recursive: true });
  }

  async #end(signal) {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, "exit");
    this.#child.kill(signal);
    await within(exit, `the server's end by ${signal}`);
  }
}

/** One server behind `control(method, ...args)`, which can be called from within a page, too. `start` answers its URL. */
export function controlled() {
  let server;
  const control = async (method, ...args) => {
    if (method !== "start") return server[method](...args);
    server = await Server.start(...args);
    return server.url;
  };
  return { control, end: () => server?.remove() };
}
