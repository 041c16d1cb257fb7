-- Tables in which the worker does not fill null snapshot columns, and the reason for each table.

-- PostgreSQL does not record who created a trigger. So the owners of the code that a trigger runs are treated as the
-- creators of the trigger.
--
-- The WHEN condition of a trigger is also code. Each function in a condition must be immutable or known to be harmless.
-- Other functions of the server can do harm. For example, the volatile function query_to_xml() runs any statement, and
-- the stable function table_to_xml() reads any view. The conditions of inherited triggers on partitions have no entries
-- in pg_depend, so the functions are read from the text of the condition.
CREATE VIEW blocked_session_tables AS
SELECT t.tgrelid::pg_catalog.regclass AS rel, t.tgname AS trigger_name,
       CASE WHEN code.is_unsafe
            THEN pg_catalog.format('the condition of trigger %I on %s calls %s, which is not immutable',
                                   t.tgname, t.tgrelid::pg_catalog.regclass, code.name)
            ELSE pg_catalog.format('trigger %I on %s runs code of role %I: %s',
                                   t.tgname, t.tgrelid::pg_catalog.regclass, pg_catalog.pg_get_userbyid(code.owner), code.name)
       END AS reason
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
CROSS JOIN LATERAL (
    SELECT p.oid::pg_catalog.regprocedure::text AS name, p.proowner AS owner, false AS is_unsafe
    FROM pg_catalog.pg_proc p
    WHERE p.oid OPERATOR(pg_catalog.=) t.tgfoid
    UNION ALL
    SELECT p.oid::pg_catalog.regprocedure::text, p.proowner,
           p.provolatile OPERATOR(pg_catalog.<>) 'i'
           AND (p.pronamespace OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid
                   AND (p.proowner OPERATOR(pg_catalog.<>) c.relowner
                        OR EXISTS (SELECT FROM pg_catalog.pg_roles r
                                   WHERE r.oid OPERATOR(pg_catalog.=) p.proowner AND r.rolsuper))
                OR p.provolatile OPERATOR(pg_catalog.=) 'v'
                   AND p.proname OPERATOR(pg_catalog.<>) ALL ('{pg_trigger_depth,clock_timestamp,random}'::name[])
                OR p.proname OPERATOR(pg_catalog.~) '(xml|^pg_input_)'
                -- An input function such as domain_in() or record_in() gets the OID of a type, and runs the CHECK
                -- constraints of this type.
                OR p.provolatile OPERATOR(pg_catalog.<>) 'i'
                   AND 'pg_catalog.cstring'::pg_catalog.regtype::pg_catalog.oid OPERATOR(pg_catalog.=) ANY (p.proargtypes::pg_catalog.oid[]))
    FROM pg_catalog.regexp_matches(t.tgqual::text, ':(?:opfuncid|funcid) ([0-9]+)', 'g') m(parts)
    JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) m.parts[1]::pg_catalog.oid
    UNION ALL
    SELECT pg_catalog.format_type(y.oid, NULL), y.typowner, false
    FROM pg_catalog.regexp_matches(t.tgqual::text, ':(?:resulttype|consttype|typid|row_typeid|minmaxtype) ([0-9]+)', 'g') m(parts)
    JOIN pg_catalog.pg_type y ON y.oid OPERATOR(pg_catalog.=) m.parts[1]::pg_catalog.oid
    ) code
WHERE t.tgenabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::"char"[])
  AND t.tgtype::integer OPERATOR(pg_catalog.&) 16 OPERATOR(pg_catalog.<>) 0
  AND (code.is_unsafe
       OR code.owner OPERATOR(pg_catalog.<>) c.relowner
          AND NOT EXISTS (
              SELECT FROM pg_catalog.pg_proc ours
              WHERE ours.oid OPERATOR(pg_catalog.=) '@extschema@.enrich_session()'::pg_catalog.regprocedure::pg_catalog.oid
                AND ours.proowner OPERATOR(pg_catalog.=) code.owner)
          AND NOT EXISTS (
              SELECT FROM pg_catalog.pg_roles r
              WHERE r.oid OPERATOR(pg_catalog.=) code.owner AND r.rolsuper))
  AND NOT EXISTS (
      WITH RECURSIVE above (oid) AS (
          SELECT c.oid
          UNION
          SELECT i.inhparent
          FROM above a
          JOIN pg_catalog.pg_inherits i ON i.inhrelid OPERATOR(pg_catalog.=) a.oid
      )
      SELECT
      FROM above a
      JOIN pg_catalog.pg_class p ON p.oid OPERATOR(pg_catalog.=) a.oid
      JOIN @extschema@.session_table_option o ON o.rel::pg_catalog.oid OPERATOR(pg_catalog.=) a.oid
      WHERE o.run_triggers
        AND p.relowner OPERATOR(pg_catalog.=) c.relowner
        AND pg_catalog.pg_get_userbyid(p.relowner) OPERATOR(pg_catalog.=) o.table_owner);
COMMENT ON VIEW blocked_session_tables IS
    'triggers for UPDATE with code of a role that is neither the table owner, nor the extension''s owner, nor a superuser. The extension does not fill null snapshot columns of a table that has such a trigger, because its UPDATE would run this code. Triggers that the option run_triggers allows are not listed';
