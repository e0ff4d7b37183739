-- Schema version 1. Integers of time are milliseconds since the Unix epoch; digests, commitments, salts and fingerprints are
-- 32 bytes. Text compares by bytes, as in SQLite and in Rust.

CREATE TABLE shard (
  shard      integer PRIMARY KEY,
  origin     text COLLATE "C" NOT NULL UNIQUE,
  vkey       text NOT NULL,
  checkpoint text,
  size       bigint NOT NULL
);

-- One row, there from the beginning: whoever locks it is the log's only writer. What the open shard's row would repeat
-- with every group stands only here.
CREATE TABLE head (
  one        smallint PRIMARY KEY CHECK (one = 1),
  shard      integer REFERENCES shard (shard),
  origin     text,
  size       bigint,
  root       bytea CHECK (length(root) = 32),
  frontier   bytea CHECK (length(frontier) % 32 = 0),
  checkpoint text,
  -- What a node objected that has signed more than this database knows. Nothing is signed while it stands.
  contested  text
) WITH (fillfactor = 10);
INSERT INTO head (one) VALUES (1);

-- position = shard * 2^40 + leaf index: the log's order is the key's order, and appends go to its end.
CREATE TABLE event (
  position    bigint PRIMARY KEY,
  id          uuid NOT NULL UNIQUE,
  workspace   text COLLATE "C" NOT NULL,
  seq         bigint NOT NULL,
  kind        text COLLATE "C" NOT NULL,
  time        bigint NOT NULL,
  commitment  bytea NOT NULL CHECK (length(commitment) = 32),
  call        uuid,
  principal   text COLLATE "C",
  tool        text COLLATE "C",
  salt        bytea,
  detail_salt bytea,
  body        bytea,
  CHECK ((salt IS NULL) = (body IS NULL))
);
CREATE INDEX event_workspace ON event (workspace, position);
CREATE INDEX event_call ON event (call, position) WHERE call IS NOT NULL;

CREATE TABLE tile (
  shard  integer NOT NULL,
  level  smallint NOT NULL,
  n      bigint NOT NULL,
  hashes bytea NOT NULL CHECK (length(hashes) = 8192),
  PRIMARY KEY (shard, level, n)
);

CREATE TABLE request (
  id                   uuid PRIMARY KEY,
  workspace            text COLLATE "C" NOT NULL,
  requester            text COLLATE "C" NOT NULL,
  requester_keys       text NOT NULL,
  person_key           text,
  principal            text NOT NULL,
  tool                 text NOT NULL,
  effect               text NOT NULL,
  pin                  bytea NOT NULL,
  fingerprint          bytea NOT NULL,
  arguments            bytea NOT NULL,
  owed                 text NOT NULL,
  policy_version       text NOT NULL,
  status               text NOT NULL,
  created              bigint NOT NULL,
  expires              bigint NOT NULL,
  event                uuid NOT NULL,
  closed_by            uuid,
  execute_on_approval  boolean NOT NULL
);
CREATE INDEX request_fingerprint ON request (fingerprint);
CREATE INDEX request_workspace ON request (workspace, id);
CREATE INDEX request_status ON request (status, expires);
CREATE INDEX request_open ON request (requester, expires) WHERE status = 'pending';

CREATE TABLE answer (
  request uuid NOT NULL REFERENCES request (id),
  n       bigint NOT NULL,
  person  text COLLATE "C" NOT NULL,
  body    text NOT NULL,
  PRIMARY KEY (request, n),
  UNIQUE (request, person)
);

CREATE TABLE idempotency (
  scope       bytea PRIMARY KEY,
  fingerprint bytea NOT NULL,
  state       text NOT NULL,
  call        uuid NOT NULL,
  answer      bytea,
  expires     bigint NOT NULL
);
CREATE INDEX idempotency_expires ON idempotency (expires);

CREATE TABLE intent (
  call        uuid PRIMARY KEY,
  workspace   text NOT NULL,
  principal   text NOT NULL,
  tool        text NOT NULL,
  pin         bytea NOT NULL,
  effect      text NOT NULL,
  fingerprint bytea NOT NULL,
  event       uuid NOT NULL,
  state       text NOT NULL,
  at          bigint NOT NULL,
  idempotency bytea,
  -- The process that dispatches it, by its row in node.
  owner       uuid
);
CREATE INDEX intent_unknown ON intent (fingerprint) WHERE state = 'unknown';

CREATE TABLE frozen (
  kind text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  body text NOT NULL,
  PRIMARY KEY (kind, name)
);

CREATE TABLE pin (
  tool        text COLLATE "C" NOT NULL,
  status      text COLLATE "C" NOT NULL,
  pin         bytea NOT NULL,
  definition  text NOT NULL,
  at          bigint NOT NULL,
  accepted_by text,
  PRIMARY KEY (tool, status)
);

CREATE TABLE workspace_key (
  workspace text COLLATE "C" PRIMARY KEY,
  wrapped   bytea NOT NULL
);

-- What was used of budgets, by period, and pauses between calls.
CREATE TABLE budget (
  budget    text COLLATE "C" NOT NULL,
  workspace text COLLATE "C" NOT NULL,
  principal text COLLATE "C" NOT NULL,
  start     bigint NOT NULL,
  ends      bigint NOT NULL,
  used      bigint NOT NULL CHECK (used >= 0),
  PRIMARY KEY (budget, workspace, principal, start)
);
CREATE INDEX budget_ends ON budget (ends);

CREATE TABLE cooldown (
  key   bytea PRIMARY KEY CHECK (length(key) = 32),
  until bigint NOT NULL
);
CREATE INDEX cooldown_until ON cooldown (until);

-- Workspaces, granted roles, API keys.
CREATE TABLE directory (
  kind      text COLLATE "C" NOT NULL,
  workspace text COLLATE "C" NOT NULL,
  name      text COLLATE "C" NOT NULL,
  body      text NOT NULL,
  at        bigint NOT NULL,
  event     uuid NOT NULL,
  used      bigint,
  PRIMARY KEY (kind, workspace, name)
);
CREATE TABLE directory_version (
  one smallint PRIMARY KEY CHECK (one = 1),
  n   bigint NOT NULL
);
INSERT INTO directory_version (one, n) VALUES (1, 0);

CREATE TABLE refusal (
  minute bigint NOT NULL,
  name   text COLLATE "C" NOT NULL,
  count  bigint NOT NULL,
  PRIMARY KEY (minute, name)
);

-- Processes that serve this log, and when each was last heard of. A process ends with its row.
CREATE TABLE node (
  id      uuid PRIMARY KEY,
  replica text COLLATE "C" NOT NULL,
  seen    bigint NOT NULL
);

-- Every start of the database server that a node has met, and which replicas have compared their own heads with it.
CREATE TABLE incarnation (
  id      text PRIMARY KEY,
  since   bigint NOT NULL,
  settled boolean NOT NULL
);
CREATE TABLE vouched (
  incarnation text NOT NULL REFERENCES incarnation (id) ON DELETE CASCADE,
  node        uuid NOT NULL,
  PRIMARY KEY (incarnation, node)
);

-- What other nodes keep in memory and must look at again. Written under the head's lock, so that the numbers become
-- visible in their order.
CREATE TABLE change (
  n       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at      bigint NOT NULL,
  kind    text NOT NULL,
  request uuid
);
