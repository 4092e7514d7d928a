-- Written so that SQLite and PostgreSQL read it alike. Times are Unix seconds.

-- Hosts of owners, beside NAME.DOMAIN. Rows stay for a while when a domain is removed: the highest
-- revision must never fall, because running relays ask for what came after the last one they saw.
CREATE TABLE domains (
    domain        TEXT   NOT NULL PRIMARY KEY,
    owner         TEXT   NOT NULL,
    -- The share that requests for the domain go to.
    name          TEXT   NOT NULL,
    -- What the record in the DNS must say.
    token         TEXT   NOT NULL,
    -- pending, verified or removed.
    state         TEXT   NOT NULL,
    added_at      BIGINT NOT NULL,
    -- When the DNS was asked last, and when it last said what it must.
    checked_at    BIGINT,
    proved_at     BIGINT,
    -- Since when it says something else.
    failing_since BIGINT,
    problem       TEXT   NOT NULL,
    changed_at    BIGINT NOT NULL,
    revision      BIGINT NOT NULL
);
CREATE INDEX domains_revision ON domains (revision);

-- The account at an authority, certificates with their keys, and proofs that an authority looks for
-- now, each sealed under a key that is in no database. What is forgotten is empty.
CREATE TABLE certificates (
    name       TEXT   NOT NULL PRIMARY KEY,
    sealed     TEXT   NOT NULL,
    changed_at BIGINT NOT NULL,
    revision   BIGINT NOT NULL
);
CREATE INDEX certificates_revision ON certificates (revision);

-- Whose turn it is to do what one node does for all.
CREATE TABLE turns (
    what    TEXT   NOT NULL PRIMARY KEY,
    holder  TEXT   NOT NULL,
    ends_at BIGINT NOT NULL
);
