-- Prompts are indexed by word.
CREATE TABLE image_groups (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
INSERT INTO image_groups (id, name, created_at) VALUES ('default', 'Default', CAST(unixepoch('subsec') * 1000 AS INTEGER));
CREATE TABLE image_entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    of_group INTEGER NOT NULL REFERENCES image_groups (seq),
    job_id TEXT UNIQUE,
    status TEXT NOT NULL DEFAULT 'queued',
    prompt TEXT NOT NULL,
    negative_prompt TEXT,
    provider TEXT NOT NULL,
    model TEXT,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    batch_size INTEGER NOT NULL,
    batch_count INTEGER NOT NULL,
    steps INTEGER,
    cfg_scale REAL,
    seed INTEGER,
    params TEXT NOT NULL,
    batches_done INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER
);
CREATE INDEX image_entries_by_status ON image_entries (status, seq);
CREATE INDEX image_entries_of_group ON image_entries (of_group, status);
CREATE TABLE images (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    entry INTEGER NOT NULL REFERENCES image_entries (seq),
    batch_index INTEGER NOT NULL,
    position INTEGER NOT NULL,
    mime_type TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    seed INTEGER,
    created_at INTEGER NOT NULL,
    UNIQUE (entry, batch_index, position)
);
CREATE VIRTUAL TABLE image_prompt_index USING fts5 (
    prompt, content = 'image_entries', content_rowid = 'seq', tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER image_prompt_indexed AFTER INSERT ON image_entries BEGIN
    INSERT INTO image_prompt_index (rowid, prompt) VALUES (new.seq, new.prompt);
END;
