-- A connection with the same id and another start time or address is another session. Cowrie's table has no room for
-- it. Cowrie's own output loses it in the same way.
SELECT
    count(*) FILTER (WHERE staged.fresh) AS stored,
    count(*) FILTER (WHERE staged.fresh AND NOT staged.connected) AS without_connect,
    count(*) FILTER (WHERE staged.fresh AND staged.endtime IS NULL) AS without_end,
    count(*) FILTER (WHERE NOT staged.fresh) AS known,
    count(*) FILTER (
        WHERE NOT staged.fresh
          AND staged.connected
          AND (sessions.starttime, sessions.ip) IS DISTINCT FROM (staged.starttime::timestamp, staged.ip)
    ) AS other_of_same_id
FROM loading_sessions AS staged
JOIN sessions ON sessions.id = staged.id
