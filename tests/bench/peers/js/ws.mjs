// The server of the specification on Node with the package `ws`, as its documentation recommends: no compression, the native
// `bufferutil`, and pings that detect dead clients. WSServer has the only registry of clients.

import { WebSocketServer } from "ws";
import { announce, portFromArguments } from "./start.mjs";
import { createClientData, WSServer } from "./server.mjs";

const PING_INTERVAL_MS = 30_000;
const IDLE_TIMEOUT_MS = 120_000;

class NodeServer extends WSServer {
  start({ port, host }) {
    this.server = new WebSocketServer({
      port,
      host,
      backlog: 1024,
      clientTracking: false,
      perMessageDeflate: false,
      maxPayload: 16 * 1024 * 1024,
    });
    this.server.on("connection", (ws) => this.handleConnection(ws));
    setInterval(() => this.ping(), PING_INTERVAL_MS);
    return new Promise((resolve, reject) => {
      this.server.on("listening", () => resolve(this.server.address().port));
      this.server.on("error", reject);
    });
  }

  handleConnection(ws) {
    ws.data = createClientData();
    ws.on("message", (message) => this.handleMessage(ws, message));
    ws.on("pong", () => (ws.data.lastActivity = new Date()));
    ws.on("close", () => this.handleClose(ws));
    // Without a listener an error would end the process; `close` follows.
    ws.on("error", () => {});
    this.handleOpen(ws);
  }

  // A Buffer, so that the text is encoded once for all clients.
  sendToAll(message) {
    const bytes = Buffer.from(message);
    for (const ws of this.clients.values()) {
      ws.send(bytes, { binary: false });
    }
  }

  // Bun sends pings itself.
  ping() {
    const oldest = Date.now() - IDLE_TIMEOUT_MS;
    for (const ws of this.clients.values()) {
      if (ws.data.lastActivity.getTime() < oldest) ws.terminate();
      else ws.ping();
    }
  }
}

const server = new NodeServer();
announce(await server.start({ port: portFromArguments(), host: "127.0.0.1" }));
