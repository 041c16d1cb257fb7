-- Addresses that wait for these providers.
-- $1 text[]: provider
SELECT DISTINCT a.ip_address FROM @extschema@.job_address a WHERE a.provider = ANY ($1)
