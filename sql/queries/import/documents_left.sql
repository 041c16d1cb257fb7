-- Returns the number of addresses greater than $1.
-- $1 inet: last address that was read, or null at the start
SELECT count(*) FROM @extschema@.ip_inventory i WHERE i.ip_address > COALESCE($1, '0.0.0.0/0')
