-- `folder` is the name of the folder in use; `manifest` and `files` are JSON.
CREATE TABLE artifacts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    description TEXT,
    enabled INTEGER NOT NULL,
    source TEXT NOT NULL,
    installed_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    folder TEXT NOT NULL,
    manifest TEXT NOT NULL,
    files TEXT NOT NULL
);
