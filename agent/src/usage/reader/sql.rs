//! The queries of a report. What it is about is copied into work tables of the connection first:
//! they attribute the events that the Python program wrote with an unknown server.

/// Tells whether a server is in the file.
pub(super) const KNOWS_SERVER: &str =
    "SELECT EXISTS (SELECT 1 FROM monitor_events WHERE server_id = ?1)";

/// Tells whether a profile is in the file.
pub(super) const KNOWS_PROFILE: &str = "
    SELECT EXISTS (
        SELECT 1 FROM monitor_events WHERE event_type = 'SESSION_START'
        AND CASE WHEN json_valid(metadata) THEN json_extract(metadata, '$.profile_name') END = ?1
    )";

/// Tells whether something was recorded before the last ?1 days.
pub(super) const GOES_BACK: &str = "
    SELECT EXISTS (
        SELECT 1 FROM monitor_events
        WHERE timestamp < strftime('%Y-%m-%dT%H:%M:%f', 'now', 'localtime', '-' || ?1 || ' days')
    )";

/// Makes the work tables.
pub(super) const WORK_TABLES: &[&str] = &[
    "CREATE TEMP TABLE session (
        id TEXT PRIMARY KEY, server TEXT, profile TEXT, action TEXT, transport TEXT, source TEXT,
        client TEXT, began TEXT, duration_ms INTEGER, error TEXT
    )",
    "CREATE TEMP TABLE call (
        session TEXT, server TEXT, profile TEXT, kind TEXT, name TEXT, at TEXT, ms REAL,
        failed INTEGER, error TEXT, request_size INTEGER, response_size INTEGER
    )",
    "CREATE INDEX temp.call_session ON call (session)",
];

/// Fills them; ?1 is a number of days, ?2 a server or null, ?3 a profile or null.
pub(super) const FILL: &[&str] = &[
    // Every session, since calls of now may belong to one that began long ago.
    "INSERT OR IGNORE INTO temp.session
    SELECT s.session_id, NULLIF(s.server_id, 'unknown'),
        json_extract(s.meta, '$.profile_name'), json_extract(s.meta, '$.action'),
        json_extract(s.meta, '$.transport'), json_extract(s.meta, '$.source'),
        s.client_id, s.timestamp, e.duration_ms,
        CASE WHEN e.success = 0 THEN COALESCE(e.error_message, 'failed') END
    FROM (
        SELECT *, CASE WHEN json_valid(metadata) THEN metadata ELSE '{}' END AS meta
        FROM monitor_events WHERE event_type = 'SESSION_START' AND session_id IS NOT NULL
    ) s
    LEFT JOIN (
        SELECT session_id, MAX(duration_ms) AS duration_ms, MIN(success) AS success,
            MAX(error_message) AS error_message
        FROM monitor_events WHERE event_type = 'SESSION_END' GROUP BY session_id
    ) e ON e.session_id = s.session_id",
    "INSERT INTO temp.call
    SELECT e.session_id, COALESCE(NULLIF(e.server_id, 'unknown'), s.server), s.profile,
        CASE e.event_type WHEN 'TOOL_INVOCATION' THEN 'tool' WHEN 'PROMPT_EXECUTION' THEN 'prompt'
            ELSE 'resource' END,
        COALESCE(e.resource_id, 'unknown'), e.timestamp,
        COALESCE(
            CASE WHEN json_valid(e.metadata) THEN json_extract(e.metadata, '$.duration_us') END
                / 1000.0,
            e.duration_ms),
        COALESCE(e.success, 1) = 0, e.error_message, e.request_size, e.response_size
    FROM monitor_events e LEFT JOIN temp.session s ON s.id = e.session_id
    WHERE e.event_type IN ('TOOL_INVOCATION', 'RESOURCE_ACCESS', 'PROMPT_EXECUTION')
        AND e.timestamp >=
            strftime('%Y-%m-%dT%H:%M:%f', 'now', 'localtime', '-' || ?1 || ' days')",
    "DELETE FROM temp.call
    WHERE (?2 IS NOT NULL AND server IS NOT ?2) OR (?3 IS NOT NULL AND profile IS NOT ?3)",
    "DELETE FROM temp.session
    WHERE id NOT IN (SELECT session FROM temp.call WHERE session IS NOT NULL) AND (
        began < strftime('%Y-%m-%dT%H:%M:%f', 'now', 'localtime', '-' || ?1 || ' days')
        OR (?2 IS NOT NULL AND server IS NOT ?2) OR (?3 IS NOT NULL AND profile IS NOT ?3))",
];

/// Sums.
pub(super) const TOTALS: &str = "
    SELECT
        (SELECT COUNT(*) FROM (
            SELECT server FROM temp.session WHERE server IS NOT NULL
            UNION SELECT server FROM temp.call WHERE server IS NOT NULL)) AS servers,
        (SELECT COUNT(DISTINCT profile) FROM temp.session) AS profiles,
        (SELECT COUNT(*) FROM temp.session) AS sessions,
        (SELECT COUNT(*) FROM temp.call) AS calls,
        (SELECT COUNT(*) FROM temp.call WHERE failed) AS errors";

