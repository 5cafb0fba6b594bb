// Assertions and waiting, in Node and in browsers.

/** Compares two values as JSON, including `undefined`. */
export function equal(actual, expected, what = "") {
  const show = (value) => JSON.stringify(value, (_, part) => (part === undefined ? "(undefined)" : part));
  if (show(actual) !== show(expected)) throw new Error(`${what} expected ${show(expected)}, got ${show(actual)}`);
}

/** Returns the error of a promise that must fail, as `[code, message]`. */
export async function failure(promise, what = "a failure") {
  const error = await within(promise.then(() => null, (error) => error), what);
  if (!error) throw new Error(`expected ${what}`);
  return [error.code ?? error.name, error.message];
}

const { setTimeout, clearTimeout } = globalThis;

/** Waits for something that must happen. The deadline is so long that only a hang exceeds it. */
export async function within(promise, what) {
  let timer;
  const deadline = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out waiting for ${what}`)), 60_000);
  });
  return Promise.race([promise, deadline]).finally(() => clearTimeout(timer));
}

/** Waits until no promise can make progress without a timer. */
export async function settled() {
  for (let turn = 0; turn < 20; turn++) await null;
}

/** Records entries in order, and waits for more. */
export class Log {
  entries = [];
  #waiting = new Set();

  add = (...entry) => {
    this.entries.push(entry.length > 1 ? entry : entry[0]);
    for (const look of this.#waiting) look();
  };

  /** Removes and returns all entries. */
  take() {
    return this.entries.splice(0);
  }

  /** Waits until an entry matches; returns it, and removes it and the entries before it. */
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
