-- Schema version 5: what calls were decided upon, sealed, kept for a while. Ids are UUIDv7, so that the table is in the order
-- of time: new rows go to its end, and whole pages become free at its front.

CREATE TABLE decision (
  call   BLOB PRIMARY KEY NOT NULL CHECK (length(call) = 16),
  sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;
