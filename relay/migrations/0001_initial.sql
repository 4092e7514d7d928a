-- Written so that SQLite and PostgreSQL read it alike. Times are Unix seconds.

CREATE TABLE leases (
    name        TEXT   NOT NULL PRIMARY KEY,
    owner       TEXT   NOT NULL,
    generation  BIGINT NOT NULL,
    node        TEXT   NOT NULL,
    mode        TEXT   NOT NULL,
    claimed_at  BIGINT NOT NULL,
    held_until  BIGINT,
    released_at BIGINT
);
CREATE INDEX leases_owner ON leases (owner);
CREATE INDEX leases_node ON leases (node);

CREATE TABLE tokens (
    jti        TEXT   NOT NULL PRIMARY KEY,
    subject    TEXT   NOT NULL,
    -- Patterns, separated by blanks.
    names      TEXT   NOT NULL,
    max_shares BIGINT,
    bound_to   TEXT,
    issued_at  BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX tokens_revoked ON tokens (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE audit (
    at     BIGINT NOT NULL,
    -- Breaks ties within a second, in the order of writing.
    seq    BIGINT NOT NULL,
    action TEXT   NOT NULL,
    actor  TEXT   NOT NULL,
    object TEXT   NOT NULL
);
CREATE INDEX audit_at ON audit (at, seq);
