-- Returns the session tables to which a priority rule applies. Each partition of such a table has its own row. An
-- attached inheritance child also has a row, unless a separate rule was set for this child. Also returns the owner of
-- the table or partition, and whether this owner set the rule. The names of tables are for messages. Takes no lock on
-- any of the tables.
-- $1 oid: OID of the role that owns the extension
WITH RECURSIVE part (root, oid) AS (
    SELECT r.rel::oid, r.rel::oid FROM @extschema@.session_priority r
    UNION
    SELECT p.root, i.inhrelid
    FROM part p
    JOIN pg_inherits i ON i.inhparent = p.oid
    JOIN pg_class child ON child.oid = i.inhrelid
    WHERE child.relispartition
       OR (EXISTS (SELECT FROM @extschema@.attached_tables a WHERE a.rel = child.oid)
           AND NOT EXISTS (SELECT FROM @extschema@.session_priority own WHERE own.rel = child.oid))
)
SELECT c.oid, c.oid::regclass::text, quote_ident(t.ip_column), r.expression, r.search_path,
       a.atttypid = 'inet'::regtype, c.relowner = root.relowner AND pg_get_userbyid(root.relowner) = r.set_by,
       c.relowner, o.rolsuper OR o.oid = $1,
       EXISTS (SELECT FROM @extschema@.suspended_owner s WHERE s.owner = o.rolname)
FROM part p
JOIN @extschema@.session_priority r ON r.rel = p.root
JOIN @extschema@.attached_tables t ON t.rel = r.rel
JOIN pg_class root ON root.oid = r.rel
JOIN pg_class c ON c.oid = p.oid AND c.relkind = 'r' AND c.relpersistence <> 't'
JOIN pg_roles o ON o.oid = c.relowner
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = t.ip_column AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY 1
