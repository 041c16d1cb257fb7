-- Stores sessions that are new. Without a conflict target, ON CONFLICT needs no right to read the table.
INSERT INTO sessions (id, starttime, endtime, sensor, ip, termsize, client)
SELECT id, starttime::timestamp, endtime::timestamp, sensor, ip, termsize, client
FROM unnest(
    $1::text[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::text[], $6::text[], $7::integer[]
) AS batch (id, starttime, endtime, sensor, ip, termsize, client)
ON CONFLICT DO NOTHING
