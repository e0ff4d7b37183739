-- Schema version 3: what was used of budgets, by period, and pauses between calls. Times are milliseconds since the epoch.

CREATE TABLE budget (
  budget    TEXT NOT NULL,
  workspace TEXT NOT NULL,
  principal TEXT NOT NULL,
  start     INTEGER NOT NULL,
  ends      INTEGER NOT NULL,
  used      INTEGER NOT NULL CHECK (used >= 0),
  PRIMARY KEY (budget, workspace, principal, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX budget_ends ON budget (ends);

CREATE TABLE cooldown (
  key   BLOB PRIMARY KEY NOT NULL CHECK (length(key) = 32),
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX cooldown_until ON cooldown (until);
