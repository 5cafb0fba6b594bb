// The console in headless Chromium, on the real server.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { chromium } from "playwright-core";
import WebSocket from "ws";

import { WSClient } from "../../src/web/client.js";
import { CHROMIUM, CHROMIUM_ARGUMENTS } from "./browser.mjs";
import { Server } from "./server.mjs";

/** Opens the console of a server, runs `work` on it, and checks that the page reported no error. */
async function withConsole(work, { args, viewport = { width: 1280, height: 800 }, between } = {}) {
  const server = await Server.start({ args });
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_ARGUMENTS });
  try {
    const page = await browser.newPage({ viewport });
    page.setDefaultTimeout(60_000);
    const errors = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    // These include violations of the Content-Security-Policy.
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    if (between) await page.routeWebSocket(server.url, (socket) => between(socket, socket.connectToServer()));
    await page.goto(server.url.replace(/^ws/, "http"));
    await work(page, server, errors);
    // The browser itself reports that it cannot reach the server.
    const ours = errors.filter((text) => !/WebSocket connection to .* failed/.test(text));
    assert.deepEqual(ours, []);
  } finally {
    await browser.close();
    await server.remove();
  }
}

const isConnected = (page) => page.locator("#dot[data-state=open]").waitFor();
const row = (page, list, text) => page.locator(`#${list} li`).filter({ hasText: text }).first();

async function call(server, channel, payload) {
  const client = new WSClient({ url: server.url, WebSocket });
  await client.connect();
  const answer = await client.sendMessage(channel, payload);
  client.disconnect();
  return answer;
}

test("it lists every channel, sends a request and shows the response", () =>
  withConsole(async (page, server) => {
    await isConnected(page);
    const channels = (await call(server, "system:channels")).map(({ channel }) => channel);
    await row(page, "channels", channels.at(-1)).waitFor();
    const listed = await page.locator("#channels button").evaluateAll((all) => all.map((one) => one.dataset.channel));
    assert.deepEqual(listed, channels);

    await page.keyboard.press("/");
    await page.keyboard.type("settings:set");
    await row(page, "channels", "settings:set").getByRole("button").click();
    assert.equal(await page.inputValue("#channel"), "settings:set");
    assert.deepEqual(JSON.parse(await page.inputValue("#payload")), { key: "theme", value: "dark" });
    await page.keyboard.press("Control+Enter");
    await page.locator("#response").getByText("no payload").waitFor();
    assert.match(await page.textContent("#latency"), /^\d+\.\d ms, /);
    assert.equal(await call(server, "settings:get", { key: "theme" }), "dark");

    await page.fill("#channel", "chat:list");
    await page.fill("#payload", '{"limit": 0}');
    await page.click("#send");
    await page.locator("#response").getByText("HANDLER_ERROR: limit: expected integer 1..=500").waitFor();
    await page.fill("#payload", "{");
    await page.click("#send");
    await page.locator("#payload-error").waitFor();
    assert.equal(await page.getAttribute("#payload", "aria-invalid"), "true");
    await page.fill("#payload", '{"limit":1}');
    await page.locator("#payload-error").waitFor({ state: "hidden" });
    await page.click("#format");
    assert.equal(await page.inputValue("#payload"), '{\n  "limit": 1\n}');

    await page.getByText("History").click();
    assert.equal(await page.locator("#history li").count(), 2);
    await row(page, "history", "chat:list").getByText("failed").waitFor();
    await row(page, "history", "settings:set").getByRole("button").first().click();
    assert.equal(await page.inputValue("#channel"), "settings:set");
    await call(server, "settings:set", { key: "theme", value: "light" });
    await page.getByRole("button", { name: "Send settings:set again" }).click();
    await page.locator("#response").getByText("no payload").waitFor();
    assert.equal(await call(server, "settings:get", { key: "theme" }), "dark");
  }));

test("it can be used with the keyboard", () =>
  withConsole(async (page) => {
    await isConnected(page);
    await row(page, "channels", "system:ping").waitFor();
    const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.dataset.channel);
    await page.keyboard.press("/");
    assert.equal(await focused(), "search");
    // The list is one stop of the Tab key; the arrow keys move inside it.
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "chat:list");
    await page.keyboard.press("ArrowDown");
    assert.equal(await focused(), "chat:create");
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "format");
    await page.keyboard.press("/");
    await page.keyboard.type("the server's time");
    await page.keyboard.press("Enter");
    assert.equal(await focused(), "payload");
    await page.keyboard.press("Control+Enter");
    await page.locator("#response").getByText("timestamp").waitFor();
  }));

