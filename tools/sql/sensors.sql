-- Cowrie keeps a sensor's name in the column ip; names are not unique there, the oldest row counts.
INSERT INTO sensors (ip)
SELECT staged.sensor
FROM loading_sessions AS staged
WHERE NOT EXISTS (SELECT FROM sensors WHERE sensors.ip = staged.sensor)
GROUP BY staged.sensor
ORDER BY min(staged.nth)
