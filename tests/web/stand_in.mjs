// A server with tokens that expire, written from the wire protocol alone, with the package `ws`: what it does is the other
// opinion on what our server and client do.

import { once } from "node:events";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const PASSWORD = "a-long-lived-secret";

/** Starts a server whose tokens live for so many milliseconds. */
export async function standIn(life) {
  const expiries = new Map();
  const http = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://localhost");
    const isRight = pathname === "/token" && searchParams.get("token") === PASSWORD;
    response.setHeader("access-control-allow-origin", request.headers.origin ?? "null");
    if (!isRight) return response.writeHead(401).end();
    const token = crypto.randomUUID();
    expiries.set(token, Date.now() + life);
    response.end(token);
  });
  const sockets = new WebSocketServer({ server: http, handleProtocols: () => "switchboard.v1" });
  sockets.on("connection", (socket, request) => {
    const offered = request.headers["sec-websocket-protocol"]?.split(/, */) ?? [];
    serve(socket, offered[1]?.slice("bearer.".length), expiries);
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  const close = () => {
    for (const socket of sockets.clients) socket.terminate();
    http.close();
  };
  return { url: `ws://127.0.0.1:${http.address().port}`, close };
}

function serve(socket, token, expiries) {
  let timers = [];
  const send = (message) => socket.send(JSON.stringify({ ...message, timestamp: Date.now() }));
  const accept = (token) => {
    const left = (expiries.get(token) ?? 0) - Date.now();
    if (left <= 0) return false;
    timers.forEach(clearTimeout);
    const warn = () => send({ type: "event", channel: "auth:expiring", payload: { inMs: Math.floor(left / 2) } });
    timers = [setTimeout(warn, left / 2), setTimeout(() => socket.close(4401, "credential expired"), left)];
    return true;
  };
  socket.on("close", () => timers.forEach(clearTimeout));
  if (!accept(token)) return socket.close(4401, "token is not valid");
  send({ type: "event", channel: "server:connected", payload: { clientId: "1", serverTime: Date.now() } });
  socket.on("message", (text) => {
    const { id, channel, payload } = JSON.parse(text);
    const answer = (result) => send({ type: "response", id, channel, ...result });
    if (channel === "echo") return answer({ payload });
    if (channel === "slow") return setTimeout(() => answer({ payload }), 200);
    if (channel === "auth" && accept(payload.token)) return answer({ payload: { authenticated: true } });
    const code = channel === "auth" ? "UNAUTHORIZED" : "UNKNOWN_CHANNEL";
    answer({ error: { code, message: "refused" } });
  });
}
