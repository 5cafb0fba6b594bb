// The start, alike for all: `PORT [THREADS]`, and `listening on PORT` when clients may come.

export function portFromArguments() {
  const [port, threads = "1"] = process.argv.slice(2);
  if (!/^\d{1,5}$/.test(port ?? "") || Number(port) > 65535) {
    refuse("usage: PORT [THREADS], where PORT is 0..=65535");
  }
  // More processes would have no clients in common, whom a broadcast must reach.
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
