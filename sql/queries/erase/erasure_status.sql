-- State of the erasures: failed calls, end of the last complete expiry, and whether pg_cron expires addresses.
SELECT s.failed_calls, s.last_expiry, s.is_scheduled
FROM @extschema@.erasure_status() s
