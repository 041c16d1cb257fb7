-- The time that was this long ago, if the interval is positive.
-- $1 integer: months
-- $2 integer: days
-- $3 float8: seconds
SELECT t.before
FROM (SELECT now() - make_interval(months => $1, days => $2, secs => $3) AS before) t
WHERE t.before < now()
