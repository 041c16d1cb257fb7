-- If the sum of an address's pending session counts is zero or negative, deletes these counts. The given addresses have no row in
-- ip_inventory, so their sessions were never counted. The sum includes all pending counts of the address, not only the counts in
-- the current batch.
-- $1 inet[]: addresses
WITH summed AS MATERIALIZED (
    SELECT d.ip_address
    FROM @extschema@.session_delta d
    WHERE d.ip_address = ANY ($1)
    GROUP BY d.ip_address
    HAVING sum(d.sessions) <= 0
)
DELETE FROM @extschema@.session_delta d
USING summed s
WHERE d.ip_address = s.ip_address
RETURNING d.ip_address
