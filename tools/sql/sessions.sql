-- Inserts each session complete with its address in one row, so that a trigger on the table sees the whole session.
WITH stored AS (
    INSERT INTO sessions (id, starttime, endtime, sensor, ip, termsize, client)
    SELECT
        staged.id,
        staged.starttime::timestamp,
        staged.endtime::timestamp,
        (SELECT min(sensors.id) FROM sensors WHERE sensors.ip = staged.sensor),
        staged.ip,
        staged.termsize,
        (SELECT min(clients.id) FROM clients WHERE clients.version = staged.client)
    FROM loading_sessions AS staged
    -- The key of the table can have more columns than the id, as in a partitioned table.
    WHERE NOT EXISTS (SELECT FROM sessions WHERE sessions.id = staged.id)
    ORDER BY staged.nth
    ON CONFLICT DO NOTHING
    RETURNING id
)
UPDATE loading_sessions AS staged
SET fresh = true
FROM stored
WHERE staged.id = stored.id