test("the copied text is the text that was shown", () =>
  withConsole(async (page) => {
    await isConnected(page);
    await page.fill("#channel", "system:ping");
    await page.click("#send");
    await page.click("#copy");
    await page.locator("#copy").getByText("Copied").waitFor();
    const answer = await page.textContent("#response");
    await page.locator("#payload").fill("");
    await page.locator("#payload").press("Control+v");
    assert.equal(await page.inputValue("#payload"), answer);
    assert.match(answer, /^\{\n  "timestamp": \d+\n\}$/);
  }));

test("it shows events, filters and pauses them, and never interprets HTML", () =>
  withConsole(async (page, server) => {
    await isConnected(page);
    await call(server, "settings:set", { key: "k", value: "<img src=x onerror=alert(1)>" });
    await row(page, "events", "settings:changed").waitFor();
    await row(page, "events", "settings:changed").getByRole("button").click();
    await page.locator("#events pre").getByText("<img src=x onerror=alert(1)>").waitFor();
    assert.equal(await page.locator("#events img").count(), 0);

    await page.fill("#filter", "nothing like this");
    await page.getByText("No event matches the filter.").waitFor();
    await page.fill("#filter", "settings:changed");
    await row(page, "events", "settings:changed").waitFor();
    await page.fill("#filter", "");
    await page.click("#pause");
    await call(server, "settings:set", { key: "k", value: "meanwhile" });
    await page.locator("#pause").getByText("Go on (1)").waitFor();
    assert.equal(await row(page, "events", "meanwhile").count(), 0);
    await page.click("#pause");
    await row(page, "events", "meanwhile").waitFor();
    await page.click("#clear");
    await page.getByText("Events appear here").waitFor();
  }));

test("many events leave the log bounded, and an open row open", () =>
  withConsole(async (page, server) => {
    await isConnected(page);
    await row(page, "channels", "system:ping").waitFor();
    const client = new WSClient({ url: server.url, WebSocket });
    await client.connect();
    const flood = (count) => Promise.all(Array.from({ length: count }, (_, value) => client.sendMessage("settings:set", { key: "n", value })));
    await flood(100);
    await row(page, "events", '{"key":"n","value":99}').getByRole("button").click();
    await flood(300);
    await row(page, "events", '{"key":"n","value":299}').waitFor();
    assert.match(await page.locator("#events pre").textContent(), /"value": 99/);
    await flood(3000);
    await row(page, "events", '{"key":"n","value":2999}').waitFor();
    assert.equal(await page.locator("#events li").count(), 500);
    client.disconnect();
  }));

test("many changes of chats cause few requests", () =>
  withConsole(async (page, server) => {
    await isConnected(page);
    await page.click("#new-chat");
    await page.locator("#say").waitFor();
    const [{ id: chatId }] = await call(server, "chat:list");
    const client = new WSClient({ url: server.url, WebSocket });
    await client.connect();
    const before = (await client.sendMessage("system:stats")).requests;
    const said = Array.from({ length: 400 }, (_, n) => client.sendMessage("chat:add-message", { chatId, role: "user", content: `message ${n}` }));
    await Promise.all(said);
    await page.locator("#messages").getByText("message 399").waitFor();
    await row(page, "chats", "400").waitFor();
    const asked = (await client.sendMessage("system:stats")).requests - before - 400;
    assert.ok(asked < 100, `${asked} requests from the page`);
    assert.equal(await page.locator(".message").count(), 200);
    client.disconnect();
  }));

test("it shows chats, and messages that other clients add", () =>
  withConsole(async (page, server) => {
    await isConnected(page);
    await page.click("#new-chat");
    await page.fill("#words", "Hello from the page");
    await page.click("#add");
    await page.locator("#messages").getByText("Hello from the page").waitFor();
    const [chat] = await call(server, "chat:list");
    assert.equal(chat.messageCount, 1);
    await call(server, "chat:add-message", { chatId: chat.id, role: "assistant", content: [{ type: "text", text: "Hello <b>back</b>" }] });
    await page.locator("#messages").getByText("Hello <b>back</b>").waitFor();
    await row(page, "chats", "2New Chat").waitFor();
    await call(server, "chat:delete", { id: chat.id });
    await page.getByText("There are no chats yet.").waitFor();
    await page.getByText("Select a chat, or create a new one.").waitFor();
  }));

const CHAT_STREAM = { channel: "ai:chat-stream", direction: "Request", payload: "ChatRequest", response: "ChatResponse", description: "" };

/** Intercepts messages between page and server, and plays a model, or hides all models. */
const withModel = (answer) => (page, server) => {
  let listing;
  page.onMessage((text) => {
    const message = JSON.parse(text);
    if (message.channel === "system:channels") listing = message.id;
    if (message.channel === "ai:chat-stream") return answer(page, message);
    server.send(text);
  });
  server.onMessage((text) => {
    const message = JSON.parse(text);
    if (message.id !== listing || message.type !== "response") return page.send(text);
    const others = message.payload.filter(({ channel }) => !channel.startsWith("ai:"));
    page.send(JSON.stringify({ ...message, payload: answer ? [...others, CHAT_STREAM] : others }));
  });
};