/// Servers, with the calls and the sessions that touched each.
pub(super) const SERVERS: &str = "
    WITH
    made AS (
        SELECT server, COUNT(*) AS calls, SUM(failed) AS errors, MAX(ms) AS max_ms,
            SUM(ms) AS busy_ms, SUM(request_size) AS request_bytes,
            SUM(response_size) AS response_bytes
        FROM temp.call GROUP BY server
    ),
    ranked AS (
        SELECT server, ms, ROW_NUMBER() OVER (PARTITION BY server ORDER BY ms) AS n,
            COUNT(*) OVER (PARTITION BY server) AS total
        FROM temp.call WHERE ms IS NOT NULL
    ),
    timed AS (
        SELECT server, MIN(CASE WHEN n >= total * 0.5 THEN ms END) AS p50_ms,
            MIN(CASE WHEN n >= total * 0.95 THEN ms END) AS p95_ms
        FROM ranked GROUP BY server
    ),
    touched AS (
        SELECT server, id AS session, began AS at, transport FROM temp.session
        UNION ALL
        SELECT c.server, c.session, c.at, s.transport
        FROM temp.call c LEFT JOIN temp.session s ON s.id = c.session
    ),
    seen AS (
        SELECT server, COUNT(DISTINCT session) AS sessions, MIN(at) AS first, MAX(at) AS last,
            CASE WHEN SUM(transport = 'http') * 2 > COUNT(transport) THEN 'http'
                ELSE MAX(transport) END AS transport
        FROM touched WHERE server IS NOT NULL GROUP BY server
    )
    SELECT seen.server, seen.sessions, COALESCE(made.calls, 0) AS calls,
        COALESCE(made.errors, 0) AS errors, timed.p50_ms, timed.p95_ms, made.max_ms,
        (SELECT COALESCE(SUM(duration_ms), 0) FROM temp.session s WHERE s.server = seen.server)
            AS runtime_ms,
        made.busy_ms, COALESCE(made.request_bytes, 0) AS request_bytes,
        COALESCE(made.response_bytes, 0) AS response_bytes,
        seen.transport,
        CAST(strftime('%s', seen.first, 'utc') AS INTEGER) AS first_used,
        CAST(strftime('%s', seen.last, 'utc') AS INTEGER) AS last_used
    FROM seen LEFT JOIN made USING (server) LEFT JOIN timed USING (server)
    ORDER BY calls DESC, sessions DESC, seen.server";

/// Profiles, with the calls in their sessions.
pub(super) const PROFILES: &str = "
    SELECT s.profile, COUNT(DISTINCT s.id) AS sessions, COUNT(c.name) AS calls,
        COALESCE(SUM(c.failed), 0) AS errors,
        COUNT(DISTINCT COALESCE(c.server, s.server)) AS servers,
        CAST(strftime('%s', MIN(s.began), 'utc') AS INTEGER) AS first_used,
        CAST(strftime('%s', MAX(MAX(s.began), COALESCE(MAX(c.at), '')), 'utc') AS INTEGER)
            AS last_used
    FROM temp.session s LEFT JOIN temp.call c ON c.session = s.id
    WHERE s.profile IS NOT NULL
    GROUP BY s.profile ORDER BY calls DESC, sessions DESC, s.profile";

/// Tools, prompts and resources.
pub(super) const CALLS: &str = "
    WITH ranked AS (
        SELECT server, kind, name, ms, at, failed,
            ROW_NUMBER() OVER (PARTITION BY server, kind, name ORDER BY ms NULLS LAST) AS n,
            COUNT(ms) OVER (PARTITION BY server, kind, name) AS total
        FROM temp.call
    )
    SELECT server, kind, name, COUNT(*) AS calls, SUM(failed) AS errors,
        MIN(CASE WHEN n >= total * 0.5 THEN ms END) AS p50_ms,
        MIN(CASE WHEN n >= total * 0.95 THEN ms END) AS p95_ms,
        MAX(ms) AS max_ms,
        CAST(strftime('%s', MAX(at), 'utc') AS INTEGER) AS last_used
    FROM ranked GROUP BY server, kind, name
    ORDER BY COUNT(*) DESC, server, kind, name LIMIT 100";

/// Days.
pub(super) const DAYS: &str = "
    SELECT day, SUM(began) AS sessions, SUM(called) AS calls, SUM(failed) AS errors
    FROM (
        SELECT substr(began, 1, 10) AS day, 1 AS began, 0 AS called, 0 AS failed FROM temp.session
        UNION ALL SELECT substr(at, 1, 10), 0, 1, failed FROM temp.call
    )
    WHERE day IS NOT NULL GROUP BY day ORDER BY day DESC";

/// The latest sessions.
pub(super) const SESSIONS: &str = "
    SELECT s.id AS session, s.server, s.profile, s.action, s.transport, s.source, s.client,
        CAST(strftime('%s', s.began, 'utc') AS INTEGER) AS began_at, s.duration_ms,
        COUNT(c.name) AS calls, COALESCE(SUM(c.failed), 0) AS errors, s.error
    FROM (SELECT * FROM temp.session ORDER BY began DESC LIMIT 50) s
    LEFT JOIN temp.call c ON c.session = s.id
    GROUP BY s.id ORDER BY s.began DESC, s.id";

/// The latest failures.
pub(super) const ERRORS: &str = "
    SELECT CAST(strftime('%s', at, 'utc') AS INTEGER) AS at, server, kind, name, error
    FROM temp.call WHERE failed ORDER BY temp.call.at DESC LIMIT 20";
