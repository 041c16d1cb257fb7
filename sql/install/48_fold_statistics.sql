-- Adds pending counts to the inventories.

CREATE PROCEDURE fold_statistics()
    LANGUAGE c AS 'MODULE_PATHNAME', 'fold_statistics_wrapper';
COMMENT ON PROCEDURE fold_statistics() IS
    'add pending counts of sessions and addresses to the inventories; counts for rows that other transactions have locked stay pending; commits after each batch unless called in a transaction block';