test("it streams an answer into a chat, or says why it cannot", async () => {
  let asked;
  const answer = (page, { id, payload }) => {
    asked = payload;
    const event = (requestId, text) =>
      page.send(JSON.stringify({ type: "event", channel: "ai:stream-chunk", payload: { requestId, chunk: { type: "text", text } } }));
    event("another's", "not for this page");
    event(payload.requestId, "Hello ");
    event(payload.requestId, "<i>there</i>");
    asked.end = (error) => page.send(JSON.stringify({ type: "response", id, channel: "ai:chat-stream", error }));
  };
  await withConsole(
    async (page, server) => {
      await page.click("#new-chat");
      await page.locator("#say").waitFor();
      const [chat] = await call(server, "chat:list");
      await call(server, "chat:add-message", { chatId: chat.id, role: "user", content: [{ type: "text", text: "Before" }] });
      await page.locator("#messages").getByText("Before").waitFor();
      await page.fill("#words", "Who is there?");
      await page.keyboard.press("Enter");
      await page.locator("#live [aria-busy=true]").getByText("Hello <i>there</i>").waitFor();
      assert.equal(await page.locator("#live").textContent(), "userWho is there?assistantHello <i>there</i>");
      assert.equal(asked.chatId, chat.id);
      assert.deepEqual(asked.messages, [{ role: "user", content: "Before" }, { role: "user", content: "Who is there?" }]);
      assert.ok(await page.locator("#ask").isDisabled());
      asked.end({ code: "HANDLER_ERROR", message: "overloaded" });
      await page.locator("#live").getByText("HANDLER_ERROR: overloaded").waitFor();
      assert.equal(await page.inputValue("#words"), "Who is there?");

      await page.click("#ask");
      await page.locator("#live [aria-busy=true]").waitFor();
      await call(server, "chat:add-message", { chatId: chat.id, role: "assistant", content: "As it was stored" });
      asked.end();
      await page.locator("#messages").getByText("As it was stored").waitFor();
      assert.equal(await page.locator("#live").textContent(), "");
    },
    { between: withModel(answer) },
  );
  await withConsole(
    async (page) => {
      await page.click("#new-chat");
      await page.getByText("this server has no ai:chat-stream").waitFor();
      assert.ok(await page.locator("#ask").isHidden());
    },
    { between: withModel(null) },
  );
});

test("question and answer are stored in the chat", () =>
  withConsole(async (page, server) => {
    await page.click("#new-chat");
    await page.selectOption("#model", "echo/echo");
    await page.fill("#words", "one two three");
    await page.keyboard.press("Enter");
    await page.locator("#messages [data-role=assistant]").getByText("one two three").waitFor();
    await page.locator("#live > *").waitFor({ state: "detached" });
    const [{ id: chatId }] = await call(server, "chat:list");
    const { messages } = await call(server, "chat:get-messages", { chatId });
    const said = messages.map(({ role, content }) => [role, content]);
    assert.deepEqual(said, [["user", "one two three"], ["assistant", "one two three"]]);
    assert.equal(await page.locator(".message").count(), 2);
  }));

test("it works with a server without a registry", () =>
  withConsole(
    async (page) => {
      await isConnected(page);
      await page.locator("#channels").getByText("This server does not list its channels").waitFor();
      assert.ok(await page.locator("#figures").isHidden());
      assert.ok(await page.locator("#chat-card").isHidden());
      await page.fill("#channel", "system:ping");
      await page.click("#send");
      await page.locator("#response").getByText("timestamp").waitFor();
    },
    {
      between: (page, server) => {
        server.onMessage((text) => page.send(text));
        page.onMessage((text) => {
          const { id, channel } = JSON.parse(text);
          const error = { code: "UNKNOWN_CHANNEL", message: `No handler for: ${channel}` };
          if (channel === "system:channels") page.send(JSON.stringify({ type: "response", id, channel, error }));
          else server.send(text);
        });
      },
    },
  ));

test("the page runs no script but its own", () =>
  withConsole(async (page, server, errors) => {
    await isConnected(page);
    await page.evaluate(() => document.body.append(Object.assign(document.createElement("script"), { textContent: "ran = true" })));
    assert.equal(await page.evaluate(() => typeof ran), "undefined");
    // Only here the page reports an error.
    assert.match(errors.splice(0).join(), /Content Security Policy/);
  }));

