-- A deleted chat is hidden at once. Its messages are removed in steps, and then its row.
ALTER TABLE chats ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;
CREATE INDEX deleted_chats ON chats (seq) WHERE deleted = 1;
