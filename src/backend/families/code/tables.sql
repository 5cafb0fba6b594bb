-- `position` orders entries as they were written, even where the clock was set back.
CREATE TABLE code_sessions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    project TEXT NOT NULL,
    cwd TEXT,
    custom_title TEXT,
    ai_title TEXT,
    summary TEXT,
    prompt TEXT,
    model TEXT,
    message_count INTEGER NOT NULL DEFAULT 0,
    restore_point_count INTEGER NOT NULL DEFAULT 0,
    skipped_lines INTEGER NOT NULL DEFAULT 0,
    found_at INTEGER NOT NULL,
    started_at INTEGER,
    updated_at INTEGER
);
CREATE TABLE code_files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL UNIQUE,
    session INTEGER REFERENCES code_sessions (seq) ON DELETE SET NULL,
    is_main INTEGER NOT NULL,
    size INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    read_to INTEGER NOT NULL,
    inside_long_line INTEGER NOT NULL,
    head BLOB NOT NULL,
    tail BLOB NOT NULL,
    position INTEGER NOT NULL,
    skipped_lines INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX code_files_of_session ON code_files (session);
CREATE TABLE code_entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    session INTEGER NOT NULL REFERENCES code_sessions (seq) ON DELETE CASCADE,
    file INTEGER NOT NULL REFERENCES code_files (seq) ON DELETE CASCADE,
    parent INTEGER,
    role TEXT,
    position INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    line_at INTEGER NOT NULL,
    line_bytes INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (id, session)
);
CREATE INDEX code_entries_of_session ON code_entries (session, position, seq, role) WHERE role IS NOT NULL;
CREATE INDEX code_entries_of_file ON code_entries (file);
CREATE VIRTUAL TABLE code_entry_index USING fts5 (
    text, content = 'code_entries', content_rowid = 'seq', tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER code_entry_indexed AFTER INSERT ON code_entries WHEN new.role IS NOT NULL BEGIN
    INSERT INTO code_entry_index (rowid, text) VALUES (new.seq, new.text);
END;
CREATE TRIGGER code_entry_unindexed AFTER DELETE ON code_entries WHEN old.role IS NOT NULL BEGIN
    INSERT INTO code_entry_index (code_entry_index, rowid, text) VALUES ('delete', old.seq, old.text);
END;
CREATE TABLE code_summaries (
    leaf TEXT NOT NULL,
    file INTEGER NOT NULL REFERENCES code_files (seq) ON DELETE CASCADE,
    title TEXT NOT NULL,
    PRIMARY KEY (leaf, file)
);
CREATE INDEX code_summaries_of_file ON code_summaries (file);
CREATE TABLE code_restore_points (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    session INTEGER NOT NULL REFERENCES code_sessions (seq) ON DELETE CASCADE,
    file INTEGER NOT NULL REFERENCES code_files (seq) ON DELETE CASCADE,
    message_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    files TEXT NOT NULL,
    UNIQUE (session, message_id)
);
CREATE INDEX code_restore_points_of_file ON code_restore_points (file);
CREATE TABLE code_backups (
    session INTEGER NOT NULL REFERENCES code_sessions (seq) ON DELETE CASCADE,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    sha1 TEXT NOT NULL,
    PRIMARY KEY (session, name)
);
