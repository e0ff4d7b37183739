-- Schema version 3: what calls were decided upon, sealed, kept for a while. Ids are UUIDv7, so that the table is in the order
-- of time.

CREATE TABLE decision (
  call   uuid PRIMARY KEY,
  sealed bytea NOT NULL
);
