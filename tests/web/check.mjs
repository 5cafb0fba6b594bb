// Assertions and waiting, in Node and in browsers alike.

/** Compares what two values are as JSON, `undefined` included. */
export function equal(actual, expected, what = "") {
  const show = (value) => JSON.stringify(value, (_, part) => (part === undefined ? "(undefined)" : part));
  if (show(actual) !== show(expected)) throw new Error(`${what} expected ${show(expected)}, got ${show(actual)}`);
}

/** The error of a promise that must fail, as `[code, message]`. */
export async function failure(promise, what = "a failure") {
  const error = await within(promise.then(() => null, (error) => error), what);
  if (!error) throw new Error(`expected ${what}`);
  return [error.code ?? error.name, error.message];
}

const { setTimeout, clearTimeout } = globalThis;

/** Waits for something that must come; so generous that only a hang misses it. */
export async function within(promise, what) {
  let timer;
  const deadline = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), 60_000);
  });
  return Promise.race([promise, deadline]).finally(() => clearTimeout(timer));
}

/** Waits until every promise that can go on by itself has done so. Timers do not. */
export async function settled() {
  for (let turn = 0; turn < 20; turn++) await null;
}

/** What was seen, in order, and the means to wait for more. */
export class Log {
  entries = [];
  #waiting = new Set();

  add = (...entry) => {
    this.entries.push(entry.length > 1 ? entry : entry[0]);
    for (const look of this.#waiting) look();
  };

  /** What was seen since the last time. */
  take() {
    return this.entries.splice(0);
  }

  /** Waits until an entry fits; answers it and forgets it and those before it. */
  until(fits, what = String(fits)) {
    return within(
      new Promise((resolve) => {
        const look = () => {
          const index = this.entries.findIndex(fits);
          if (index < 0) return;
          this.#waiting.delete(look);
          resolve(this.entries.splice(0, index + 1).at(-1));
        };
        this.#waiting.add(look);
        look();
      }),
      `${what}; seen: ${JSON.stringify(this.entries)}`,
    );
  }
}
