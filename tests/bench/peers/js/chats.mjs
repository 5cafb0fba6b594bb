// Chats in an SQLite database, as in src/chats.rs, with Bun's driver, which runs on the JavaScript thread.

import { Database } from "bun:sqlite";
import { readFileSync } from "node:fs";
import { join } from "node:path";

export function registerChats(server, folder) {
  const db = new Database(join(folder, "chats.db"), { create: true });
  db.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = true;");
  db.exec(readFileSync(new URL("../../../../src/backend/families/chat/tables.sql", import.meta.url), "utf8"));

  const insertChat = db.query(
    `INSERT INTO chats (id, title, moved, created_at, updated_at)
     VALUES (?1, ?2, (SELECT coalesce(max(moved), 0) + 1 FROM chats), ?3, ?3)`,
  );
  server.onRequest("chat:create", async ({ title }) => {
    const [id, now] = [crypto.randomUUID(), Date.now()];
    insertChat.run(id, title, now);
    return { id, title, systemPrompt: null, messageCount: 0, createdAt: now, updatedAt: now };
  });

  const selectChats = db.query(
    `SELECT id, title, system_prompt AS systemPrompt, message_count AS messageCount, created_at AS createdAt,
       updated_at AS updatedAt FROM chats ORDER BY moved DESC LIMIT ?`,
  );
  server.onRequest("chat:list", async ({ limit = 50 }) => selectChats.all(limit));

  const selectChat = db.query("SELECT seq FROM chats WHERE id = ?");
  const insertMessage = db.query(
    "INSERT INTO messages (id, chat, role, text, created_at) VALUES (?, ?, ?, ?, ?)",
  );
  const moveChat = db.query(
    `UPDATE chats SET message_count = message_count + 1,
       moved = (SELECT max(moved) + 1 FROM chats), updated_at = ?2 WHERE seq = ?1`,
  );
  const add = db.transaction(({ chatId, role, content }) => {
    const chat = selectChat.get(chatId);
    if (!chat) throw new Error("no such chat");
    const [id, createdAt] = [crypto.randomUUID(), Date.now()];
    insertMessage.run(id, chat.seq, role, content, createdAt);
    moveChat.run(chat.seq, createdAt);
    return { id, chatId, role, content, createdAt };
  });
  server.onRequest("chat:add-message", async (message) => {
    const added = add(message);
    server.emit("chat:message-added", added);
    return added;
  });
}
