-- `moved` orders chats by their last change even where two changes fall on the same millisecond or the clock is set back.
CREATE TABLE chats (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    system_prompt TEXT,
    message_count INTEGER NOT NULL DEFAULT 0,
    moved INTEGER NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    chat INTEGER NOT NULL REFERENCES chats (seq) ON DELETE CASCADE,
    role TEXT NOT NULL,
    text TEXT NOT NULL,
    blocks TEXT,
    provider TEXT,
    model TEXT,
    input_tokens INTEGER,
    output_tokens INTEGER,
    metadata TEXT,
    created_at INTEGER NOT NULL
);
CREATE INDEX messages_of_chat ON messages (chat, seq);
CREATE VIRTUAL TABLE message_index USING fts5 (
    text, content = 'messages', content_rowid = 'seq', tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER message_indexed AFTER INSERT ON messages BEGIN
    INSERT INTO message_index (rowid, text) VALUES (new.seq, new.text);
END;
CREATE TRIGGER message_unindexed AFTER DELETE ON messages BEGIN
    INSERT INTO message_index (message_index, rowid, text) VALUES ('delete', old.seq, old.text);
END;
