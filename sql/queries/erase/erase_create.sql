-- Creates rows for addresses that have none, in order. While a row is locked, folds skip the pending counts of its
-- address.
-- $1 inet[]: addresses
INSERT INTO @extschema@.ip_inventory (ip_address)
SELECT u.ip FROM unnest($1) u(ip) ORDER BY u.ip
ON CONFLICT DO NOTHING
