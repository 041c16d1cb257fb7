-- Returns the addresses that wait for answers of these providers.
-- $1 text[]: names of the providers
SELECT DISTINCT a.ip_address FROM @extschema@.job_address a WHERE a.provider = ANY ($1)
