-- Schema version 4: accounts that people connected, and those about to be. `sealed` is sealed by the gate.

CREATE TABLE connection (
  workspace TEXT NOT NULL,
  upstream  TEXT NOT NULL,
  person    TEXT NOT NULL,
  stage     TEXT NOT NULL,
  version   BLOB NOT NULL CHECK (length(version) = 32),
  body      TEXT NOT NULL,
  sealed    BLOB NOT NULL,
  expires   INTEGER,
  at        INTEGER NOT NULL,
  event     BLOB CHECK (length(event) = 16),
  PRIMARY KEY (workspace, person, upstream, stage)
) STRICT, WITHOUT ROWID;
CREATE INDEX connection_version ON connection (version);
CREATE INDEX connection_expires ON connection (expires) WHERE expires IS NOT NULL;
