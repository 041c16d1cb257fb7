-- Returns the tables that contain the sessions of an attached table. Each row has the names of the address column, the
-- time column and the column of the primary key. Each row also says whether this table has the same owner as the
-- attached table. Each partition has a row, whoever owns it. An attached inheritance child has a row only if its owner
-- is the owner of the attached table. The names of tables are for messages. Takes no lock on these tables.
-- $1 oid: OID of the table
WITH RECURSIVE part (oid) AS (
    SELECT $1
    UNION
    SELECT i.inhrelid
    FROM part p
    JOIN pg_inherits i ON i.inhparent = p.oid
    JOIN pg_class child ON child.oid = i.inhrelid
    WHERE child.relispartition
       OR (child.relowner = (SELECT root.relowner FROM pg_class root WHERE root.oid = $1)
           AND EXISTS (SELECT FROM @extschema@.attached_tables a WHERE a.rel = child.oid))
), attached AS (
    SELECT t.ip_column, t.time_column
    FROM @extschema@.attached_tables t
    WHERE t.rel = $1 AND t.ip_column <> ''
    ORDER BY t.ip_column, t.time_column
    LIMIT 1
)
SELECT c.oid, c.oid::regclass::text, a.ip_column::text, a.time_column::text,
       (SELECT key.attname::text
        FROM pg_index i
        JOIN pg_attribute key ON key.attrelid = i.indrelid AND key.attnum = i.indkey[0]
        WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1),
       c.relowner = root.relowner
FROM part p
JOIN pg_class c ON c.oid = p.oid AND c.relkind = 'r' AND c.relpersistence <> 't'
JOIN pg_class root ON root.oid = $1
CROSS JOIN attached a
ORDER BY c.oid
