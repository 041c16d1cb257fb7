-- Deletes rows of network_reclassification that belong to these networks. Deletes only rows that all transactions can
-- see. Skips rows that another transaction is deleting.
-- $1 bigint[]: ASNs of the networks
-- $2 xid: oldest transaction whose changes may be invisible to a snapshot
DELETE FROM @extschema@.network_reclassification r
WHERE r.ctid = ANY (ARRAY(
    SELECT p.ctid
    FROM @extschema@.network_reclassification p
    WHERE p.asn_number = ANY ($1) AND age(p.xmin) > age($2)
    ORDER BY p.asn_number
    FOR UPDATE SKIP LOCKED))
