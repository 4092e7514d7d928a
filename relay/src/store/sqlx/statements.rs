//! The statements that decide over names, each in one step.

/// Holds where no operator's rule keeps the name `$1` from the owner `$2` at the time `$6`.
macro_rules! unless_kept {
    () => {
        "NOT EXISTS (
            SELECT 1 FROM name_rules AS rule WHERE rule.name = $1 AND (
                rule.state NOT IN ('open', 'reserved', 'cooling')
                OR (rule.state = 'reserved' AND (rule.owner IS NULL OR rule.owner <> $2))
                OR (rule.state = 'cooling' AND (rule.ends_at IS NULL OR rule.ends_at > $6))
            )
        )"
    };
}

/// Begins a statement whose first seven values are the columns of a live lease.
macro_rules! insert_lease {
    () => {
        "INSERT INTO leases
            (name, owner, generation, node, mode, claimed_at, held_until, released_at)
        SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT), CAST($4 AS TEXT),
            CAST($5 AS TEXT), CAST($6 AS BIGINT), CAST($7 AS BIGINT), CAST(NULL AS BIGINT)
        WHERE "
    };
}

/// Gives a name, unless a rule, its owner or the number of the claimer's names is against it.
pub(super) const CLAIM: &str = concat!(
    insert_lease!(),
    unless_kept!(),
    " AND (
        SELECT COUNT(*) FROM leases
        WHERE owner = $2 AND name <> $1 AND released_at IS NULL
            AND (held_until IS NULL OR held_until > $6)
    ) < COALESCE((SELECT max_shares FROM owners WHERE owners.owner = $2), $8)
    ON CONFLICT (name) DO UPDATE SET
        owner = excluded.owner,
        generation = CASE WHEN leases.generation >= excluded.generation
            THEN leases.generation + 1 ELSE excluded.generation END,
        node = excluded.node,
        mode = excluded.mode,
        claimed_at = excluded.claimed_at,
        held_until = excluded.held_until,
        released_at = NULL
    WHERE leases.owner = excluded.owner OR leases.owner = ''
        OR leases.released_at <= $9 OR leases.held_until <= $9
        OR ($3 > 1 AND leases.generation < $3)
        OR EXISTS (
            SELECT 1 FROM name_rules AS rule WHERE rule.name = $1 AND rule.state = 'reserved'
        )
    RETURNING name, owner, generation, node, mode, claimed_at, held_until, released_at"
);

/// Keeps a lease that was given from memory, unless a later claim came first.
pub(super) const RESTORE: &str = concat!(
    insert_lease!(),
    unless_kept!(),
    " ON CONFLICT (name) DO UPDATE SET
        owner = excluded.owner,
        generation = excluded.generation,
        node = excluded.node,
        mode = excluded.mode,
        claimed_at = CASE WHEN leases.generation < excluded.generation
            THEN excluded.claimed_at ELSE leases.claimed_at END,
        held_until = excluded.held_until,
        released_at = NULL
    WHERE (leases.generation < excluded.generation
            AND (leases.owner = excluded.owner OR leases.owner = ''))
        OR (leases.generation = excluded.generation AND leases.owner = excluded.owner
            AND leases.node = excluded.node AND leases.released_at IS NULL)"
);

/// Keeps a custom domain that is still as it was at the revision `$12`, as the latest of all.
pub(super) const SET_DOMAIN: &str = "
    INSERT INTO domains (domain, owner, name, token, state, added_at, checked_at, proved_at,
        failing_since, problem, changed_at, revision)
    SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT),
        CAST($5 AS TEXT), CAST($6 AS BIGINT), CAST($7 AS BIGINT), CAST($8 AS BIGINT),
        CAST($9 AS BIGINT), CAST($10 AS TEXT), CAST($11 AS BIGINT),
        (SELECT COALESCE(MAX(revision), 0) + 1 FROM domains)
    WHERE CAST($12 AS BIGINT) = 0
        OR EXISTS (SELECT 1 FROM domains WHERE domain = $1 AND revision = $12)
    ON CONFLICT (domain) DO UPDATE SET
        owner = excluded.owner, name = excluded.name, token = excluded.token,
        state = excluded.state, added_at = excluded.added_at, checked_at = excluded.checked_at,
        proved_at = excluded.proved_at, failing_since = excluded.failing_since,
        problem = excluded.problem, changed_at = excluded.changed_at, revision = excluded.revision
    WHERE domains.revision = $12
    RETURNING revision";

/// Keeps something sealed, as the latest of all.
pub(super) const KEEP_SEALED: &str = "
    INSERT INTO certificates (name, sealed, changed_at, revision)
    SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT),
        (SELECT COALESCE(MAX(revision), 0) + 1 FROM certificates)
    WHERE 1 = 1
    ON CONFLICT (name) DO UPDATE SET
        sealed = excluded.sealed, changed_at = excluded.changed_at, revision = excluded.revision
    RETURNING revision";

/// Gives a turn to who has it already, or when nobody does.
pub(super) const TAKE_TURN: &str = "
    INSERT INTO turns (what, holder, ends_at) VALUES ($1, $2, $3)
    ON CONFLICT (what) DO UPDATE SET holder = excluded.holder, ends_at = excluded.ends_at
    WHERE turns.holder = excluded.holder OR turns.ends_at <= $4";

/// Keeps a rule over a name, as the latest of all.
pub(super) const SET_RULE: &str = "
    INSERT INTO name_rules (name, state, owner, ends_at, note, changed_at, revision)
    SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS BIGINT),
        CAST($5 AS TEXT), CAST($6 AS BIGINT),
        (SELECT COALESCE(MAX(revision), 0) + 1 FROM name_rules)
    WHERE 1 = 1
    ON CONFLICT (name) DO UPDATE SET
        state = excluded.state, owner = excluded.owner, ends_at = excluded.ends_at,
        note = excluded.note, changed_at = excluded.changed_at, revision = excluded.revision
    RETURNING revision";
