-- At most $1 requests become jobs, each question and each address once. A question that an earlier answer covers is
-- leased at once: it needs no asking.
-- $1 most bigint, $2 lease in seconds float8, $3 leased by bigint; of each provider: $4 name text[], $5 whether answers
-- are of blocks boolean[], $6 and $7 lifetimes in seconds integer[]
WITH taken AS (
    DELETE FROM @extschema@.enrichment_request
    WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM @extschema@.enrichment_request r LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING ip_address, provider, priority, requested_at
), wanted AS (
    SELECT t.provider, t.ip_address, @extschema@.question_of(t.provider, t.ip_address) AS question,
           max(t.priority) AS priority, min(t.requested_at) AS requested_at
    FROM taken t
    -- Whatever somebody inserted by hand: bogons never leave this machine.
    WHERE @extschema@.may_be_asked(t.provider, t.ip_address)
    GROUP BY t.provider, t.ip_address
), addresses AS (
    INSERT INTO @extschema@.job_address (provider, ip_address, question)
    SELECT w.provider, w.ip_address, w.question
    FROM wanted w
    ORDER BY w.provider, w.ip_address
    ON CONFLICT DO NOTHING
), questions AS (
    SELECT w.provider, w.question, max(w.priority) AS priority, min(w.requested_at) AS requested_at,
           bool_or(CASE WHEN p.shares THEN EXISTS (
               SELECT FROM @extschema@.block_answer c
               WHERE c.provider = w.provider AND c.prefix BETWEEN w.question AND w.ip_address AND c.prefix >>= w.ip_address
                 AND c.asked_at > now() - make_interval(secs => CASE WHEN c.is_absent THEN p.absent ELSE p.value END))
           ELSE EXISTS (
               SELECT FROM @extschema@.ip_inventory i
               WHERE i.ip_address = w.ip_address
                 AND @extschema@.is_source_fresh(i.enrichment, w.provider, p.value, p.absent)) END) AS is_answered
    FROM wanted w
    JOIN unnest($4, $5, $6, $7) AS p(provider, shares, value, absent) ON p.provider = w.provider
    GROUP BY w.provider, w.question
), jobs AS (
    INSERT INTO @extschema@.enrichment_job AS j (provider, question, priority, requested_at, due_at, leased_by)
    SELECT q.provider, q.question, q.priority, q.requested_at,
           now() + CASE WHEN q.is_answered THEN make_interval(secs => $2) ELSE '0' END,
           CASE WHEN q.is_answered THEN $3 END
    FROM questions q
    ORDER BY q.provider, q.question
    -- Where nothing changes the row is locked all the same, which keeps the job from being finished without the new address.
    ON CONFLICT (provider, question) DO UPDATE
    SET priority = GREATEST(j.priority, excluded.priority), requested_at = LEAST(j.requested_at, excluded.requested_at)
    WHERE j.priority < excluded.priority OR j.requested_at > excluded.requested_at
    RETURNING j.provider, j.question, j.leased_by = $3 AND j.due_at = now() + make_interval(secs => $2) AS is_answered
)
SELECT (SELECT count(*) FROM taken), q.provider, j.question
FROM (SELECT) one
-- One row for each answered question, and at least one for each provider.
LEFT JOIN (SELECT DISTINCT q.provider FROM questions q) q ON true
LEFT JOIN jobs j ON j.provider = q.provider AND j.is_answered
