-- Schema version 1. Integers of time are milliseconds since the Unix epoch; ids are the 16 bytes of a UUID; digests,
-- commitments, salts and fingerprints are 32 bytes.

CREATE TABLE shard (
  shard      INTEGER PRIMARY KEY,
  origin     TEXT NOT NULL UNIQUE,
  vkey       TEXT NOT NULL,
  checkpoint TEXT,
  size       INTEGER NOT NULL
) STRICT;

CREATE TABLE head (
  one        INTEGER PRIMARY KEY CHECK (one = 1),
  shard      INTEGER NOT NULL REFERENCES shard (shard),
  origin     TEXT NOT NULL,
  size       INTEGER NOT NULL,
  root       BLOB NOT NULL CHECK (length(root) = 32),
  frontier   BLOB NOT NULL CHECK (length(frontier) % 32 = 0),
  checkpoint TEXT NOT NULL
) STRICT;

-- position = shard * 2^40 + leaf index: the log's order is the table's order, and appends go to its end.
CREATE TABLE event (
  position    INTEGER PRIMARY KEY,
  id          BLOB NOT NULL CHECK (length(id) = 16),
  workspace   TEXT NOT NULL,
  seq         INTEGER NOT NULL,
  kind        TEXT NOT NULL,
  time        INTEGER NOT NULL,
  commitment  BLOB NOT NULL CHECK (length(commitment) = 32),
  call        BLOB,
  principal   TEXT,
  tool        TEXT,
  salt        BLOB,
  detail_salt BLOB,
  body        BLOB,
  CHECK ((salt IS NULL) = (body IS NULL))
) STRICT;
CREATE UNIQUE INDEX event_id ON event (id);
CREATE INDEX event_workspace ON event (workspace);
CREATE INDEX event_call ON event (call) WHERE call IS NOT NULL;

CREATE TABLE tile (
  shard  INTEGER NOT NULL,
  level  INTEGER NOT NULL,
  n      INTEGER NOT NULL,
  hashes BLOB NOT NULL CHECK (length(hashes) = 8192),
  PRIMARY KEY (shard, level, n)
) STRICT;

CREATE TABLE request (
  id                   BLOB PRIMARY KEY NOT NULL,
  workspace            TEXT NOT NULL,
  requester            TEXT NOT NULL,
  requester_keys       TEXT NOT NULL,
  person_key           TEXT,
  principal            TEXT NOT NULL,
  tool                 TEXT NOT NULL,
  effect               TEXT NOT NULL,
  pin                  BLOB NOT NULL,
  fingerprint          BLOB NOT NULL,
  arguments            BLOB NOT NULL,
  owed                 TEXT NOT NULL,
  policy_version       TEXT NOT NULL,
  status               TEXT NOT NULL,
  created              INTEGER NOT NULL,
  expires              INTEGER NOT NULL,
  event                BLOB NOT NULL,
  closed_by            BLOB,
  execute_on_approval  INTEGER NOT NULL
) STRICT;
CREATE INDEX request_fingerprint ON request (fingerprint);
CREATE INDEX request_workspace ON request (workspace, id);
CREATE INDEX request_status ON request (status, expires);
CREATE INDEX request_open ON request (requester, expires) WHERE status = 'pending';

CREATE TABLE answer (
  request   BLOB NOT NULL REFERENCES request (id),
  n         INTEGER NOT NULL,
  person    TEXT NOT NULL,
  principal TEXT NOT NULL,
  kind      TEXT NOT NULL,
  granted   INTEGER NOT NULL,
  at        INTEGER NOT NULL,
  event     BLOB NOT NULL,
  reason    TEXT,
  PRIMARY KEY (request, n),
  UNIQUE (request, person)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
  scope       BLOB PRIMARY KEY NOT NULL,
  fingerprint BLOB NOT NULL,
  state       TEXT NOT NULL,
  call        BLOB NOT NULL,
  answer      BLOB,
  expires     INTEGER NOT NULL
) STRICT;
CREATE INDEX idempotency_expires ON idempotency (expires);

CREATE TABLE intent (
  call        BLOB PRIMARY KEY NOT NULL,
  workspace   TEXT NOT NULL,
  principal   TEXT NOT NULL,
  tool        TEXT NOT NULL,
  pin         BLOB NOT NULL,
  effect      TEXT NOT NULL,
  fingerprint BLOB NOT NULL,
  event       BLOB NOT NULL,
  state       TEXT NOT NULL,
  at          INTEGER NOT NULL,
  idempotency BLOB
) STRICT;
CREATE INDEX intent_unknown ON intent (fingerprint) WHERE state = 'unknown';

CREATE TABLE freeze (
  kind   TEXT NOT NULL,
  name   TEXT NOT NULL,
  reason TEXT NOT NULL,
  at     INTEGER NOT NULL,
  event  BLOB NOT NULL,
  PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE pin (
  tool       TEXT NOT NULL,
  status     TEXT NOT NULL,
  pin        BLOB NOT NULL,
  definition TEXT NOT NULL,
  at         INTEGER NOT NULL,
  accepted_by TEXT,
  PRIMARY KEY (tool, status)
) STRICT;

CREATE TABLE workspace_key (
  workspace TEXT PRIMARY KEY NOT NULL,
  wrapped   BLOB NOT NULL
) STRICT;

CREATE TABLE refusal (
  minute INTEGER NOT NULL,
  name   TEXT NOT NULL,
  count  INTEGER NOT NULL,
  PRIMARY KEY (minute, name)
) STRICT, WITHOUT ROWID;
