-- Creates jobs from at most $1 rows of enrichment_request. Rows that ask for the same lookup share one job. If an
-- earlier answer covers the lookup of a job, leases the job at once, because this job needs no request to the provider.
-- $1 bigint: maximum number of requests to read
-- $2 float8: duration of the lease, in seconds
-- $3 bigint: id of the worker that gets the leases
-- $4 text[]: names of the providers
-- $5 boolean[]: for each provider, true if its answers are valid for blocks of addresses
-- $6 integer[]: for each provider, the lifetime of an answer with data, in seconds
-- $7 integer[]: for each provider, the lifetime of an answer without data, in seconds
-- $8 boolean[]: for each provider, true if it looks up networks
WITH taken AS (
    DELETE FROM @extschema@.enrichment_request
    WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM @extschema@.enrichment_request r LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING ip_address, asn_number, provider, priority, requested_at
), wanted AS (
    SELECT t.provider, t.ip_address, l.lookup_kind, l.lookup_key COLLATE "C" AS lookup_key,
           max(t.priority) AS priority, min(t.requested_at) AS requested_at
    FROM taken t
    CROSS JOIN LATERAL @extschema@.lookup_key_of(t.provider, t.ip_address) l
    -- Also checks rows that a user has inserted, because bogons must never be sent to a provider.
    WHERE t.ip_address IS NOT NULL AND @extschema@.may_be_asked(t.provider, t.ip_address)
    GROUP BY t.provider, t.ip_address, l.lookup_kind, l.lookup_key
), networks AS (
    -- The row of a network contains the answer about the network. If this answer is still valid, the request needs no
    -- job.
    SELECT t.provider, t.asn_number::text COLLATE "C" AS lookup_key, max(t.priority) AS priority,
           min(t.requested_at) AS requested_at
    FROM taken t
    JOIN unnest($4, $8, $6, $7) AS p(provider, looks_up_networks, value, absent) ON p.provider = t.provider
    LEFT JOIN LATERAL (
        SELECT jsonb_build_object('_meta', n.enrichment -> '_meta') AS document
        FROM @extschema@.asn_inventory n
        WHERE n.asn_number = t.asn_number
        OFFSET 0) n ON true
    WHERE t.asn_number IS NOT NULL AND p.looks_up_networks AND NOT @extschema@.is_bogon_asn(t.asn_number)
      AND @extschema@.is_source_fresh(n.document, t.provider, p.value, p.absent) IS NOT TRUE
    GROUP BY t.provider, t.asn_number
), addresses AS (
    INSERT INTO @extschema@.job_address (provider, ip_address, lookup_kind, lookup_key)
    SELECT w.provider, w.ip_address, w.lookup_kind, w.lookup_key
    FROM wanted w
    ORDER BY w.provider, w.ip_address
    ON CONFLICT DO NOTHING
), lookups AS (
    SELECT w.provider, w.lookup_kind, w.lookup_key, max(w.priority) AS priority, min(w.requested_at) AS requested_at,
           bool_or(CASE WHEN p.shares THEN EXISTS (
               SELECT FROM @extschema@.block_answer c
               WHERE c.provider = w.provider AND c.prefix BETWEEN w.lookup_key::cidr AND w.ip_address AND c.prefix >>= w.ip_address
                 AND c.asked_at > now() - make_interval(secs => CASE WHEN c.is_absent THEN p.absent ELSE @extschema@.network_lifetime(p.value, c.asn_number) END))
           ELSE EXISTS (
               SELECT FROM @extschema@.ip_inventory i
               WHERE i.ip_address = w.ip_address
                 AND @extschema@.is_source_fresh(i.enrichment, w.provider, p.value, p.absent)) END) AS is_answered
    FROM wanted w
    JOIN unnest($4, $5, $6, $7) AS p(provider, shares, value, absent) ON p.provider = w.provider
    GROUP BY w.provider, w.lookup_key, w.lookup_kind
    UNION ALL
    SELECT n.provider, 'asn', n.lookup_key, n.priority, n.requested_at, false FROM networks n
), jobs AS (
    INSERT INTO @extschema@.enrichment_job AS j (
        provider, lookup_kind, lookup_key, priority, requested_at, due_at, leased_by)
    SELECT l.provider, l.lookup_kind, l.lookup_key, l.priority, l.requested_at,
           now() + CASE WHEN l.is_answered THEN make_interval(secs => $2) ELSE '0' END,
           CASE WHEN l.is_answered THEN $3 END
    FROM lookups l
    -- Inserts jobs in the order in which jobs_hold.sql locks jobs.
    ORDER BY l.provider, l.lookup_key
    -- ON CONFLICT DO UPDATE locks the row of an existing job even if WHERE excludes the update. So no worker can finish this job
    -- without the new address.
    ON CONFLICT (provider, lookup_key) DO UPDATE
    SET priority = GREATEST(j.priority, excluded.priority), requested_at = LEAST(j.requested_at, excluded.requested_at)
    WHERE j.priority < excluded.priority OR j.requested_at > excluded.requested_at
    RETURNING j.provider, j.lookup_key, j.leased_by = $3 AND j.due_at = now() + make_interval(secs => $2) AS is_answered
)
SELECT (SELECT count(*) FROM taken), l.provider, j.lookup_key
FROM (SELECT) one
-- Returns a row for each answered lookup. A provider without an answered lookup also has one row.
LEFT JOIN (SELECT DISTINCT l.provider FROM lookups l) l ON true
LEFT JOIN jobs j ON j.provider = l.provider AND j.is_answered
