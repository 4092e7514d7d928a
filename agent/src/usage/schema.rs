//! The schema of `monitor.db`, which is the Python program's: both append to the same file.

/// Makes the table, unless it is there.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS monitor_events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        event_type TEXT,
        server_id TEXT,
        resource_id TEXT,
        session_id TEXT,
        client_id TEXT,
        timestamp DATETIME,
        duration_ms INTEGER,
        request_size INTEGER,
        response_size INTEGER,
        success BOOLEAN,
        error_message TEXT,
        metadata TEXT,
        raw_request TEXT,
        raw_response TEXT
    )";

/// Makes what goes with the table and is missing.
pub(super) const REST: &[&str] = &[
    "CREATE INDEX IF NOT EXISTS idx_events_timestamp ON monitor_events(timestamp)",
    "CREATE INDEX IF NOT EXISTS idx_events_server ON monitor_events(server_id)",
    "CREATE INDEX IF NOT EXISTS idx_events_session ON monitor_events(session_id)",
    "CREATE INDEX IF NOT EXISTS idx_events_type ON monitor_events(event_type)",
    "CREATE VIEW IF NOT EXISTS access_events AS SELECT * FROM monitor_events",
];

/// Tells whether the table has the column that its first versions lacked.
pub(super) const HAS_SESSION: &str =
    "SELECT COUNT(*) FROM pragma_table_info('monitor_events') WHERE name = 'session_id'";

/// Adds it.
pub(super) const ADD_SESSION: &str = "ALTER TABLE monitor_events ADD COLUMN session_id TEXT";

/// Adds events; their values follow, see [`TIME`]. `raw_request` and `raw_response` stay empty.
pub(super) const INSERT: &str = "
    INSERT INTO monitor_events (
        event_type, server_id, resource_id, session_id, client_id, timestamp, duration_ms,
        request_size, response_size, success, error_message, metadata
    ) ";

/// What stands before and behind a time. Times come in Unix milliseconds and are kept in local time,
/// as Python keeps them.
pub(super) const TIME: (&str, &str) =
    ("strftime('%Y-%m-%dT%H:%M:%f', ", " / 1000.0, 'unixepoch', 'localtime')");

/// Deletes some of the events older than so many days; a few at a time, so that nobody waits long.
pub(super) const PRUNE_OLD: &str = "
    DELETE FROM monitor_events WHERE id IN (
        SELECT id FROM monitor_events
        WHERE timestamp < strftime('%Y-%m-%dT%H:%M:%f', 'now', 'localtime', '-' || ?1 || ' days')
        LIMIT ?2
    )";

/// Deletes some of the events beyond the newest so many.
pub(super) const PRUNE_MANY: &str = "
    DELETE FROM monitor_events WHERE id IN (
        SELECT id FROM monitor_events
        WHERE id <= (SELECT MAX(id) FROM monitor_events) - ?1
        ORDER BY id LIMIT ?2
    )";
