-- Times are milliseconds since 1970-01-01T00:00:00Z. Messages are protobuf of trunkline.v1 with effective values and
-- without secrets; secrets are AES-256-GCM records of store/secret.rs, bound to their row.

-- Exactly one row: the revision of the configuration. Grows by one with every commit that changes configuration.
CREATE TABLE revision (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL
);
INSERT INTO revision (id, value) VALUES (1, 0);

-- A known text sealed with the key file, so that a wrong key file is found at start and not at the first secret.
CREATE TABLE key_check (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    sealed BLOB NOT NULL
);

-- What each revision changed. Kind is trunkline.dataplane.v1.ResourceType.
CREATE TABLE change_log (
    revision INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    name     TEXT NOT NULL,
    removed  INTEGER NOT NULL CHECK (removed IN (0, 1)),
    PRIMARY KEY (revision, kind, name)
) WITHOUT ROWID;

CREATE TABLE trunks (
    name            TEXT PRIMARY KEY,
    -- Lower-cased display name: unique without regard to case.
    display_key     TEXT NOT NULL UNIQUE,
    message         BLOB NOT NULL,
    -- Sealed PEM of an imported certificate's key.
    tls_private_key BLOB,
    create_time     INTEGER NOT NULL,
    update_time     INTEGER NOT NULL,
    version         INTEGER NOT NULL
) WITHOUT ROWID;

-- Ports the trunks' listeners take, per layer-4 protocol.
CREATE TABLE trunk_ports (
    layer4 TEXT NOT NULL CHECK (layer4 IN ('udp', 'tcp')),
    port   INTEGER NOT NULL,
    trunk  TEXT NOT NULL REFERENCES trunks (name) ON DELETE CASCADE,
    -- Path of the setting that takes it.
    field  TEXT NOT NULL,
    PRIMARY KEY (layer4, port)
) WITHOUT ROWID;
CREATE INDEX trunk_ports_trunk ON trunk_ports (trunk);

CREATE TABLE lines (
    name          TEXT PRIMARY KEY,
    trunk         TEXT NOT NULL REFERENCES trunks (name),
    message       BLOB NOT NULL,
    auth_password BLOB,
    create_time   INTEGER NOT NULL,
    update_time   INTEGER NOT NULL,
    version       INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX lines_trunk ON lines (trunk);

CREATE TABLE digest_credentials (
    name        TEXT PRIMARY KEY,
    trunk       TEXT NOT NULL REFERENCES trunks (name),
    username    TEXT NOT NULL,
    message     BLOB NOT NULL,
    password    BLOB NOT NULL,
    -- Realm the hashes were made for; empty while the trunk has none.
    realm       TEXT NOT NULL,
    -- Sealed HA1 of MD5, SHA-256 and SHA-512-256, in this order, 80 octets.
    hashes      BLOB NOT NULL,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    UNIQUE (trunk, username)
) WITHOUT ROWID;

CREATE TABLE routes (
    name        TEXT PRIMARY KEY,
    message     BLOB NOT NULL,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    version     INTEGER NOT NULL
) WITHOUT ROWID;

-- Trunks and lines a route names.
CREATE TABLE route_references (
    route  TEXT NOT NULL REFERENCES routes (name) ON DELETE CASCADE,
    target TEXT NOT NULL,
    PRIMARY KEY (route, target)
) WITHOUT ROWID;
CREATE INDEX route_references_target ON route_references (target);

CREATE TABLE settings (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    message     BLOB NOT NULL,
    update_time INTEGER NOT NULL,
    version     INTEGER NOT NULL
);

CREATE TABLE audit_entries (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    create_time    INTEGER NOT NULL,
    actor          TEXT NOT NULL,
    source_address TEXT NOT NULL,
    action         TEXT NOT NULL,
    resource       TEXT NOT NULL,
    revision       INTEGER NOT NULL,
    -- Field paths, a line each.
    changed_fields TEXT NOT NULL,
    result         TEXT NOT NULL
);
CREATE INDEX audit_entries_resource ON audit_entries (resource, id);

-- Answers by request id (AIP-155), kept for 24 hours.
CREATE TABLE requests (
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL,
    request_id  TEXT NOT NULL,
    -- Keyed hash of the request: it may hold a password.
    fingerprint BLOB NOT NULL,
    response    BLOB NOT NULL,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (actor, action, request_id)
) WITHOUT ROWID;
CREATE INDEX requests_create_time ON requests (create_time);
