-- Leases the most urgent due jobs. For each job, returns an address about which the worker then asks the provider. The
-- query chooses an address that has no valid answer yet. After each failure of a job, the next claim of this job
-- considers the addresses in another order. If all addresses of the job already have an answer, the query returns null
-- instead of an address.
--
-- A claim leases either only jobs for addresses or only jobs for networks, because one request to a provider cannot contain both.
-- The most urgent job determines which kind is leased. The lookup of a network always needs a request. For such a job, the query
-- also returns null instead of an address.
--
-- The query probes indexes for one job after the other. A join would be planned by statistics, and the statistics about
-- a queue are rarely current. The planner sees the values of the parameters, so it keeps only one branch of a CASE that
-- tests a parameter.
--
-- If $8 is true, the request is a probe that tests whether the provider has recovered. A probe leases the jobs that
-- have been due for the longest time, because the provider may be unable to answer the most urgent job.
-- $1 text: name of the provider
-- $2 bigint: maximum number of jobs to lease
-- $3 float8: duration of the lease, in seconds
-- $4 bigint: id of the worker that gets the leases
-- $5 integer: lifetime of an answer with data, in seconds
-- $6 integer: lifetime of an answer without data, in seconds
-- $7 boolean: true if an answer of the provider is valid for a block of addresses
-- $8 boolean: true if the request is a probe
-- $9 boolean: true if the worker may send lookups of networks
WITH due AS MATERIALIZED (
    SELECT d.ctid AS place, d.lookup_kind = 'asn' AS is_network
    FROM @extschema@.enrichment_job d
    WHERE d.provider = $1 AND d.due_at <= now() AND ($9 OR d.lookup_kind <> 'asn')
    ORDER BY CASE WHEN $8 THEN 0 ELSE d.priority END DESC, d.due_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), leased AS (
    UPDATE @extschema@.enrichment_job j
    SET due_at = now() + make_interval(secs => $3), leased_by = $4
    WHERE j.ctid = ANY (ARRAY(
        SELECT d.place FROM due d WHERE d.is_network = (SELECT f.is_network FROM due f LIMIT 1)))
    RETURNING j.lookup_key, j.attempts, j.priority
)
SELECT l.lookup_key, (
    SELECT a.ip_address
    FROM @extschema@.job_address a
    WHERE a.provider = $1 AND a.lookup_key = l.lookup_key
      AND CASE WHEN $7 THEN (
        SELECT true
        FROM @extschema@.block_answer c
        WHERE c.provider = $1 AND c.prefix BETWEEN l.lookup_key::cidr AND a.ip_address AND c.prefix >>= a.ip_address
          AND c.asked_at > now() - make_interval(secs => CASE WHEN c.is_absent THEN $6 ELSE @extschema@.network_lifetime($5, c.asn_number) END)
        LIMIT 1)
      ELSE (
        SELECT true
        FROM @extschema@.ip_inventory i
        WHERE i.ip_address = a.ip_address AND @extschema@.is_source_fresh(i.enrichment, $1, $5, $6)) END IS NULL
    ORDER BY hashinetextended(a.ip_address, l.attempts)
    LIMIT 1)
FROM leased l
ORDER BY l.priority DESC
