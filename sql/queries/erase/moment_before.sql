-- Returns the current time minus the interval. Returns no row if the interval is not positive.
-- $1 integer: months
-- $2 integer: days
-- $3 float8: seconds
SELECT t.before
FROM (SELECT now() - make_interval(months => $1, days => $2, secs => $3) AS before) t
WHERE t.before < now()
