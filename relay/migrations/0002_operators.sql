-- Written so that SQLite and PostgreSQL read it alike. Times are Unix seconds.

-- What operators decided over names. Rows stay when a rule is lifted: the highest revision must
-- never fall, because running relays ask for what came after the last one they saw.
CREATE TABLE name_rules (
    name       TEXT   NOT NULL PRIMARY KEY,
    -- open, reserved, blocked or cooling.
    state      TEXT   NOT NULL,
    -- Whom a reserved name is for; absent for nobody.
    owner      TEXT,
    -- When a cooling name is free again.
    ends_at    BIGINT,
    note       TEXT   NOT NULL,
    changed_at BIGINT NOT NULL,
    revision   BIGINT NOT NULL
);
CREATE INDEX name_rules_revision ON name_rules (revision);

CREATE TABLE owners (
    owner      TEXT   NOT NULL PRIMARY KEY,
    -- Live shares; absent for what the token or the relay says.
    max_shares BIGINT,
    changed_at BIGINT NOT NULL
);

ALTER TABLE audit ADD COLUMN detail TEXT NOT NULL DEFAULT '';
