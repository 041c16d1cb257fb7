-- Cowrie stores a sensor's name in the column ip. Names are not unique there, so the oldest row is used.
INSERT INTO sensors (ip)
SELECT staged.sensor
FROM loading_sessions AS staged
WHERE NOT EXISTS (SELECT FROM sensors WHERE sensors.ip = staged.sensor)
GROUP BY staged.sensor
ORDER BY min(staged.nth)
