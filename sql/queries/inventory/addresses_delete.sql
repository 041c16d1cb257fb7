-- Deletes addresses and returns their number.
-- $1 inet[]: addresses
WITH deleted AS (
    DELETE FROM @extschema@.ip_inventory i
    WHERE i.ip_address = ANY ($1)
    RETURNING i.ip_address)
SELECT count(*) FROM deleted
