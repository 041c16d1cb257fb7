-- Moves at most $1 rows of incomplete_session into session_completion. Creates one row for each pair of address and
-- table. If a job exists for the address of a row, the row waits, because the answer to the job will make the row due.
-- If no such job exists, or if the inventory now has a missing value, the row is due at once. If a process has leased
-- the row, the row falls due again when the process ends the lease.
-- $1 bigint: maximum number of rows to move
WITH taken AS (
    DELETE FROM @extschema@.incomplete_session
    WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM @extschema@.incomplete_session r LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING ip_address, rel, lacks_network, lacks_country, lacks_ip_type
), incomplete AS (
    SELECT t.ip_address, t.rel, bool_or(t.lacks_network) AS lacks_network, bool_or(t.lacks_country) AS lacks_country,
           bool_or(t.lacks_ip_type) AS lacks_ip_type
    FROM taken t
    GROUP BY t.ip_address, t.rel
), wanted AS (
    SELECT t.ip_address, t.rel,
           CASE WHEN NOT EXISTS (SELECT FROM @extschema@.job_address a WHERE a.ip_address = t.ip_address)
                  OR EXISTS (SELECT FROM @extschema@.ip_inventory i
                             WHERE i.ip_address = t.ip_address
                               AND (t.lacks_network AND i.current_asn IS NOT NULL
                                    OR t.lacks_country AND i.geo_country IS NOT NULL
                                    OR t.lacks_ip_type AND cardinality(i.ip_types) > 0))
                THEN now() END AS due_at
    FROM incomplete t
), moved AS (
    INSERT INTO @extschema@.session_completion AS c (ip_address, rel, due_at, pending_since)
    SELECT w.ip_address, w.rel, w.due_at, w.due_at
    FROM wanted w
    ORDER BY w.ip_address, w.rel
    ON CONFLICT (ip_address, rel) DO UPDATE
    SET is_renewed = c.leased_by IS NOT NULL,
        due_at = COALESCE(c.due_at, excluded.due_at),
        pending_since = COALESCE(c.pending_since, excluded.pending_since)
    WHERE c.due_at IS NULL AND excluded.due_at IS NOT NULL OR c.leased_by IS NOT NULL AND NOT c.is_renewed
)
SELECT count(*) FROM taken
