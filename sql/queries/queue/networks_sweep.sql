-- Creates jobs for networks whose answer has expired, or whose earlier job was lost. Reads at most $2 networks with an
-- ASN greater than $3. Creates no job for a bogon, or for a lookup that is already queued or is a dead letter. If a
-- lookup was cancelled, creates a job only if a session of the network has been counted since then. Returns the ASN of
-- the last network that was read, and the number of networks that were read.
-- $1 text: name of the provider
-- $2 bigint: maximum number of networks to read
-- $3 bigint: ASN of the last network that was read, or 0 at the start
-- $4 integer: lifetime of an answer with data, in seconds
-- $5 integer: lifetime of an answer without data, in seconds
-- $6 integer: priority of the jobs
WITH seen AS MATERIALIZED (
    SELECT n.asn_number, n.lookup_queued_at, n.total_session_count, n.last_seen, n.enrichment -> '_meta' AS meta
    FROM @extschema@.asn_inventory n
    WHERE n.asn_number > $3
    ORDER BY n.asn_number
    LIMIT $2
), jobs AS (
    INSERT INTO @extschema@.enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
    SELECT $1, 'asn', s.asn_number::text, $6, now()
    FROM seen s
    -- networks_queue.sql finds the networks that this statement leaves out.
    WHERE s.lookup_queued_at IS NOT NULL AND NOT @extschema@.is_bogon_asn(s.asn_number)
      AND CASE s.meta #>> ARRAY[$1, 'state']
          WHEN 'failed' THEN false
          WHEN 'skipped' THEN @extschema@.has_sessions_since_skip(
              jsonb_build_object('_meta', s.meta), $1, s.total_session_count, s.last_seen)
          ELSE true END
      AND @extschema@.is_source_fresh(jsonb_build_object('_meta', s.meta), $1, $4, $5) IS NOT TRUE
      AND (SELECT true FROM @extschema@.dead_letter d WHERE d.provider = $1 AND d.asn_number = s.asn_number) IS NULL
    -- Inserts jobs in the order in which jobs_hold.sql locks jobs.
    ORDER BY s.asn_number::text COLLATE "C"
    ON CONFLICT (provider, lookup_key) DO NOTHING
)
SELECT max(s.asn_number), count(*) FROM seen s
