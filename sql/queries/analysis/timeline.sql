-- Sessions of a table by time, and optionally by the value of a column. Runs with the rights of the caller. Groups by
-- address first, which counts addresses without sorting all sessions. The comparisons of the column itself use an index
-- by time. The condition is on separate lines, because it may end in a comment.
-- $1 text: time zone of the buckets
-- $2 text: time zone of times without a time zone
-- $3 timestamptz: since
-- $4 timestamptz: until
SELECT @bucket@ AS bucket, c.value, c.sessions, c.addresses
FROM (
    SELECT a.bin, a.value, pg_catalog.sum(a.sessions)::bigint AS sessions, pg_catalog.count(a.ip_address) AS addresses
    FROM (
        SELECT @bin@ AS bin, t.value, t.ip_address, pg_catalog.count(*) AS sessions
        FROM (
            SELECT @seen@ AS seen, @by@ AS value,
                   @schema@.session_address(s.@ip@::pg_catalog.@type@) AS ip_address
            FROM @table@ s
            WHERE @range@ AND (
@condition@
            )) t
        WHERE t.seen OPERATOR(pg_catalog.>=) $3 AND t.seen OPERATOR(pg_catalog.<) $4
        GROUP BY 1, 2, 3) a
    GROUP BY 1, 2) c
ORDER BY 1, c.sessions DESC, c.value COLLATE pg_catalog."C"
