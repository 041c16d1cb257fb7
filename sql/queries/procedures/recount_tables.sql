-- Returns the tables whose sessions are counted, with a row for each partition. Each row has the names of the address
-- column and the time column. Each row also has the name of the attached table for messages, the reason why the
-- attached table is not intact, and whether it can be read. Leaves out temporary tables, because only one database
-- session can read them. Takes no lock on any of the tables.
WITH RECURSIVE part (oid, ip_column, time_column, root, not_intact_reason, is_readable) AS (
    SELECT t.rel::oid, t.ip_column, t.time_column, t.rel::text, t.not_intact_reason, t.is_readable
    FROM @extschema@.attached_tables t WHERE t.ip_column <> ''
    UNION
    SELECT i.inhrelid, p.ip_column, p.time_column, p.root, p.not_intact_reason, p.is_readable
    FROM part p
    JOIN pg_inherits i ON i.inhparent = p.oid
    JOIN pg_class child ON child.oid = i.inhrelid AND child.relispartition
)
SELECT DISTINCT ON (c.oid, p.ip_column) c.oid, p.ip_column::text, p.time_column::text, p.root, p.not_intact_reason,
       p.is_readable
FROM part p
JOIN pg_class c ON c.oid = p.oid AND c.relkind IN ('r', 'f') AND c.relpersistence <> 't'
ORDER BY c.oid, p.ip_column, p.time_column
