-- Returns those addresses that wait for these jobs and for which a valid answer is now stored, each with the answer. If
-- several blocks contain an address, returns the answer about the smallest of these blocks. Returns only addresses
-- greater than $5, in ascending order. The query probes an index for each job and each address, because the planner's
-- statistics about a queue are rarely current.
-- $1 text: name of the provider
-- $2 text[]: lookup keys of the jobs
-- $3 integer: lifetime of an answer with data, in seconds
-- $4 integer: lifetime of an answer without data, in seconds
-- $5 inet: last address that was written, or null at the start
-- $6 bigint: maximum number of addresses to return
WITH waiting AS MATERIALIZED (
    SELECT a.ip_address, l.lookup_key
    FROM unnest($2) AS l(lookup_key)
    CROSS JOIN LATERAL (
        SELECT w.ip_address
        FROM @extschema@.job_address w
        WHERE w.provider = $1 AND w.lookup_key = l.lookup_key AND ($5 IS NULL OR w.ip_address > $5)
        OFFSET 0) a
), answered AS MATERIALIZED (
    SELECT w.ip_address, w.lookup_key, (
        SELECT c.prefix
        FROM @extschema@.block_answer c
        WHERE c.provider = $1 AND c.prefix BETWEEN w.lookup_key::cidr AND w.ip_address AND c.prefix >>= w.ip_address
          AND c.asked_at > now() - make_interval(secs => CASE WHEN c.is_absent THEN $4 ELSE @extschema@.network_lifetime($3, c.asn_number) END)
        ORDER BY c.prefix DESC
        LIMIT 1) AS prefix
    FROM waiting w
), chunk AS MATERIALIZED (
    SELECT a.ip_address, a.lookup_key, a.prefix
    FROM answered a
    WHERE a.prefix IS NOT NULL
    ORDER BY a.ip_address
    LIMIT $6
)
SELECT k.ip_address, k.lookup_key, c.asn_number, c.network_name, c.network_country, c.rir_registry, c.document, c.is_absent
FROM chunk k
CROSS JOIN LATERAL (
    SELECT * FROM @extschema@.block_answer a WHERE a.provider = $1 AND a.prefix = k.prefix OFFSET 0) c
ORDER BY k.ip_address
