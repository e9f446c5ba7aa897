-- Identity of callers and workers, and what workers report. None of it is configuration except the drain flag of a
-- worker, the nonce keys and the TLS identities, whose changes are noted in the change log.

-- Exactly one row once the store was opened: tells a worker's copy of this store from one of a store that is gone.
CREATE TABLE installation (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    store_id TEXT NOT NULL
);

CREATE TABLE tokens (
    id           TEXT PRIMARY KEY,
    display_name TEXT NOT NULL,
    role         TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    -- SHA-256 of 256 random bits; there is nothing to guess, so no slow hash is needed.
    hash         BLOB NOT NULL,
    create_time  INTEGER NOT NULL,
    expire_time  INTEGER
) WITHOUT ROWID;

CREATE TABLE join_tokens (
    id          TEXT PRIMARY KEY,
    hash        BLOB NOT NULL,
    uses_left   INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    expire_time INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE workers (
    id                      TEXT PRIMARY KEY,
    -- Random id in its certificates: another enrollment under the same id is another worker.
    enrollment              TEXT NOT NULL,
    hostname                TEXT NOT NULL,
    software_version        TEXT NOT NULL DEFAULT '',
    media_tier              TEXT NOT NULL DEFAULT '',
    boot_id                 TEXT NOT NULL DEFAULT '',
    boot_time               INTEGER,
    draining                INTEGER NOT NULL DEFAULT 0 CHECK (draining IN (0, 1)),
    -- Revision at which `draining` last changed.
    settings_version        INTEGER NOT NULL,
    applied_revision        INTEGER NOT NULL DEFAULT 0,
    enroll_time             INTEGER NOT NULL,
    last_seen_time          INTEGER,
    certificate_expire_time INTEGER NOT NULL
) WITHOUT ROWID;

-- Versions a worker refused and has not been offered another of.
CREATE TABLE worker_rejections (
    worker  TEXT NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
    kind    INTEGER NOT NULL,
    name    TEXT NOT NULL,
    version INTEGER NOT NULL,
    error   TEXT NOT NULL,
    time    INTEGER NOT NULL,
    PRIMARY KEY (worker, kind, name)
) WITHOUT ROWID;

-- Keys of signed digest nonces, the newest in use.
CREATE TABLE nonce_keys (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    sealed      BLOB NOT NULL,
    create_time INTEGER NOT NULL,
    version     INTEGER NOT NULL
);

-- Certificates of TLS trunks as workers receive them.
CREATE TABLE tls_identities (
    trunk       TEXT PRIMARY KEY,
    -- Encoded TlsIdentity without the key.
    message     BLOB NOT NULL,
    private_key BLOB NOT NULL,
    -- Hash of what it was made from.
    inputs      BLOB NOT NULL,
    -- When to issue another; empty for imported certificates.
    renew_time  INTEGER,
    version     INTEGER NOT NULL
) WITHOUT ROWID;

-- Last report stored of each spool.
CREATE TABLE report_cursors (
    worker      TEXT NOT NULL,
    spool       TEXT NOT NULL,
    sequence    INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    PRIMARY KEY (worker, spool)
) WITHOUT ROWID;

CREATE TABLE calls (
    -- Conversation id.
    id             TEXT PRIMARY KEY,
    worker         TEXT NOT NULL,
    boot_id        TEXT NOT NULL,
    active         INTEGER NOT NULL CHECK (active IN (0, 1)),
    -- Ended by inference: the worker restarted. A report of the worker itself still replaces it.
    lost           INTEGER NOT NULL DEFAULT 0 CHECK (lost IN (0, 1)),
    inbound_trunk  TEXT NOT NULL,
    outbound_trunk TEXT NOT NULL,
    call_id        TEXT NOT NULL,
    start_time     INTEGER NOT NULL,
    end_time       INTEGER,
    message        BLOB NOT NULL
);
CREATE INDEX calls_start ON calls (start_time DESC, id DESC);
CREATE INDEX calls_active ON calls (worker) WHERE active = 1;
CREATE INDEX calls_ended ON calls (end_time) WHERE active = 0;
CREATE INDEX calls_inbound ON calls (inbound_trunk, start_time DESC, id DESC);
CREATE INDEX calls_outbound ON calls (outbound_trunk, start_time DESC, id DESC);
CREATE INDEX calls_call_id ON calls (call_id);

-- Exactly one row. Counts changes of registrations, a number each; `floor` is the highest whose row is gone.
CREATE TABLE binding_revision (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL,
    floor INTEGER NOT NULL
);
-- 0 is what a watcher says that has seen nothing.
INSERT INTO binding_revision (id, value, floor) VALUES (1, 1, 0);

-- One row per address of record; one without bindings says that it was unregistered, until purged.
CREATE TABLE registrations (
    trunk       TEXT NOT NULL,
    user        TEXT NOT NULL,
    -- Encoded AorBindings.
    message     BLOB NOT NULL,
    bindings    INTEGER NOT NULL,
    change_time INTEGER NOT NULL,
    -- When the first of its bindings ends.
    next_expire INTEGER,
    revision    INTEGER NOT NULL UNIQUE,
    PRIMARY KEY (trunk, user)
) WITHOUT ROWID;
CREATE INDEX registrations_expire ON registrations (next_expire) WHERE next_expire IS NOT NULL;
CREATE INDEX registrations_gone ON registrations (change_time) WHERE bindings = 0;

CREATE TABLE authentication_failures (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    time           INTEGER NOT NULL,
    worker         TEXT NOT NULL,
    trunk          TEXT NOT NULL,
    source_address TEXT NOT NULL,
    username       TEXT NOT NULL,
    reason         TEXT NOT NULL
);
CREATE INDEX authentication_failures_time ON authentication_failures (time);
