-- Number of addresses after $1.
-- $1 inet: the last address that was read, or null
SELECT count(*) FROM @extschema@.ip_inventory i WHERE i.ip_address > COALESCE($1, '0.0.0.0/0')
