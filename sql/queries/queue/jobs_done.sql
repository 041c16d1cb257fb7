-- Removes answered addresses from the queue.
-- $1 text: name of the provider
-- $2 inet[]: addresses
DELETE FROM @extschema@.job_address a
WHERE a.provider = $1 AND a.ip_address = ANY ($2)
