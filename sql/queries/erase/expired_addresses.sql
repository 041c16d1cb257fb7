-- Returns expired addresses that are greater than $2, in ascending order. An address in ip_inventory has expired if it
-- had no session since $1. An address that is not in ip_inventory has expired if a row of the history, of the dead
-- letters or of the blocklist exceptions is older than $1. If an exception was added since $1, its address is left out.
-- $1 timestamptz: addresses with a session at or after this time are left out
-- $2 inet: last address of the previous batch, or null for the first batch
-- $3 bigint: maximum number of addresses to return
-- $4 boolean: true if the caller acts for the owner of one session table. This owner may not delete rows that other roles wrote, such as exceptions, so the result has only addresses in ip_inventory without an exception
SELECT e.ip_address
FROM (
    SELECT i.ip_address
    FROM @extschema@.ip_inventory i
    WHERE i.session_count <= 0
      AND COALESCE(@extschema@.session_time(i.last_seen), i.created_at) < $1
      AND ($2 IS NULL OR i.ip_address > $2)
    UNION
    SELECT h.ip_address
    FROM @extschema@.ip_asn_history h
    WHERE NOT $4 AND h.observed_at < $1 AND ($2 IS NULL OR h.ip_address > $2)
      AND NOT EXISTS (SELECT FROM @extschema@.ip_inventory i WHERE i.ip_address = h.ip_address)
    UNION
    SELECT d.ip_address
    FROM @extschema@.dead_letter d
    WHERE NOT $4 AND d.died_at < $1 AND ($2 IS NULL OR d.ip_address > $2)
      AND NOT EXISTS (SELECT FROM @extschema@.ip_inventory i WHERE i.ip_address = d.ip_address)
    UNION
    SELECT x.prefix::inet
    FROM @extschema@.blocklist_exception x
    WHERE NOT $4 AND x.added_at < $1 AND masklen(x.prefix) = CASE family(x.prefix) WHEN 4 THEN 32 ELSE 128 END
      AND ($2 IS NULL OR x.prefix::inet > $2)
      AND NOT EXISTS (SELECT FROM @extschema@.ip_inventory i WHERE i.ip_address = x.prefix::inet)) e
WHERE NOT EXISTS (
    SELECT FROM @extschema@.blocklist_exception x WHERE x.prefix = e.ip_address::cidr AND (x.added_at >= $1 OR $4))
ORDER BY e.ip_address
LIMIT $3
