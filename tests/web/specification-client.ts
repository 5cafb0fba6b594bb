// The client class of the specification, unmodified, from the line "WEBSOCKET CLIENT (Frontend)" on. Above it are the
// functions that it calls, which the specification only describes (section "Message Types"); below it is the export.

interface WSResponse {
  type: 'response';
  id: string;
  channel: string;
  payload?: unknown;
  error?: { code: string; message: string; details?: unknown };
  timestamp: number;
}

interface WSEvent {
  type: 'event';
  channel: string;
  payload: unknown;
  timestamp: number;
}

function createRequest(channel: string, payload: unknown) {
  return { type: 'request', id: crypto.randomUUID(), channel, payload, timestamp: Date.now() };
}

function isWSResponse(message: { type?: unknown }): message is WSResponse {
  return message.type === 'response';
}

function isWSEvent(message: { type?: unknown }): message is WSEvent {
  return message.type === 'event';
}

// =============================================================================
// WEBSOCKET CLIENT (Frontend)
// =============================================================================

interface WSClientOptions {
  url: string;
  reconnect?: boolean;
  reconnectInterval?: number;
  maxReconnectAttempts?: number;
  requestTimeout?: number;
}

type EventCallback = (payload: unknown) => void;

class WSClient {
  private ws: WebSocket | null = null;
  private options: WSClientOptions;
  private pendingRequests = new Map<string, {
    resolve: (result: unknown) => void;
    reject: (error: Error) => void;
    timeout: ReturnType<typeof setTimeout>;
  }>();
  private eventListeners = new Map<string, Set<EventCallback>>();
  private reconnectAttempts = 0;
  private isClosing = false;

  constructor(options: WSClientOptions) {
    this.options = {
      reconnect: true,
      reconnectInterval: 1000,
      maxReconnectAttempts: 10,
      requestTimeout: 30000,
      ...options,
    };
  }

  // ---------------------------------------------------------------------------
  // CONNECTION
  // ---------------------------------------------------------------------------

  /**
   * Connect to WebSocket server
   */
  connect(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.ws = new WebSocket(this.options.url);

      this.ws.onopen = () => {
        this.reconnectAttempts = 0;
        resolve();
      };

      this.ws.onerror = (event) => {
        reject(new Error('WebSocket connection failed'));
      };

      this.ws.onclose = () => {
        this.handleClose();
      };

      this.ws.onmessage = (event) => {
        this.handleMessage(event.data);
      };
    });
  }

  /**
   * Disconnect from server
   */
  disconnect(): void {
    this.isClosing = true;
    if (this.ws) {
      this.ws.close();
      this.ws = null;
    }
  }

  // ---------------------------------------------------------------------------
  // REQUEST/RESPONSE
  // ---------------------------------------------------------------------------

  /**
   * Send a request and wait for response
   */
  async sendMessage<T = unknown>(channel: string, payload?: unknown): Promise<T> {
    if (!this.ws || this.ws.readyState !== WebSocket.OPEN) {
      throw new Error('WebSocket not connected');
    }

    return new Promise((resolve, reject) => {
      const request = createRequest(channel, payload);

      const timeout = setTimeout(() => {
        this.pendingRequests.delete(request.id);
        reject(new Error(`Request timeout: ${channel}`));
      }, this.options.requestTimeout!);

      this.pendingRequests.set(request.id, {
        resolve: resolve as (result: unknown) => void,
        reject,
        timeout,
      });

      this.ws!.send(JSON.stringify(request));
    });
  }

  // ---------------------------------------------------------------------------
  // EVENTS
  // ---------------------------------------------------------------------------

  /**
   * Subscribe to server events
   */
  onMessage(channel: string, callback: EventCallback): () => void {
    if (!this.eventListeners.has(channel)) {
      this.eventListeners.set(channel, new Set());
    }
    this.eventListeners.get(channel)!.add(callback);

    // Return unsubscribe function
    return () => {
      this.eventListeners.get(channel)?.delete(callback);
    };
  }

  /**
   * Remove all listeners for a channel
   */
  offMessage(channel: string): void {
    this.eventListeners.delete(channel);
  }

  // ---------------------------------------------------------------------------
  // PRIVATE
  // ---------------------------------------------------------------------------

  private handleMessage(data: string): void {
    try {
      const message = JSON.parse(data);

      if (isWSResponse(message)) {
        this.handleResponse(message);
      } else if (isWSEvent(message)) {
        this.handleEvent(message);
      }
    } catch (err) {
      console.error('[WS Client] Message parse error:', err);
    }
  }

  private handleResponse(response: WSResponse): void {
    const pending = this.pendingRequests.get(response.id);
    if (!pending) return;

    clearTimeout(pending.timeout);
    this.pendingRequests.delete(response.id);

    if (response.error) {
      pending.reject(new Error(response.error.message));
    } else {
      pending.resolve(response.payload);
    }
  }

  private handleEvent(event: WSEvent): void {
    const listeners = this.eventListeners.get(event.channel);
    if (listeners) {
      for (const callback of listeners) {
        try {
          callback(event.payload);
        } catch (err) {
          console.error(`[WS Client] Event handler error (${event.channel}):`, err);
        }
      }
    }
  }

  private handleClose(): void {
    // Reject all pending requests
    for (const [id, { reject, timeout }] of this.pendingRequests) {
      clearTimeout(timeout);
      reject(new Error('Connection closed'));
    }
    this.pendingRequests.clear();

    // Attempt reconnection
    if (!this.isClosing && this.options.reconnect) {
      if (this.reconnectAttempts < this.options.maxReconnectAttempts!) {
        this.reconnectAttempts++;
        const delay = this.options.reconnectInterval! * Math.pow(1.5, this.reconnectAttempts - 1);

        console.log(`[WS Client] Reconnecting in ${delay}ms (attempt ${this.reconnectAttempts})`);

        setTimeout(() => {
          this.connect().catch(err => {
            console.error('[WS Client] Reconnection failed:', err);
          });
        }, delay);
      } else {
        console.error('[WS Client] Max reconnection attempts reached');
        this.emitEvent('connection:failed', {});
      }
    }
  }

  private emitEvent(channel: string, payload: unknown): void {
    const listeners = this.eventListeners.get(channel);
    if (listeners) {
      for (const callback of listeners) {
        callback(payload);
      }
    }
  }

  // ---------------------------------------------------------------------------
  // UTILITIES
  // ---------------------------------------------------------------------------

  get isConnected(): boolean {
    return this.ws !== null && this.ws.readyState === WebSocket.OPEN;
  }

  get connectionState(): 'connecting' | 'open' | 'closing' | 'closed' {
    if (!this.ws) return 'closed';
    switch (this.ws.readyState) {
      case WebSocket.CONNECTING: return 'connecting';
      case WebSocket.OPEN: return 'open';
      case WebSocket.CLOSING: return 'closing';
      case WebSocket.CLOSED: return 'closed';
      default: return 'closed';
    }
  }
}

export { WSClient };
