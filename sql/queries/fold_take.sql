-- Pending session counts, at most $1 rows of them, summed by address. Deleted here, added in the same transaction.
WITH taken AS (
    DELETE FROM @extschema@.session_delta
    WHERE ctid = ANY (ARRAY(SELECT d.ctid FROM @extschema@.session_delta d LIMIT $1))
    RETURNING ip_address, sessions, first_seen, last_seen
)
SELECT t.ip_address, sum(t.sessions)::bigint, min(t.first_seen), max(t.last_seen), count(*)
FROM taken t
GROUP BY t.ip_address
ORDER BY t.ip_address
