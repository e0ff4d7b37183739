-- Schema version 7: what was signed and verified. Ids are UUIDv7, so that each index is in the order of time.

CREATE TABLE trust (
  id            BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
  workspace     TEXT NOT NULL,
  kind          TEXT NOT NULL,
  at            INTEGER NOT NULL,
  artifact      TEXT NOT NULL,
  artifact_type TEXT NOT NULL,
  subject       TEXT,
  chain         TEXT,
  signer        TEXT NOT NULL,
  valid         INTEGER,
  body          TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX trust_of_workspace ON trust (workspace, kind, id);
CREATE INDEX trust_of_type ON trust (workspace, kind, artifact_type, id);
CREATE INDEX trust_of_signer ON trust (workspace, kind, signer, id);
CREATE INDEX trust_of_artifact ON trust (workspace, artifact, id);
CREATE INDEX trust_of_subject ON trust (workspace, subject, id) WHERE subject IS NOT NULL;
CREATE INDEX trust_of_chain ON trust (workspace, chain, id) WHERE chain IS NOT NULL;
