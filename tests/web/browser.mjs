// Headless Chromium, on pages of a small HTTP server that serves files of this repository.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const TYPES = { ".js": "text/javascript", ".mjs": "text/javascript" };

/** The path of Chromium. */
export const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

export const CHROMIUM_ARGUMENTS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** A browser and its pages. */
export class Browser {
  #browser;
  #pages;

  /** `args` are further arguments of Chromium. */
  static async start({ args = [] } = {}) {
    const browser = new Browser();
    browser.#pages = createServer(answer).listen(0, "localhost");
    browser.#browser = await chromium.launch({ executablePath: CHROMIUM, args: [...CHROMIUM_ARGUMENTS, ...args] });
    return browser;
  }

  /** The origin of the pages on a host, which must be one that resolves to this machine. */
  origin(host = "localhost") {
    return `http://${host}:${this.#pages.address().port}`;
  }

  /** Opens an empty page that can import modules of this repository by path, and the given version of `react`. */
  async open({ react = "19", host } = {}) {
    const page = await this.#browser.newPage();
    await page.goto(`${this.origin(host)}/?react=${react}`);
    return page;
  }

  /** Runs a case of a module in its own page. The case can call `functions` as members of its argument. */
  async run(module, list, name, functions, options) {
    const page = await this.open(options);
    try {
      for (const [name, call] of Object.entries(functions)) await page.exposeFunction(name, call);
      await runOn(page, module, list, name, Object.keys(functions));
    } finally {
      await page.close();
    }
  }

  async close() {
    await this.#browser.close();
    this.#pages.close();
  }
}

/** Runs a case of a module on a page. `functions` are names of global functions; the case gets them as its argument. */
export function runOn(page, module, list, name, functions = []) {
  return page.evaluate(
    async ([module, list, name, functions]) => {
      const cases = (await import(module))[list];
      await cases[name](Object.fromEntries(functions.map((name) => [name, globalThis[name]])));
    },
    [module, list, name, functions],
  );
}

function answer(request, response) {
  const url = new URL(request.url, "http://localhost");
  const send = (type, body) => response.writeHead(200, { "content-type": type }).end(body);
  if (url.pathname === "/") return send("text/html", page(url.searchParams.get("react")));
  if (url.pathname === "/react") return send("text/javascript", reactModule(url.searchParams.get("version")));
  const type = TYPES[extname(url.pathname)];
  // A browser also requests a favicon.
  if (!type || !/^\/(src\/web|tests\/web)\//.test(url.pathname)) return response.writeHead(404).end();
  send(type, readFileSync(join(ROOT, url.pathname)));
}

function page(react) {
  const at = `/react?version=${react}`;
  const imports = JSON.stringify({ imports: { react: at, "react-dom": at, "react-dom/client": at } });
  return `<!doctype html><title>Test</title><script type="importmap">${imports}</script><div id="root"></div>`;
}

/** Packs React, `react-dom` and `react-dom/client`, which are CommonJS, into one module that a browser can import. */
function reactModule(version) {
  const [react, dom, client] =
    version === "18"
      ? ["react-18", "react-dom-18", "client.js"]
      : ["react", "react-dom", "cjs/react-dom-client.development.js"];
  const require = createRequire(import.meta.url);
  const folder = (name, from = require) => dirname(from.resolve(`${name}/package.json`));
  const files = {
    react: join(folder(react), "cjs/react.development.js"),
    scheduler: join(folder("scheduler", createRequire(join(folder(dom), "x"))), "cjs/scheduler.development.js"),
    "react-dom": join(folder(dom), "cjs/react-dom.development.js"),
    "react-dom/client": join(folder(dom), client),
  };
  const wrapped = Object.entries(files).map(
    ([name, file]) => `${JSON.stringify(name)}: (module, exports) => {${readFileSync(file, "utf8")}\n}`,
  );
  const names = Object.keys(require(react)).filter((name) => !name.startsWith("__"));
  return `
    const process = { env: { NODE_ENV: "development" } };
    const made = {};
    const files = {${wrapped.join(",\n")}};
    function require(name) {
      if (!made[name]) {
        made[name] = { exports: {} };
        files[name](made[name], made[name].exports);
      }
      return made[name].exports;
    }
    export const { ${names.join(", ")} } = require("react");
    export const { flushSync } = require("react-dom");
    export const { createRoot } = require("react-dom/client");
  `;
}
