-- Locks the jobs that look up these addresses, and the jobs whose error text mentions one of the addresses. Replaces
-- these error texts.
-- $1 inet[]: addresses
WITH locked AS MATERIALIZED (
    SELECT j.provider, j.lookup_key, j.last_error
    FROM @extschema@.enrichment_job j
    WHERE (j.provider, j.lookup_key) IN (
              SELECT a.provider, a.lookup_key FROM @extschema@.job_address a WHERE a.ip_address = ANY ($1))
       OR j.lookup_key IN (SELECT host(u.ip) FROM unnest($1) u(ip))
       OR (j.last_error IS NOT NULL AND @extschema@.mentions_address(j.last_error, $1))
    ORDER BY j.provider, j.lookup_key
    FOR UPDATE
)
UPDATE @extschema@.enrichment_job j
SET last_error = 'The error named an address that was erased.'
FROM locked l
WHERE j.provider = l.provider AND j.lookup_key = l.lookup_key
  AND l.last_error IS NOT NULL AND @extschema@.mentions_address(l.last_error, $1)
