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
