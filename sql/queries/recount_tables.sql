-- Session tables whose sessions count, partitions each for themselves, and where in them addresses and times are.
-- Temporary tables belong to the session that made them. Takes no lock on any of the tables.
WITH RECURSIVE part (oid, ip_column, time_column) AS (
    SELECT t.rel::oid, t.ip_column, t.time_column FROM @extschema@.attached_tables t WHERE t.ip_column <> ''
    UNION
    SELECT i.inhrelid, p.ip_column, p.time_column
    FROM part p
    JOIN pg_inherits i ON i.inhparent = p.oid
    JOIN pg_class child ON child.oid = i.inhrelid AND child.relispartition
)
SELECT DISTINCT ON (c.oid, p.ip_column) c.oid::bigint, p.ip_column::text, p.time_column::text
FROM part p
JOIN pg_class c ON c.oid = p.oid AND c.relkind = 'r' AND c.relpersistence <> 't'
ORDER BY c.oid, p.ip_column, p.time_column
