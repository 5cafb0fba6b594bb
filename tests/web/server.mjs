// The real server as a process: the program named by SWITCHBOARD_BIN, on a free port, with its own data folder.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { within } from "./check.mjs";

const PROGRAM = process.env.SWITCHBOARD_BIN;
if (!PROGRAM) throw new Error("SWITCHBOARD_BIN must be the path of the server");

export class Server {
  #child;
  #options;
  #dataDir = mkdtempSync(join(tmpdir(), "switchboard-web-"));
  port = 0;

  /** `args` and `environment` are added to the arguments and variables of the process. */
  static async start({ args = [], environment = {} } = {}) {
    const server = new Server();
    server.#options = { args, environment };
    await server.restart();
    return server;
  }

  get url() {
    return `ws://localhost:${this.port}`;
  }

  get dataDir() {
    return this.#dataDir;
  }

  /** Starts the server again after `kill` or `stop`, on the same port and with the same data. */
  async restart() {
    const { args, environment } = this.#options;
    const own = ["--port", String(this.port), "--max-port-attempts", "1", "--data-dir", this.#dataDir];
    const highRate = ["--rate-limit", "1000000"];
    const env = { PATH: process.env.PATH, HOME: this.#dataDir, ...environment };
    this.#child = spawn(PROGRAM, ["serve", ...own, ...highRate, ...args], { env, stdio: ["ignore", "pipe", "inherit"] });
    const [line] = await within(once(createInterface(this.#child.stdout), "line"), "the server's first line");
    this.port = Number(/^\[WS\] Server listening on ws:\/\/localhost:(\d+)$/.exec(line)[1]);
  }

  /** Ends the server as a crash would. */
  async kill() {
    await this.#end("SIGKILL");
  }

  /** Ends the server as an operator would. */
  async stop() {
    await this.#end("SIGTERM");
  }

  /** Freezes the server until `kill`. */
  async pause() {
    this.#child.kill("SIGSTOP");
    // The signal stops one thread after the other.
    const tasks = `/proc/${this.#child.pid}/task`;
    const isStopped = (task) => /^\d+ \(.*\) T /s.test(readFileSync(join(tasks, task, "stat"), "utf8"));
    while (!readdirSync(tasks).every(isStopped)) await new Promise(setImmediate);
  }

  /** Kills the server and removes its data. */
  async remove() {
    await this.kill();
    rmSync(this.#dataDir, { recursive: true });
  }

  async #end(signal) {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, "exit");
    this.#child.kill(signal);
    await within(exit, `the end of the server after ${signal}`);
  }
}

/** Returns a server that is controlled with `control(method, ...args)`, also from a page. `start` returns its URL. */
export function controlled() {
  let server;
  const control = async (method, ...args) => {
    if (method !== "start") return server[method](...args);
    server = await Server.start(...args);
    return server.url;
  };
  return { control, end: () => server?.remove() };
}
