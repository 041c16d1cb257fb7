-- Creates rows in ip_inventory for those of these addresses that have no row, in ascending order. The caller then locks
-- the rows. While a row is locked, folds skip the pending counts of the row's address.
-- $1 inet[]: addresses
INSERT INTO @extschema@.ip_inventory (ip_address)
SELECT u.ip FROM unnest($1) u(ip) ORDER BY u.ip
ON CONFLICT DO NOTHING
