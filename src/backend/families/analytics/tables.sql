-- The number of a raw row is never used again: `rolled_up_to` is the number of the last one that was rolled up.
CREATE TABLE analytics_names (
    id INTEGER PRIMARY KEY,
    role INTEGER NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (role, name)
);
CREATE TABLE analytics_raw (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    a INTEGER NOT NULL,
    b INTEGER NOT NULL,
    count INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    extra INTEGER NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    nano_usd INTEGER NOT NULL,
    us INTEGER NOT NULL,
    max_us INTEGER NOT NULL
);
CREATE INDEX analytics_raw_at ON analytics_raw (at);
CREATE TABLE analytics_hours (
    kind INTEGER NOT NULL,
    start INTEGER NOT NULL,
    a INTEGER NOT NULL,
    b INTEGER NOT NULL,
    count INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    extra INTEGER NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    nano_usd INTEGER NOT NULL,
    us INTEGER NOT NULL,
    max_us INTEGER NOT NULL,
    PRIMARY KEY (kind, start, a, b)
) WITHOUT ROWID;
CREATE TABLE analytics_days (
    kind INTEGER NOT NULL,
    start INTEGER NOT NULL,
    a INTEGER NOT NULL,
    b INTEGER NOT NULL,
    count INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    extra INTEGER NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    nano_usd INTEGER NOT NULL,
    us INTEGER NOT NULL,
    max_us INTEGER NOT NULL,
    PRIMARY KEY (kind, start, a, b)
) WITHOUT ROWID;
CREATE TABLE analytics_state (rolled_up_to INTEGER NOT NULL);
INSERT INTO analytics_state VALUES (0);
CREATE TABLE analytics_errors (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    code TEXT NOT NULL,
    channel TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE INDEX analytics_errors_at ON analytics_errors (at);
