-- At most $1 requests become jobs, each question and each address once. A question that an earlier answer covers is
-- leased at once: it needs no asking.
-- $1 most bigint, $2 lease in seconds float8, $3 leased by bigint, $4 and $5 lifetimes in seconds integer
WITH taken AS (
    DELETE FROM @extschema@.enrichment_request
    WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM @extschema@.enrichment_request r LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING ip_address, provider, priority, requested_at
), wanted AS (
    SELECT t.provider, t.ip_address, @extschema@.question_of(t.provider, t.ip_address) AS question,
           max(t.priority) AS priority, min(t.requested_at) AS requested_at
    FROM taken t
    -- Whatever somebody inserted by hand: bogons never leave this machine.
    WHERE NOT @extschema@.is_bogon(t.ip_address)
    GROUP BY t.provider, t.ip_address
), addresses AS (
    INSERT INTO @extschema@.job_address (provider, ip_address, question)
    SELECT w.provider, w.ip_address, w.question
    FROM wanted w
    ORDER BY w.provider, w.ip_address
    ON CONFLICT DO NOTHING
), questions AS (
    SELECT w.provider, w.question, max(w.priority) AS priority, min(w.requested_at) AS requested_at,
           bool_or(EXISTS (
               SELECT FROM @extschema@.cymru_answer c
               WHERE w.provider = 'cymru'
                 AND c.covers BETWEEN w.question AND w.ip_address AND c.covers >>= w.ip_address
                 AND c.asked_at > now() - make_interval(
                     secs => CASE WHEN c.asn_number IS NULL THEN $5 ELSE $4 END))) AS is_answered
    FROM wanted w
    GROUP BY w.provider, w.question
), jobs AS (
    INSERT INTO @extschema@.enrichment_job AS j (provider, question, priority, requested_at, due_at, leased_by)
    SELECT q.provider, q.question, q.priority, q.requested_at,
           now() + CASE WHEN q.is_answered THEN make_interval(secs => $2) ELSE '0' END,
           CASE WHEN q.is_answered THEN $3 END
    FROM questions q
    ORDER BY q.provider, q.question
    -- Also where nothing changes: the row's lock keeps the job from being finished without the new address.
    ON CONFLICT (provider, question) DO UPDATE
    SET priority = GREATEST(j.priority, excluded.priority), requested_at = LEAST(j.requested_at, excluded.requested_at)
    RETURNING j.provider, j.question, j.leased_by = $3 AND j.due_at = now() + make_interval(secs => $2) AS is_answered
)
SELECT (SELECT count(*) FROM taken), j.question
FROM (SELECT) one
LEFT JOIN jobs j ON j.is_answered AND j.provider = 'cymru'
