-- `sealed` is the nonce, then the sealed token, then its tag.
CREATE TABLE credentials (
    key TEXT PRIMARY KEY,
    sealed BLOB NOT NULL,
    metadata TEXT
) WITHOUT ROWID;
