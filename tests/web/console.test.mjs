// The console in headless Chromium, on the real server.

import assert from "node:assert/strict";
import { test } from "node:test";

import { chromium } from "playwright-core";
import WebSocket from "ws";

import { WSClient } from "../../src/web/client.js";
import { CHROMIUM, CHROMIUM_ARGUMENTS } from "./browser.mjs";
import { Server } from "./server.mjs";

/** Opens the console of a server, does something with it, and sees that the page had nothing to complain about. */
async function withConsole(work, { args, viewport = { width: 1280, height: 800 } } = {}) {
  const server = await Server.start({ args });
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_ARGUMENTS });
  try {
    const page = await browser.newPage({ viewport });
    page.setDefaultTimeout(60_000);
    const complaints = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
    await page.goto(server.url.replace(/^ws/, "http"));
    await work(page, server);
    // That a server is away is the browser's to report.
    const ours = complaints.filter((text) => !/WebSocket connection to .* failed/.test(text));
    assert.deepEqual(ours, []);
  } finally {
    await browser.close();
    await server.remove();
  }
}

const isConnected = (page) => page.locator("#state").getByText("connected to localhost").waitFor();
const row = (page, list, text) => page.locator(`#${list} li`).filter({ hasText: text }).first();

async function call(server, channel, payload) {
  const client = new WSClient({ url: server.url, WebSocket });
  await client.connect();
  const answer = await client.sendMessage(channel, payload);
  client.disconnect();
  return answer;
}

test("it lists every channel, makes a call and shows the answer", () =>
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
    await page.getByText("History").click();
    await row(page, "history", "settings:set").getByRole("button").click();
    assert.equal(await page.inputValue("#channel"), "settings:set");
  }));

test("it shows events as they come, filtered and paused as wanted, and text only as text", () =>
  withConsole(async (page, server) => {
    await isConnected(page);
    await call(server, "settings:set", { key: "k", value: "<img src=x onerror=alert(1)>" });
    await row(page, "events", "settings:changed").waitFor();
    await row(page, "events", "settings:changed").locator("summary").click();
    await page.locator("#events pre").getByText("<img src=x onerror=alert(1)>").waitFor();
    assert.equal(await page.locator("#events img").count(), 0);

    await page.fill("#filter", "nothing like this");
    await page.getByText("No event fits the filter.").waitFor();
    await page.fill("#filter", "settings:changed");
    await row(page, "events", "settings:changed").waitFor();
    await page.fill("#filter", "");
    await page.click("#pause");
    const before = await page.textContent("#event-count");
    await call(server, "settings:set", { key: "k", value: "unseen" });
    // What is not shown is counted all the same.
    await page.waitForFunction((before) => document.querySelector("#event-count").textContent !== before, before);
    await page.click("#pause");
    await call(server, "settings:set", { key: "k", value: "after the pause" });
    await row(page, "events", "after the pause").waitFor();
    assert.equal(await row(page, "events", "unseen").count(), 0);
    await page.click("#clear");
    await page.getByText("Events will appear here").waitFor();
  }));

test("it shows chats, and what others say in them", () =>
  withConsole(async (page, server) => {
    await isConnected(page);
    await page.click("#new-chat");
    await page.fill("#words", "Hello from the page");
    await page.keyboard.press("Enter");
    await page.locator("#messages").getByText("Hello from the page").waitFor();
    const [chat] = await call(server, "chat:list");
    assert.equal(chat.messageCount, 1);
    await call(server, "chat:add-message", { chatId: chat.id, role: "assistant", content: [{ type: "text", text: "Hello <b>back</b>" }] });
    await page.locator("#messages").getByText("Hello <b>back</b>").waitFor();
    await row(page, "chats", "New Chat (2)").waitFor();
    await call(server, "chat:delete", { id: chat.id });
    await page.getByText("There are no chats yet.").waitFor();
  }));

test("it comes back by itself after a restart, and says so meanwhile", () =>
  withConsole(async (page, server) => {
    await isConnected(page);
    await server.kill();
    await page.locator("#banner").getByText(/^No connection\. Attempt \d+ in/).waitFor();
    assert.equal(await page.getAttribute("#dot", "data-state"), "connecting");
    await server.restart();
    await isConnected(page);
    await page.locator("#banner").waitFor({ state: "hidden" });
    await page.fill("#channel", "system:ping");
    await page.click("#send");
    await page.locator("#response").getByText("timestamp").waitFor();
  }));

test("it measures", () =>
  withConsole(async (page) => {
    await page.locator("#f-latency").getByText(/^\d+\.\d ms$/).waitFor();
    assert.equal(await page.textContent("#f-clients"), "1");
    await page.waitForFunction(() => document.querySelector("#chart polyline").getAttribute("points")?.split(" ").length >= 2);
  }));

test("it asks for the token, and remembers it for a reload", async () => {
  const { writeFileSync, mkdtempSync } = await import("node:fs");
  const { tmpdir } = await import("node:os");
  const file = `${mkdtempSync(`${tmpdir()}/switchboard-token-`)}/token`;
  writeFileSync(file, "s3cret\n");
  await withConsole(
    async (page) => {
      await page.fill("#token", "wrong");
      await page.getByRole("button", { name: "Show it" }).click();
      await page.locator("#token-error").getByText("Token is wrong").waitFor();
      await page.fill("#token", "s3cret");
      await page.getByRole("button", { name: "Show it" }).click();
      await row(page, "channels", "chat:create").waitFor();
      await page.locator("#token-form").waitFor({ state: "hidden" });
      await page.reload();
      await row(page, "channels", "chat:create").waitFor();
      assert.ok(await page.locator("#token-form").isHidden());
    },
    { args: ["--token-file", file] },
  );
});

test("it fits a phone, and follows the theme", () =>
  withConsole(
    async (page, server) => {
      await isConnected(page);
      await call(server, "settings:set", { key: "k".repeat(200), value: "x".repeat(500) });
      await row(page, "events", "settings:changed").waitFor();
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(overflow <= 0, `${overflow} px too wide`);
      const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const [light, dark] = ["rgb(246, 247, 247)", "rgb(20, 24, 26)"];
      await page.emulateMedia({ colorScheme: "dark" });
      assert.equal(await background(), dark);
      await page.click("#theme");
      assert.equal(await background(), light);
      await page.click("#theme");
      assert.equal(await background(), dark);
    },
    { viewport: { width: 360, height: 740 } },
  ));
