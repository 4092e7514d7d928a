-- Written so that SQLite and PostgreSQL read it alike. Times are Unix seconds.

-- The processes that are one relay together. PostgreSQL also tells all of them of every change here
-- and in `leases`, by triggers that the relay makes.
CREATE TABLE nodes (
    id         TEXT   NOT NULL PRIMARY KEY,
    -- Where the other nodes reach it, as HOST:PORT.
    address    TEXT   NOT NULL,
    -- Rises with each start under this id: the highest is the one that counts.
    generation BIGINT NOT NULL,
    -- Rises while the node lives. Others look whether it does, and never compare clocks.
    beats      BIGINT NOT NULL,
    version    TEXT   NOT NULL,
    -- 1 once it was told to stop.
    draining   BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL
);
