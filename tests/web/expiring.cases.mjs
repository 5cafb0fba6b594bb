// Traffic of a client whose credential expires again and again. Runs in Node and in browsers.

import { WSClient } from "../../src/web/client.js";

/** The long-lived secret of the example server, which gives a token for it. */
const PASSWORD = "a-long-lived-secret";

/**
 * Makes calls, quick and slow ones at the same time, for at least so many seconds and renewals. Returns what happened.
 * The server gives tokens at `/token`; its channels are `echo` and `slow`.
 */
export async function traffic(url, { seconds, renewals }, WebSocket) {
  const seen = { calls: 0, failures: [], tokens: 0, warnings: 0, opened: 0, events: [] };
  const token = async () => {
    seen.tokens += 1;
    const response = await fetch(`${url.replace("ws:", "http:")}/token?token=${PASSWORD}`);
    if (!response.ok) throw new Error(`status ${response.status}`);
    return response.text();
  };
  const client = new WSClient({ url, token, WebSocket });
  client.onMessage("auth:expiring", () => (seen.warnings += 1));
  client.onMessage("connection:open", () => (seen.opened += 1));
  for (const name of ["closed", "reconnecting", "failed", "auth-failed"]) {
    client.onMessage(`connection:${name}`, ({ reason, error }) => seen.events.push([name, reason ?? error?.message]));
  }
  await client.connect();
  const end = performance.now() + 1000 * seconds;
  const isDone = () => performance.now() >= end && seen.warnings >= renewals;
  const loop = async (channel) => {
    for (let n = 0; seen.failures.length === 0 && !isDone(); n++) {
      try {
        const answer = await client.sendMessage(channel, n);
        if (answer !== n) throw new Error(`${channel} answered ${answer} to ${n}`);
        seen.calls += 1;
        // So that all clients of a long run together leave the machine some time.
        await new Promise((resolve) => setTimeout(resolve, 10));
      } catch (error) {
        seen.failures.push([channel, error.code, error.message]);
      }
    }
  };
  await Promise.all([loop("echo"), loop("echo"), loop("slow"), loop("slow")]);
  const result = { ...seen, events: [...seen.events] };
  client.disconnect();
  return result;
}
