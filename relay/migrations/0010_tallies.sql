-- Written so that SQLite and PostgreSQL read it alike. Times are Unix seconds.

-- What happened so and so often in a window of time, counted by all nodes together: new names of an
-- owner or an address in an hour, certificates ordered in an hour. Addresses are not in it, only
-- what is made of them under a key that is in no database.
CREATE TABLE tallies (
    what    TEXT   NOT NULL PRIMARY KEY,
    -- When the latest window began.
    began   BIGINT NOT NULL,
    counted BIGINT NOT NULL
);
CREATE INDEX tallies_began ON tallies (began);
