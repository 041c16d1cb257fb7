-- Compares the number of sessions of each address with the sum of the address's stored and pending counts. Appends each
-- difference as a pending count. A fold at the same time does not change this sum. If an address has no row in
-- ip_inventory, a negative sum counts as 0, because a fold deletes such pending counts. An implausible stored time is
-- also a difference, and the next fold replaces this time. Returns the number of addresses with sessions, and the
-- number of differences.
-- $1 boolean: true if some sessions could not be read. Then no count is reduced, because these sessions may have any address.
WITH counted AS (
    SELECT c.ip_address, sum(c.sessions)::bigint AS sessions, min(c.first_seen) AS first_seen, max(c.last_seen) AS last_seen
    FROM pg_temp.cowrie_enrich_counted c
    GROUP BY c.ip_address
), pending AS (
    SELECT d.ip_address, sum(d.sessions)::bigint AS sessions,
           min(@extschema@.session_time(d.first_seen)) AS first_seen, max(@extschema@.session_time(d.last_seen)) AS last_seen
    FROM @extschema@.session_delta d
    GROUP BY d.ip_address
), believed AS (
    SELECT COALESCE(i.ip_address, p.ip_address) AS ip_address,
           CASE WHEN i.ip_address IS NULL THEN GREATEST(p.sessions, 0)
                ELSE i.session_count + COALESCE(p.sessions, 0) END AS sessions,
           LEAST(@extschema@.session_time(i.first_seen), p.first_seen) AS first_seen,
           GREATEST(@extschema@.session_time(i.last_seen), p.last_seen) AS last_seen,
           i.first_seen IS DISTINCT FROM @extschema@.session_time(i.first_seen)
               OR i.last_seen IS DISTINCT FROM @extschema@.session_time(i.last_seen) AS has_false_times
    FROM @extschema@.ip_inventory i
    FULL JOIN pending p ON p.ip_address = i.ip_address
), compared AS (
    SELECT COALESCE(c.ip_address, b.ip_address) AS ip_address,
           GREATEST(COALESCE(c.sessions, 0) - COALESCE(b.sessions, 0), CASE WHEN $1 THEN 0 END) AS sessions,
           c.first_seen, c.last_seen, b.first_seen AS believed_first, b.last_seen AS believed_last, b.has_false_times
    FROM counted c
    FULL JOIN believed b ON b.ip_address = c.ip_address
), differing AS (
    SELECT d.ip_address, d.sessions, d.first_seen, d.last_seen
    FROM compared d
    WHERE d.sessions <> 0
       OR d.believed_first IS DISTINCT FROM LEAST(d.believed_first, d.first_seen)
       OR d.believed_last IS DISTINCT FROM GREATEST(d.believed_last, d.last_seen)
       OR d.has_false_times
), corrected AS (
    INSERT INTO @extschema@.session_delta (ip_address, sessions, first_seen, last_seen)
    SELECT d.ip_address, d.sessions, d.first_seen, d.last_seen
    FROM differing d
    RETURNING 1
)
SELECT (SELECT count(*) FROM counted), (SELECT count(*) FROM corrected)
