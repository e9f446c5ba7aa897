-- What workers reported and the tables do not show yet: written with one statement a batch, applied to the tables later and
-- many at a time, and then removed.
CREATE TABLE report_log (
    id      INTEGER PRIMARY KEY,
    worker  TEXT NOT NULL,
    -- Encoded StreamReportsRequest, without the reports that were stored before.
    message BLOB NOT NULL
);
