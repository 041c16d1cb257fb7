-- Adds pending counts to the inventories.

CREATE PROCEDURE fold_statistics()
    LANGUAGE c AS 'MODULE_PATHNAME', 'fold_statistics_wrapper';
COMMENT ON PROCEDURE fold_statistics() IS
    'add pending counts of sessions and addresses to ip_inventory and asn_inventory; counts for rows that other transactions have locked stay pending; outside a transaction block, commits after each batch';
