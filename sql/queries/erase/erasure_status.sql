-- Returns the state of erasures: the number of failed calls, the time when the last complete expiry ended, and whether
-- pg_cron runs the expiry of addresses.
SELECT s.failed_calls, s.last_expiry, s.is_scheduled
FROM @extschema@.erasure_status() s
