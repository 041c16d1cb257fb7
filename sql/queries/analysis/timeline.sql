-- Counts sessions of a table by time, and optionally by the value of a column. Runs with the rights of the caller.
-- Groups the sessions by address first, so that addresses are counted without sorting all sessions. The bounds of the
-- period are compared with the time column itself and not with an expression, so that the server can use an index on
-- this column. The caller's condition is on lines of its own in this statement, because it may end in an SQL comment.
-- $1 text: time zone of the buckets
-- $2 timestamptz: earliest time of a session, or null
-- $3 timestamptz: end of the period, or null
SELECT @bucket@ AS bucket, c.value::pg_catalog.text, c.sessions, c.addresses
FROM (
    SELECT a.bin, a.value, pg_catalog.sum(a.sessions)::bigint AS sessions,
           pg_catalog.count(*) FILTER (WHERE a.ip_address OPERATOR(pg_catalog.<>) '0.0.0.0/0'::pg_catalog.inet) AS addresses
    FROM (
        SELECT @bin@ AS bin, t.value, t.ip_address, pg_catalog.count(*) AS sessions
        FROM (
            SELECT @time@ AS seen, @by@ AS value, @address@ AS ip_address
            FROM @table@ s
            WHERE @period@ AND (
@condition@
            )) t
        GROUP BY 1, 2, 3) a
    GROUP BY 1, 2) c
ORDER BY 1, c.sessions DESC, c.value::pg_catalog.text COLLATE pg_catalog."C"
