-- Adds the directory: workspaces, granted roles, API keys.

CREATE TABLE directory (
  kind      TEXT NOT NULL,
  workspace TEXT NOT NULL,
  name      TEXT NOT NULL,
  body      TEXT NOT NULL,
  at        INTEGER NOT NULL,
  event     BLOB NOT NULL CHECK (length(event) = 16),
  used      INTEGER,
  PRIMARY KEY (kind, workspace, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE directory_version (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  n   INTEGER NOT NULL
) STRICT;
INSERT INTO directory_version (one, n) VALUES (1, 0);
