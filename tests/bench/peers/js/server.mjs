// WSServer, RateLimiter and messages of the specification, in JavaScript and without comments; a subclass adds the sockets of
// the runtime. Differences:
// - The rate window counts, but allows 100 000 000 requests a second instead of 100.
// - Connections and disconnections are not logged.
// - An invalid message is answered with INVALID_MESSAGE; the specification only logs it.
// - PORT can be 0, and no other port is tried; `listening on PORT` is printed for the host 127.0.0.1.

const createEvent = (channel, payload) => ({ type: "event", channel, payload, timestamp: Date.now() });

// JSON.stringify omits undefined members.
const createResponse = (id, channel, payload, error) => ({
  type: "response",
  id,
  channel,
  payload,
  error,
  timestamp: Date.now(),
});

const createError = (code, message, details) => ({ code, message, details });

const isWSRequest = (msg) =>
  typeof msg === "object" &&
  msg !== null &&
  msg.type === "request" &&
  typeof msg.id === "string" &&
  typeof msg.channel === "string";

class RateLimiter {
  windows = new Map();

  constructor(config) {
    this.config = config;
  }

  check(clientId) {
    const now = Date.now();
    let window = this.windows.get(clientId);
    if (!window || now >= window.resetAt) {
      window = { count: 0, resetAt: now + this.config.windowMs };
      this.windows.set(clientId, window);
    }
    window.count++;
    return window.count <= this.config.maxRequests;
  }

  clear(clientId) {
    this.windows.delete(clientId);
  }
}

export const createClientData = () => ({
  id: crypto.randomUUID(),
  connectedAt: new Date(),
  lastActivity: new Date(),
  requestCount: 0,
});

export class WSServer {
  clients = new Map();
  handlers = new Map();
  rateLimiter = new RateLimiter({ windowMs: 1000, maxRequests: 100_000_000 });

  constructor() {
    this.onRequest("echo", async (payload) => payload);
    this.onRequest("wait", async (payload) => {
      await new Promise((resolve) => setTimeout(resolve, 10));
      return payload;
    });
    this.onRequest("broadcast", async (payload) => {
      this.emit("tick", payload);
      return { sent: this.clients.size };
    });
  }

  onRequest(channel, handler) {
    this.handlers.set(channel, handler);
  }

  emit(channel, payload) {
    this.sendToAll(JSON.stringify(createEvent(channel, payload)));
  }

  sendToAll(message) {
    for (const ws of this.clients.values()) {
      ws.send(message);
    }
  }

  emitTo(clientId, channel, payload) {
    const ws = this.clients.get(clientId);
    if (ws) ws.send(JSON.stringify(createEvent(channel, payload)));
  }

  handleOpen(ws) {
    this.clients.set(ws.data.id, ws);
    ws.send(JSON.stringify(createEvent("server:connected", { clientId: ws.data.id, serverTime: Date.now() })));
  }

  async handleMessage(ws, message) {
    ws.data.lastActivity = new Date();
    ws.data.requestCount++;

    if (!this.rateLimiter.check(ws.data.id)) {
      const error = createError("RATE_LIMITED", "Too many requests");
      ws.send(JSON.stringify(createResponse("rate_limited", "system", undefined, error)));
      return;
    }

    let msg;
    try {
      msg = JSON.parse(message.toString());
    } catch (err) {
      this.refuse(ws, err.message);
      return;
    }
    if (isWSRequest(msg)) {
      await this.handleRequest(ws, msg);
    } else {
      this.refuse(ws, "Not a request");
    }
  }

  refuse(ws, message) {
    const error = createError("INVALID_MESSAGE", message);
    ws.send(JSON.stringify(createResponse("invalid_message", "system", undefined, error)));
  }

  async handleRequest(ws, request) {
    const handler = this.handlers.get(request.channel);
    if (!handler) {
      const error = createError("UNKNOWN_CHANNEL", `No handler for: ${request.channel}`);
      ws.send(JSON.stringify(createResponse(request.id, request.channel, undefined, error)));
      return;
    }

    const context = {
      clientId: ws.data.id,
      requestId: request.id,
      emit: (channel, payload) => this.emitTo(ws.data.id, channel, payload),
    };

    try {
      const result = await handler(request.payload, context);
      ws.send(JSON.stringify(createResponse(request.id, request.channel, result)));
    } catch (err) {
      const error = createError("HANDLER_ERROR", err instanceof Error ? err.message : String(err));
      ws.send(JSON.stringify(createResponse(request.id, request.channel, undefined, error)));
    }
  }

  handleClose(ws) {
    this.clients.delete(ws.data.id);
    this.rateLimiter.clear(ws.data.id);
  }
}
