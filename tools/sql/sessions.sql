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
    ORDER BY staged.nth
    ON CONFLICT (id) DO NOTHING
    RETURNING id
)
UPDATE loading_sessions AS staged
SET fresh = true
FROM stored
WHERE staged.id = stored.id
