-- Moves at most $1 rows of the inbox, each pair of address and table once. A pair is due at once unless a job will answer for
-- its address: the answer makes it due. A row that is leased is due again after the lease.
-- $1 bigint: most
WITH taken AS (
    DELETE FROM @extschema@.incomplete_session
    WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM @extschema@.incomplete_session r LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING ip_address, rel
), wanted AS (
    SELECT DISTINCT t.ip_address, t.rel,
           EXISTS (SELECT FROM @extschema@.job_address a WHERE a.ip_address = t.ip_address) AS is_asked
    FROM taken t
), moved AS (
    INSERT INTO @extschema@.session_completion AS c (ip_address, rel, due_at, pending_since)
    SELECT w.ip_address, w.rel, CASE WHEN NOT w.is_asked THEN now() END, CASE WHEN NOT w.is_asked THEN now() END
    FROM wanted w
    ORDER BY w.ip_address, w.rel
    ON CONFLICT (ip_address, rel) DO UPDATE
    SET is_renewed = c.leased_by IS NOT NULL,
        due_at = COALESCE(c.due_at, excluded.due_at),
        pending_since = COALESCE(c.pending_since, excluded.pending_since)
    WHERE c.due_at IS NULL AND excluded.due_at IS NOT NULL OR c.leased_by IS NOT NULL AND NOT c.is_renewed
)
SELECT count(*) FROM taken
