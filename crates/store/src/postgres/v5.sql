-- Schema version 5: what was signed and verified. Ids are UUIDv7, so that each index is in the order of time.

CREATE TABLE trust (
  id            uuid PRIMARY KEY,
  workspace     text NOT NULL,
  kind          text NOT NULL,
  at            bigint NOT NULL,
  artifact      text NOT NULL,
  artifact_type text NOT NULL,
  subject       text,
  chain         text,
  signer        text NOT NULL,
  valid         boolean,
  body          text NOT NULL
);

CREATE INDEX trust_of_workspace ON trust (workspace, kind, id);
CREATE INDEX trust_of_type ON trust (workspace, kind, artifact_type, id);
CREATE INDEX trust_of_signer ON trust (workspace, kind, signer, id);
CREATE INDEX trust_of_artifact ON trust (workspace, artifact, id);
CREATE INDEX trust_of_subject ON trust (workspace, subject, id) WHERE subject IS NOT NULL;
CREATE INDEX trust_of_chain ON trust (workspace, chain, id) WHERE chain IS NOT NULL;
