-- Schema version 9: witnessing. The latest checkpoint of each other log that was cosigned here; and what witnesses gave for the
-- checkpoints of this log.

CREATE TABLE witnessed (
  origin     TEXT PRIMARY KEY NOT NULL,
  size       INTEGER NOT NULL,
  root       BLOB NOT NULL CHECK (length(root) = 32),
  checkpoint TEXT NOT NULL,
  at         INTEGER NOT NULL,
  forked     INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE cosignature (
  shard      INTEGER NOT NULL,
  size       INTEGER NOT NULL,
  witness    TEXT NOT NULL,
  line       TEXT NOT NULL,
  checkpoint TEXT NOT NULL,
  at         INTEGER NOT NULL,
  PRIMARY KEY (shard, size, witness)
) STRICT, WITHOUT ROWID;

CREATE INDEX cosignature_of_witness ON cosignature (shard, witness, size);
