-- Schema version 6: what events are about, and signed artifacts. Entries are UUIDv7, so that each index is in the order of time.

ALTER TABLE event ADD COLUMN subject text;
CREATE INDEX event_of_subject ON event (subject, position) WHERE subject IS NOT NULL;

CREATE TABLE artifact (
  entry          uuid PRIMARY KEY,
  workspace      text NOT NULL,
  id             uuid NOT NULL,
  version        bigint NOT NULL CHECK (version > 0),
  artifact_type  text NOT NULL,
  created        text NOT NULL,
  at             bigint NOT NULL,
  digest         bytea NOT NULL,
  kid            text NOT NULL,
  object         text NOT NULL,
  compliance     text[] NOT NULL,
  sources        uuid[] NOT NULL
);

CREATE UNIQUE INDEX artifact_version ON artifact (workspace, id, version);
CREATE INDEX artifact_of_workspace ON artifact (workspace, entry);
CREATE INDEX artifact_of_type ON artifact (workspace, artifact_type, entry);
CREATE INDEX artifact_tags ON artifact USING gin (compliance);
CREATE INDEX artifact_sources ON artifact USING gin (sources);
