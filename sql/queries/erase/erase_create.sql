-- If an address has no row in ip_inventory, creates the row. Creates the rows in ascending order of their addresses.
-- The caller then locks the rows. While a row is locked, folds skip the pending counts of the row's address.
-- $1 inet[]: addresses
INSERT INTO @extschema@.ip_inventory (ip_address)
SELECT u.ip FROM unnest($1) u(ip) ORDER BY u.ip
ON CONFLICT DO NOTHING
