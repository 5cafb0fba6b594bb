// The start, the same for all: `PORT [THREADS]`, and `listening on PORT` when clients can connect.

export function portFromArguments() {
  const [port, threads = "1"] = process.argv.slice(2);
  if (!/^\d{1,5}$/.test(port ?? "") || Number(port) > 65535) {
    refuse("usage: PORT [THREADS], where PORT is 0..=65535");
  }
  // Several processes would not share their clients, but a broadcast must reach all of them.
  if (threads !== "1") {
    refuse(`THREADS: JavaScript runs on 1, got ${threads}`);
  }
  return Number(port);
}

export function announce(port) {
  process.stdout.write(`listening on ${port}\n`);
}

function refuse(why) {
  process.stderr.write(`${why}\n`);
  process.exit(2);
}
