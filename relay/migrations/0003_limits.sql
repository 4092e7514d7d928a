-- Written so that SQLite and PostgreSQL read it alike. Times are Unix seconds.

-- What operators grant to owners beside live shares; absent for what the relay says, 0 for no limit.
ALTER TABLE owners ADD COLUMN names_per_hour BIGINT;
ALTER TABLE owners ADD COLUMN requests_per_day BIGINT;
ALTER TABLE owners ADD COLUMN bytes_per_day BIGINT;
ALTER TABLE owners ADD COLUMN max_streams BIGINT;
-- Since when the owner may do nothing at all, and why.
ALTER TABLE owners ADD COLUMN blocked_at BIGINT;
ALTER TABLE owners ADD COLUMN note TEXT NOT NULL DEFAULT '';
-- Counts the decisions over all owners: running relays ask for what came after the last they saw.
ALTER TABLE owners ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;
CREATE INDEX owners_revision ON owners (revision);

-- What owners used of the relay, summed up over its nodes.
CREATE TABLE usage (
    -- Days since 1970-01-01, in UTC.
    day       BIGINT NOT NULL,
    owner     TEXT   NOT NULL,
    requests  BIGINT NOT NULL,
    bytes_in  BIGINT NOT NULL,
    bytes_out BIGINT NOT NULL,
    PRIMARY KEY (day, owner)
);
CREATE INDEX usage_owner ON usage (owner, day);

CREATE INDEX audit_action ON audit (action, at, seq);
CREATE INDEX audit_object ON audit (object, at, seq);
