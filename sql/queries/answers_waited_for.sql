-- Addresses of jobs that are answered, each with its answer: of the smallest block that covers it.
-- $1 question cidr[], $2 and $3 lifetimes in seconds integer, $4 most bigint
SELECT a.ip_address, a.question, c.asn_number, c.document #>> '{cymru,asn_org}', c.network_country, c.rir_registry,
       c.document
FROM @extschema@.job_address a
CROSS JOIN LATERAL (
    SELECT c.asn_number, c.document, c.network_country, c.rir_registry
    FROM @extschema@.cymru_answer c
    WHERE c.covers BETWEEN a.question AND a.ip_address AND c.covers >>= a.ip_address
      AND c.asked_at > now() - make_interval(secs => CASE WHEN c.asn_number IS NULL THEN $3 ELSE $2 END)
    ORDER BY c.covers DESC
    LIMIT 1) c
WHERE a.provider = 'cymru' AND a.question = ANY ($1)
ORDER BY a.ip_address
LIMIT $4
