-- Deletes these pending session counts, and returns their sum for each address. The caller adds the sums to the stored
-- counts in the same transaction. Returns null instead of an implausible time.
-- $1 tid[]: tuple ids of the pending counts
WITH taken AS (
    DELETE FROM @extschema@.session_delta d
    WHERE d.ctid = ANY ($1)
    RETURNING d.ip_address, d.sessions, d.first_seen, d.last_seen
)
SELECT t.ip_address, sum(t.sessions)::bigint,
       min(@extschema@.session_time(t.first_seen)), max(@extschema@.session_time(t.last_seen)), count(*)
FROM taken t
GROUP BY t.ip_address
ORDER BY t.ip_address
