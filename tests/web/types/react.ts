// Uses of react.js that must type-check, and uses that must not, marked with @ts-expect-error.

import { createElement, useEffect, useState } from "react";
import type { Chat } from "../../../src/web/client.js";
import { WebSocketProvider, useEvent, useRequest, useWebSocket } from "../../../src/web/react.js";

/** The return type in the specification. */
interface UseWebSocketReturn {
  isConnected: boolean;
  sendMessage: <T>(channel: string, payload?: unknown) => Promise<T>;
  onMessage: (channel: string, callback: (payload: unknown) => void) => () => void;
  connect: () => Promise<void>;
  disconnect: () => void;
}

/** The page of the specification, section "Frontend Usage", without its output. */
export function ChatPage() {
  const { isConnected, sendMessage, onMessage } = useWebSocket({
    url: "ws://localhost:3001",
  });

  const [chats, setChats] = useState<Chat[]>([]);

  // Load chats
  useEffect(() => {
    if (!isConnected) return;

    sendMessage<Chat[]>("chat:list")
      .then(setChats)
      .catch(console.error);
  }, [isConnected]);

  // Listen for updates
  useEffect(() => {
    const unsub = onMessage("chat:updated", (payload) => {
      const updated = payload as Chat;
      setChats((prev) => prev.map((c) => (c.id === updated.id ? updated : c)));
    });

    return unsub;
  }, [onMessage]);

  // Stream AI response
  const sendChatMessage = async (content: string) => {
    const chunks: string[] = [];

    onMessage("ai:stream-chunk", ({ chunk }: any) => {
      if (chunk.type === "text") {
        chunks.push(chunk.text);
        // Update UI with accumulated text
      }
    });

    await sendMessage("ai:chat-stream", {
      provider: "anthropic",
      model: "claude-sonnet-4-20250514",
      messages: [{ role: "user", content }],
      stream: true,
    });
  };

  return { chats, sendChatMessage };
}

export function Everything() {
  const socket = useWebSocket({ url: "ws://localhost:3001", autoConnect: false, token: "t", reconnectInterval: 5 });
  useWebSocket() satisfies typeof socket;
  const { data, error, loading, refetch } = useRequest("chat:list", { limit: 5 });
  data?.map((chat) => chat.title satisfies string);
  error?.code satisfies string | undefined;
  loading satisfies boolean;
  refetch();
  useRequest("chat:get-messages", { chatId: "1" }, socket).data?.messages;
  useRequest("my:own", { any: "thing" }).data.whatever;
  useRequest("chat:get", { id: "1" }, { enabled: socket.state === "open", socket }).data?.title;
  socket.lastError?.message satisfies string | undefined;
  useWebSocket({ url: () => "ws://localhost:3001", token: async () => "t" });
  // @ts-expect-error: no such option
  useRequest("chat:list", {}, { enable: true });
  useEvent("chat:created", (chat, channel) => [chat.title, channel satisfies "chat:created"], socket);
  useEvent("*", (payload, channel) => console.log(channel, payload));
  useEvent("my:own", (payload: { mine: boolean }) => payload.mine);

  // @ts-expect-error: the limit is a number
  useRequest("chat:list", { limit: "5" });
  // @ts-expect-error: a chat has no such member
  useRequest("chat:list").data?.map((chat) => chat.name);
  // @ts-expect-error: a chat has no such member
  useEvent("chat:created", (chat) => chat.name);
  // @ts-expect-error: the URL is needed
  useWebSocket({});
  // @ts-expect-error: the URL is needed
  createElement(WebSocketProvider, { autoConnect: true });
  return createElement(WebSocketProvider, { url: "ws://localhost:3001" }, "child", data?.length);
}

export const asSpecified = (socket: ReturnType<typeof useWebSocket>): UseWebSocketReturn => ({
  ...socket,
  sendMessage: (channel, payload) => socket.sendMessage(channel, payload),
});
