-- Returns the number of pending pairs of an address and a table, the age of the oldest pair in microseconds, and the
-- number of suspended owners.
SELECT count(*), (extract(epoch FROM clock_timestamp() - min(c.pending_since)) * 1000000)::bigint,
       (SELECT count(*) FROM @extschema@.suspended_owner)
FROM @extschema@.session_completion c
WHERE c.due_at IS NOT NULL
