-- Schema version 6: public entries, the leaves that are no events. position as in event; a leaf is in one of the two tables.

CREATE TABLE public_entry (
  position  INTEGER PRIMARY KEY,
  id        BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
  workspace TEXT NOT NULL,
  body      BLOB NOT NULL CHECK (length(body) <= 65535)
) STRICT;
