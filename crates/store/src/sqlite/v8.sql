-- Schema version 8: what events are about, and signed artifacts. Entries are UUIDv7, so that each index is in the order of time.

ALTER TABLE event ADD COLUMN subject TEXT;
CREATE INDEX event_of_subject ON event (subject, position) WHERE subject IS NOT NULL;

CREATE TABLE artifact (
  entry          BLOB PRIMARY KEY NOT NULL CHECK (length(entry) = 16),
  workspace      TEXT NOT NULL,
  id             BLOB NOT NULL CHECK (length(id) = 16),
  version        INTEGER NOT NULL CHECK (version > 0),
  artifact_type  TEXT NOT NULL,
  created        TEXT NOT NULL,
  at             INTEGER NOT NULL,
  digest         BLOB NOT NULL CHECK (length(digest) = 32),
  kid            TEXT NOT NULL,
  object         TEXT NOT NULL,
  compliance     TEXT NOT NULL,
  sources        TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX artifact_version ON artifact (workspace, id, version);
CREATE INDEX artifact_of_workspace ON artifact (workspace, entry);
CREATE INDEX artifact_of_type ON artifact (workspace, artifact_type, entry);

CREATE TABLE artifact_tag (
  workspace TEXT NOT NULL,
  tag       TEXT NOT NULL,
  entry     BLOB NOT NULL,
  PRIMARY KEY (workspace, tag, entry)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifact_source (
  workspace TEXT NOT NULL,
  source    BLOB NOT NULL,
  entry     BLOB NOT NULL,
  PRIMARY KEY (workspace, source, entry)
) STRICT, WITHOUT ROWID;
