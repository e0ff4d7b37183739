-- Schema version 4: public entries, the leaves that are no events. position as in event; a leaf is in one of the two tables.

CREATE TABLE public_entry (
  position  bigint PRIMARY KEY,
  id        uuid NOT NULL UNIQUE,
  workspace text NOT NULL,
  body      bytea NOT NULL CHECK (length(body) <= 65535)
);
