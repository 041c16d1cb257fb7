-- Returns whether a role may attach a table that it owns.
-- $1 oid: OID of the role
SELECT bool_and(has_function_privilege($1, p.oid, 'EXECUTE'))
       AND has_table_privilege($1, '@extschema@.attached_tables'::regclass, 'SELECT')
FROM pg_proc p
WHERE p.oid IN (
    '@extschema@.attach_session_table(regclass, name, name, boolean, boolean, boolean)'::regprocedure,
    '@extschema@.detach_session_table(regclass)'::regprocedure,
    '@extschema@.enrich_session()'::regprocedure,
    '@extschema@.forget_sessions()'::regprocedure)
