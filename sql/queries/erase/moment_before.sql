-- Returns the current time minus the interval. Returns no row if the interval is not positive.
-- $1 integer: months of the interval
-- $2 integer: days of the interval
-- $3 float8: seconds of the interval
SELECT t.before
FROM (SELECT now() - make_interval(months => $1, days => $2, secs => $3) AS before) t
WHERE t.before < now()