test("it reconnects after a restart, and shows its state meanwhile", () =>
  withConsole(async (page, server) => {
    await isConnected(page);
    await server.kill();
    await page.locator("#banner").getByText(/^No connection\. Attempt \d+ in/).waitFor();
    assert.equal(await page.getAttribute("#dot", "data-state"), "connecting");
    await server.restart();
    await isConnected(page);
    await page.locator("#banner").getByText(/^Connected again after \d+ s\.$/).waitFor();
    await page.locator("#banner").waitFor({ state: "hidden" });
    await page.fill("#channel", "system:ping");
    await page.click("#send");
    await page.locator("#response").getByText("timestamp").waitFor();
    await server.stop();
    await page.locator("#banner").getByText(/^The server is stopping\. Attempt/).waitFor();
    await server.restart();
    await page.click("#retry");
    await isConnected(page);
  }));

test("it shows figures and charts", () =>
  withConsole(async (page) => {
    await page.locator("#f-latency").getByText(/^\d+\.\d ms$/).waitFor();
    assert.equal(await page.textContent("#f-clients"), "1");
    const drawn = (path) => page.waitForFunction((path) => document.querySelector(path).getAttribute("d")?.length > 0, path);
    await drawn("#chart-rate path");
    await drawn("#chart-latency path");
    assert.equal(await page.getAttribute("#chart-calls", "d"), "");
    await page.fill("#channel", "system:ping");
    await page.click("#send");
    await drawn("#chart-calls");
  }));

test("it asks for the token, and keeps it for a reload", async () => {
  const folder = mkdtempSync(join(tmpdir(), "switchboard-token-"));
  writeFileSync(join(folder, "token"), "s3cret\n");
  const show = async (page, token) => {
    await page.fill("#token", token);
    await page.getByRole("button", { name: "Connect" }).click();
  };
  await withConsole(
    async (page, server) => {
      await page.locator("#state").getByText("locked").waitFor();
      await show(page, "wrong");
      await page.locator("#token-error").getByText("Token is wrong").waitFor();
      await show(page, "s3cret");
      await row(page, "channels", "chat:create").waitFor();
      await page.locator("#token-form").waitFor({ state: "hidden" });
      await page.reload();
      await row(page, "channels", "chat:create").waitFor();
      assert.ok(await page.locator("#token-form").isHidden());

      await server.kill();
      await page.locator("#banner").getByText("No connection.").waitFor();
      await server.restart();
      await page.locator("#f-latency").getByText(/ms$/).waitFor();
      assert.ok(await page.locator("#token-form").isHidden());
    },
    { args: ["--token-file", join(folder, "token")] },
  ).finally(() => rmSync(folder, { recursive: true }));
});

test("the address of a private server signs in, and keeps the token out of the address bar and the history", () =>
  withConsole(
    async (page, server) => {
      const token = readFileSync(join(server.dataDir, "switchboard.token"), "utf8").trim();
      const address = server.url.replace(/^ws/, "http");
      const requests = [];
      page.on("request", (request) => requests.push(request.url() + JSON.stringify(request.headers())));
      const isSignedIn = async () => {
        await row(page, "channels", "chat:create").waitFor();
        assert.ok(await page.locator("#token-form").isHidden());
        assert.equal(page.url(), `${address}/`);
        const kept = await page.evaluate(() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]);
        assert.deepEqual(kept.map((text) => text.includes(token)), [true, false, false]);
      };
      await page.locator("#state").getByText("locked").waitFor();
      // In the open page, then in a new one.
      await page.goto(`${address}/#token=${token}`);
      await isSignedIn();
      await page.goto("about:blank");
      await page.goto(`${address}/#token=wrong`);
      await page.locator("#token-error").getByText("Token is wrong").waitFor();
      await page.goto("about:blank");
      await page.goto(`${address}/#token=${token}`);
      await isSignedIn();
      await page.reload();
      await isSignedIn();
      await page.goBack();
      await page.goForward();
      await isSignedIn();
      assert.ok(requests.length > 0 && !requests.some((request) => request.includes(token)));
    },
    { args: ["--private"] },
  ));

test("it fits on a phone, and follows the theme", () =>
  withConsole(
    async (page, server) => {
      await isConnected(page);
      await call(server, "settings:set", { key: "k".repeat(200), value: "x".repeat(500) });
      await row(page, "events", "settings:changed").waitFor();
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(overflow <= 0, `${overflow} px too wide`);
      const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const [light, dark] = ["rgb(245, 246, 246)", "rgb(18, 22, 23)"];
      await page.emulateMedia({ colorScheme: "dark" });
      assert.equal(await background(), dark);
      await page.click("#theme");
      assert.equal(await background(), light);
      await page.click("#theme");
      assert.equal(await background(), dark);
    },
    { viewport: { width: 360, height: 740 } },
  ));

test("an operator can disable it", async () => {
  const server = await Server.start({ args: ["--no-console"] });
  try {
    const status = async (path) => (await fetch(server.url.replace(/^ws/, "http") + path)).status;
    assert.equal(await status("/"), 426);
    assert.equal(await status("/client.js"), 200);
  } finally {
    await server.remove();
  }
});
