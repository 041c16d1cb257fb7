-- Leases the most urgent jobs that are due, and names an address to ask about for each: one that no earlier answer
-- covers, another one after each failure. None: an answer came meanwhile.
-- $1 provider text, $2 most bigint, $3 lease in seconds float8, $4 leased by bigint,
-- $5 and $6 lifetimes in seconds integer
WITH due AS (
    SELECT j.question
    FROM @extschema@.enrichment_job j
    WHERE j.provider = $1 AND j.due_at <= now()
    ORDER BY j.priority DESC, j.due_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), leased AS (
    UPDATE @extschema@.enrichment_job j
    SET due_at = now() + make_interval(secs => $3), leased_by = $4
    FROM due d
    WHERE j.provider = $1 AND j.question = d.question
    RETURNING j.question, j.attempts
)
SELECT l.question, asked.ip_address
FROM leased l
LEFT JOIN LATERAL (
    SELECT a.ip_address
    FROM @extschema@.job_address a
    WHERE a.provider = $1 AND a.question = l.question
      AND NOT EXISTS (
        SELECT FROM @extschema@.cymru_answer c
        WHERE $1 = 'cymru'
          AND c.covers BETWEEN l.question AND a.ip_address AND c.covers >>= a.ip_address
          AND c.asked_at > now() - make_interval(secs => CASE WHEN c.asn_number IS NULL THEN $6 ELSE $5 END))
    ORDER BY hashinetextended(a.ip_address, l.attempts)
    LIMIT 1) asked ON true
