-- Schema version 7: witnessing. The latest checkpoint of each other log that was cosigned here; and what witnesses gave for the
-- checkpoints of this log.

CREATE TABLE witnessed (
  origin     text PRIMARY KEY,
  size       bigint NOT NULL,
  root       bytea NOT NULL CHECK (length(root) = 32),
  checkpoint text NOT NULL,
  at         bigint NOT NULL,
  forked     bigint
);

CREATE TABLE cosignature (
  shard      integer NOT NULL,
  size       bigint NOT NULL,
  witness    text NOT NULL,
  line       text NOT NULL,
  checkpoint text NOT NULL,
  at         bigint NOT NULL,
  PRIMARY KEY (shard, size, witness)
);

CREATE INDEX cosignature_of_witness ON cosignature (shard, witness, size);
