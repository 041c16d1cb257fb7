-- Drops the pending session counts of addresses without a row whose sum is not above zero, because their sessions
-- were never counted. The sum is that of all pending counts, because a batch may have only some of them.
-- $1 inet[]: ip
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
