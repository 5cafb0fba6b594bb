// The server of the specification, on Bun.

import { registerChats } from "./chats.mjs";
import { announce, portFromArguments } from "./start.mjs";
import { createClientData, WSServer } from "./server.mjs";

class BunServer extends WSServer {
  start({ port, host }) {
    this.server = Bun.serve({
      port,
      hostname: host,
      fetch: (req, server) => this.handleUpgrade(req, server),
      websocket: {
        open: (ws) => this.handleOpen(ws),
        message: (ws, msg) => this.handleMessage(ws, msg),
        close: (ws) => this.handleClose(ws),
        idleTimeout: 120,
        maxPayloadLength: 16 * 1024 * 1024,
      },
    });
    return this.server.port;
  }

  handleUpgrade(req, server) {
    const upgraded = server.upgrade(req, {
      data: createClientData(),
    });
    if (!upgraded) {
      return new Response("WebSocket upgrade failed", { status: 400 });
    }
    return undefined;
  }
}

const server = new BunServer();
if (process.env.CHATS) registerChats(server, process.env.CHATS);
announce(server.start({ port: portFromArguments(), host: "127.0.0.1" }));
