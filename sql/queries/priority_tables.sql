-- Session tables with a rule of which sessions matter; partitions each for themselves. Names are written as SQL wants them.
SELECT c.oid::bigint, c.oid::regclass::text, quote_ident(t.ip_column), r.expression, r.search_path,
       a.atttypid = 'inet'::regtype, pg_relation_size(c.oid) / current_setting('block_size')::bigint,
       c.relowner = root.relowner AND pg_get_userbyid(root.relowner) = r.set_by
FROM @extschema@.session_priority r
JOIN @extschema@.attached_tables t ON t.rel = r.rel
JOIN pg_class root ON root.oid = r.rel
CROSS JOIN LATERAL (
    SELECT t.rel::oid AS part UNION SELECT p.relid FROM pg_partition_tree(t.rel) p) p
JOIN pg_class c ON c.oid = p.part AND c.relkind = 'r' AND c.relpersistence <> 't'
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = t.ip_column AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY 1
