-- Schema version 2: accounts that people connected, and those about to be. `sealed` is sealed by the gate.

CREATE TABLE connection (
  workspace text COLLATE "C" NOT NULL,
  upstream  text COLLATE "C" NOT NULL,
  person    text COLLATE "C" NOT NULL,
  stage     text COLLATE "C" NOT NULL,
  version   bytea NOT NULL CHECK (length(version) = 32),
  body      text NOT NULL,
  sealed    bytea NOT NULL,
  expires   bigint,
  at        bigint NOT NULL,
  event     uuid,
  PRIMARY KEY (workspace, person, upstream, stage)
);
CREATE INDEX connection_version ON connection (version);
CREATE INDEX connection_expires ON connection (expires) WHERE expires IS NOT NULL;
