-- Handles jobs that got no answer. A job is retried after a pause that doubles with each attempt. After the last
-- attempt, the lookup becomes a dead letter instead. $4 says for each job whether the failure uses up an attempt:
-- - true: the failure uses up an attempt.
-- - false: the failure uses up an attempt only if the provider has answered another lookup since the previous failure
--   of the job. If there was no such answer, the provider may have been down.
-- - null: the failure uses up no attempt, because the provider refused all requests or received none.
-- $1 text: name of the provider
-- $2 text[]: lookup keys of the jobs
-- $3 text[]: error of each job
-- $4 boolean[]: true, false or null for each job, as described above
-- $5 float8: pause after the first failed attempt, in seconds
-- $6 integer: value of the setting max_attempts
-- $7 timestamptz: time when the provider last answered any lookup
-- $8 float8: random number between 0 and 1
WITH failed AS (
    SELECT j.lookup_kind, j.lookup_key, j.priority, j.requested_at, g.error, j.attempts + c.counts::integer AS attempts,
           c.counts AND j.attempts + 1 >= $6 AS is_dead,
           CASE WHEN g.counts IS NULL THEN j.failed_at ELSE now() END AS failed_at
    FROM unnest($2, $3, $4) AS g(lookup_key, error, counts)
    JOIN @extschema@.enrichment_job j ON j.provider = $1 AND j.lookup_key = g.lookup_key
    CROSS JOIN LATERAL (
        SELECT g.counts IS NOT NULL AND (g.counts OR COALESCE(j.failed_at < $7, false)) AS counts) c
), retried AS (
    UPDATE @extschema@.enrichment_job j
    SET attempts = f.attempts, failed_at = f.failed_at, last_error = f.error, leased_by = NULL,
        due_at = now() + make_interval(
            secs => LEAST($5 * 2 ^ LEAST(GREATEST(f.attempts - 1, 0), 20), 3600) * (0.75 + 0.5 * $8))
    FROM failed f
    WHERE j.provider = $1 AND j.lookup_key = f.lookup_key AND NOT f.is_dead
), dead AS (
    DELETE FROM @extschema@.job_address a
    USING failed f
    WHERE a.provider = $1 AND a.lookup_key = f.lookup_key AND f.is_dead
    RETURNING a.ip_address, f.lookup_kind, f.lookup_key, f.priority, f.attempts, f.error, f.requested_at
), moved AS (
    DELETE FROM @extschema@.enrichment_job j
    USING failed f
    WHERE j.provider = $1 AND j.lookup_key = f.lookup_key AND f.is_dead
), dead_letters AS (
    INSERT INTO @extschema@.dead_letter (
        provider, ip_address, lookup_kind, lookup_key, priority, attempts, last_error, requested_at)
    SELECT $1, d.ip_address, d.lookup_kind, d.lookup_key, d.priority, d.attempts, d.error, d.requested_at
    FROM dead d
    ORDER BY d.ip_address
    ON CONFLICT (provider, ip_address) DO UPDATE
    SET lookup_kind = excluded.lookup_kind, lookup_key = excluded.lookup_key,
        attempts = excluded.attempts, last_error = excluded.last_error, died_at = now()
), dead_networks AS (
    INSERT INTO @extschema@.dead_letter (
        provider, asn_number, lookup_kind, lookup_key, priority, attempts, last_error, requested_at)
    SELECT $1, f.lookup_key::bigint, f.lookup_kind, f.lookup_key, f.priority, f.attempts, f.error, f.requested_at
    FROM failed f
    WHERE f.is_dead AND f.lookup_kind = 'asn'
    ORDER BY f.lookup_key::bigint
    ON CONFLICT (provider, asn_number) DO UPDATE
    SET attempts = excluded.attempts, last_error = excluded.last_error, died_at = now()
)
SELECT d.ip_address, NULL AS asn_number, d.error FROM dead d
UNION ALL
SELECT NULL, f.lookup_key::bigint, f.error FROM failed f WHERE f.is_dead AND f.lookup_kind = 'asn'
ORDER BY ip_address, asn_number
