-- Removes answered addresses from the queue.
-- $1 text: provider
-- $2 inet[]: ip
DELETE FROM @extschema@.job_address a
WHERE a.provider = $1 AND a.ip_address = ANY ($2)
