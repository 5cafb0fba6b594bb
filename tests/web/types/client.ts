// Uses of client.js that must type-check, and uses that must not, marked with @ts-expect-error.

import { WSClient, WSClientError } from "../../../src/web/client.js";
import type { Channels, Chat, Message, MessagePage, Settings, WSErrorCode } from "../../../src/web/client.js";
import { WebSocket as NodeWebSocket } from "ws";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
/** Fails to compile unless the type argument is `true`. */
declare function holds<Claim extends true>(): void;

declare const anyone: boolean;
const client = new WSClient({ url: "ws://localhost:3001" });
new WSClient({ url: new URL("ws://localhost"), token: "t", reconnect: false, reconnectInterval: 1, requestTimeout: 0 });
new WSClient({ url: "ws://localhost", maxReconnectAttempts: Infinity, connectTimeout: 1, WebSocket });
new WSClient({ url: "ws://localhost", WebSocket: NodeWebSocket });
new WSClient({ url: () => "ws://localhost", token: () => (anyone ? "t" : undefined), maxQueued: 10 });
new WSClient({ url: async () => new URL("ws://localhost"), token: async () => (anyone ? "t" : undefined) });
// @ts-expect-error: null is not a token
new WSClient({ url: "ws://localhost", token: null });
// @ts-expect-error: the function returns no token
new WSClient({ url: "ws://localhost", token: () => 5 });
// @ts-expect-error: the URL is needed
new WSClient({});
// @ts-expect-error: no such option
new WSClient({ url: "ws://localhost", reconnects: true });

async function calls(signal: AbortSignal, anyChannel: string) {
  const chats = await client.sendMessage("chat:list", { limit: 5 });
  holds<Same<typeof chats, Chat[]>>();
  const chat = await client.sendMessage("chat:get", { id: "1" });
  holds<Same<typeof chat, Chat | null>>();
  const page = await client.sendMessage("chat:get-messages", { chatId: "1" }, { timeout: 500, signal });
  holds<Same<typeof page, MessagePage>>();
  const deleted = await client.sendMessage("chat:delete", { id: "1" });
  holds<Same<typeof deleted, boolean>>();
  const message = await client.sendMessage("chat:add-message", { chatId: "1", role: "user", content: "Hi" });
  holds<Same<typeof message, Message>>();
  const settings = await client.sendMessage("settings:update", { theme: "dark", "my.own": [1] });
  holds<Same<typeof settings.theme, "system" | "light" | "dark">>();
  const nothing = await client.sendMessage("settings:set", { key: "theme", value: 1 });
  holds<Same<typeof nothing, undefined>>();
  // These payloads have no required members.
  await client.sendMessage("chat:list");
  await client.sendMessage("chat:create");
  await client.sendMessage("settings:reset");
  await client.sendMessage("system:ping");
  await client.sendMessage("system:ping", undefined, { timeout: 10 });

  // @ts-expect-error: the limit is a number
  await client.sendMessage("chat:list", { limit: "5" });
  // @ts-expect-error: no such member
  await client.sendMessage("chat:list", { limits: 5 });
  // @ts-expect-error: the id is needed
  await client.sendMessage("chat:get");
  // @ts-expect-error: the id is needed
  await client.sendMessage("chat:get", {});
  // @ts-expect-error: no such role
  await client.sendMessage("chat:add-message", { chatId: "1", role: "robot", content: "Hi" });
  // @ts-expect-error: no such theme
  await client.sendMessage("settings:update", { theme: "pink" });
  // @ts-expect-error: the channel has no payload
  await client.sendMessage("system:ping", { now: true });
  // @ts-expect-error: no such option
  await client.sendMessage("chat:list", {}, { timeoutMs: 1 });
  // @ts-expect-error: the response is not a string
  const wrong: string = await client.sendMessage("chat:list");

  // Channels that are not in the registry accept and return anything.
  const unknown = await client.sendMessage("my:channel", { any: "thing" }, { timeout: 1 });
  holds<Same<typeof unknown, unknown>>();
  const said = await client.sendMessage<{ mine: true }>("my:channel");
  holds<Same<typeof said, { mine: true }>>();
  const inferred: Map<string, number> = await client.sendMessage("my:channel");
  await client.sendMessage(anyChannel, 5);
  // The form of the specification also works for channels of the registry.
  const named = await client.sendMessage<Chat[]>("chat:list", { limit: 5 });
  holds<Same<typeof named, Chat[]>>();
  return [wrong, inferred];
}

async function connections() {
  await client.connect({ retry: false });
  await client.setToken("t");
  await client.setToken(async () => "t");
  client.lastError?.code satisfies string | undefined;
  // A program can have codes of its own.
  if (client.lastError?.code === "NOT_FOUND") return;
  client.onMessage("connection:failed", ({ attempts, reason, error }) => [attempts + 1, reason.length, error.details.code]);
  client.onMessage("auth:expiring", ({ inMs }) => inMs + 1);
  // @ts-expect-error: no such option
  await client.connect({ retries: 1 });
}

function events(anyChannel: string) {
  const end = client.onMessage("chat:created", (chat, channel) => {
    holds<Same<typeof chat, Chat>>();
    holds<Same<typeof channel, "chat:created">>();
  });
  end();
  client.once("server:shutdown", ({ reason }) => reason.length);
  client.onMessage("connection:reconnecting", ({ attempt, delayMs }) => attempt + delayMs);
  client.onMessage("*", (payload, channel) => {
    holds<Same<typeof payload, unknown>>();
    holds<Same<typeof channel, string>>();
  });
  client.onMessage("ai:stream", ({ chunk }: any) => chunk);
  client.onMessage("my:event", (payload: { mine: boolean }) => payload.mine);
  client.onMessage<{ mine: boolean }>(anyChannel, (payload) => payload.mine);
  client.offMessage("chat:created");

  // @ts-expect-error: a chat has no such member
  client.onMessage("chat:created", (chat) => chat.name);
  // @ts-expect-error: the payload is not a number
  client.onMessage("chat:created", (chat: number) => chat);
  // @ts-expect-error: as for onMessage
  client.once("chat:deleted", ({ title }) => title);
}

async function rest() {
  const state: "connecting" | "open" | "closing" | "closed" = client.connectionState;
  const done: void = await client.connect({ retry: true });
  // @ts-expect-error: read-only
  client.isConnected = true;
  try {
    client.disconnect();
  } catch (error) {
    if (error instanceof WSClientError) {
      const code: WSErrorCode = error.code;
      if (error.code === "NOT_FOUND") return code; // an app's own
      // @ts-expect-error: codes are texts
      if (error.code === 404) return code;
      return [error.channel, error.details.path, error.message];
    }
  }
  return [state, done];
}

// A program can add its own channels to the registry.
declare module "../../../src/web/client.js" {
  interface Channels {
    "my:typed": { payload: { a: number }; response: string };
  }
  interface Events {
    "my:typed-event": { b: boolean };
  }
}

async function own() {
  const text = await client.sendMessage("my:typed", { a: 1 });
  holds<Same<typeof text, string>>();
  // @ts-expect-error: the member is a number
  await client.sendMessage("my:typed", { a: "1" });
  client.onMessage("my:typed-event", ({ b }) => b satisfies boolean);
}

// The types that the channels name exist.
declare const all: { [Name in keyof Channels]: Channels[Name]["payload"] | Channels[Name]["response"] };
declare const settings: Settings;
// @ts-expect-error: no type in the registry is `any`
holds<Same<(typeof all)[keyof typeof all], any>>();
settings["language"].length;
export { calls, connections, events, own, rest };
