-- Addresses that have their answer leave the queue.
-- $1 provider text, $2 ip inet[]
DELETE FROM @extschema@.job_address a
WHERE a.provider = $1 AND a.ip_address = ANY ($2)
