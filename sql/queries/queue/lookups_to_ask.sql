-- Counts the lookup keys that must be sent to a provider to get answers about some addresses. Does not count lookup
-- keys that are already queued. Ignores addresses for which an earlier answer is still valid.
-- $1 text: name of the provider
-- $2 inet[]: addresses
-- $3 boolean: true if an answer of the provider is valid for a block of addresses
-- $4 integer: lifetime of an answer with data, in seconds
-- $5 integer: lifetime of an answer without data, in seconds
WITH waiting AS MATERIALIZED (
    SELECT l.lookup_key
    FROM @extschema@.enrichment_request r
    CROSS JOIN LATERAL @extschema@.lookup_key_of(r.provider, r.ip_address) l
    WHERE r.provider = $1 AND l.lookup_key IS NOT NULL
), wanted AS MATERIALIZED (
    SELECT g.ip, l.lookup_key
    FROM unnest($2) AS g(ip)
    CROSS JOIN LATERAL @extschema@.lookup_key_of($1, g.ip) l
)
SELECT count(DISTINCT w.lookup_key)
FROM wanted w
-- With NOT IN, the server would read all waiting lookups again for each address if the lookups did not fit into a hash
-- table.
WHERE NOT EXISTS (SELECT FROM waiting a WHERE a.lookup_key = w.lookup_key)
  AND (SELECT true FROM @extschema@.enrichment_job j WHERE j.provider = $1 AND j.lookup_key = w.lookup_key) IS NULL
  AND CASE WHEN $3 THEN (
        SELECT true
        FROM @extschema@.block_answer c
        WHERE c.provider = $1 AND c.prefix BETWEEN w.lookup_key::cidr AND w.ip AND c.prefix >>= w.ip
          AND c.asked_at > now() - make_interval(secs => CASE WHEN c.is_absent THEN $5 ELSE @extschema@.network_lifetime($4, c.asn_number) END)
        LIMIT 1) END IS NULL
