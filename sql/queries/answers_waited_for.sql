-- Addresses of jobs that are answered, each with its answer: of the smallest block that covers it. In key order, from
-- behind $4 on. Probes by key, as in jobs_claim.sql.
-- $1 question cidr[], $2 and $3 lifetimes in seconds integer, $4 inet or null, $5 most bigint
WITH waiting AS MATERIALIZED (
    SELECT a.ip_address, q.question
    FROM unnest($1) AS q(question)
    CROSS JOIN LATERAL (
        SELECT w.ip_address
        FROM @extschema@.job_address w
        WHERE w.provider = 'cymru' AND w.question = q.question AND ($4 IS NULL OR w.ip_address > $4)
        OFFSET 0) a
), answered AS MATERIALIZED (
    SELECT w.ip_address, w.question, (
        SELECT c.covers
        FROM @extschema@.cymru_answer c
        WHERE c.covers BETWEEN w.question AND w.ip_address AND c.covers >>= w.ip_address
          AND c.asked_at > now() - make_interval(secs => CASE WHEN c.asn_number IS NULL THEN $3 ELSE $2 END)
        ORDER BY c.covers DESC
        LIMIT 1) AS covers
    FROM waiting w
), chunk AS MATERIALIZED (
    SELECT a.ip_address, a.question, a.covers
    FROM answered a
    WHERE a.covers IS NOT NULL
    ORDER BY a.ip_address
    LIMIT $5
)
SELECT k.ip_address, k.question, c.asn_number, c.document #>> '{cymru,asn_org}', c.network_country, c.rir_registry,
       c.document
FROM chunk k
CROSS JOIN LATERAL (
    SELECT * FROM @extschema@.cymru_answer a WHERE a.covers = k.covers OFFSET 0) c
ORDER BY k.ip_address
