-- Creates jobs for networks for which no lookup was queued before, and sets lookup_queued_at of these networks. Leaves
-- out bogons, and networks that another transaction has locked. If the lookup of a network is a dead letter, sets
-- lookup_queued_at but creates no job. Returns the number of networks whose lookup_queued_at was set.
-- $1 text: name of the provider
-- $2 bigint: maximum number of networks
-- $3 integer: priority of the jobs
WITH new AS MATERIALIZED (
    SELECT n.asn_number
    FROM @extschema@.asn_inventory n
    WHERE n.lookup_queued_at IS NULL AND NOT @extschema@.is_bogon_asn(n.asn_number)
    ORDER BY n.asn_number
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
), jobs AS (
    INSERT INTO @extschema@.enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
    SELECT $1, 'asn', n.asn_number::text, $3, now()
    FROM new n
    WHERE (SELECT true FROM @extschema@.dead_letter d WHERE d.provider = $1 AND d.asn_number = n.asn_number) IS NULL
    -- Inserts jobs in the order in which jobs_hold.sql locks jobs.
    ORDER BY n.asn_number::text COLLATE "C"
    ON CONFLICT (provider, lookup_key) DO NOTHING
), marked AS (
    UPDATE @extschema@.asn_inventory n
    SET lookup_queued_at = now()
    FROM new
    WHERE n.asn_number = new.asn_number
    RETURNING 1
)
SELECT count(*) FROM marked
