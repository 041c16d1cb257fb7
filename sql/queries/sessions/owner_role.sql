-- Returns the name of a role. Also returns whether the role is a superuser or the extension's owner, whether a process
-- may connect as the role, and whether the role is suspended. Since PostgreSQL 17, a background process can connect as
-- a role without LOGIN.
-- $1 oid: OID of the role
-- $2 oid: OID of the role that owns the extension
SELECT r.rolname::text, r.rolsuper OR r.oid = $2,
       (r.rolcanlogin OR current_setting('server_version_num')::integer >= 170000)
       AND r.rolconnlimit < 0 AND d.datconnlimit < 0
       AND has_database_privilege(r.oid, d.oid, 'CONNECT'),
       EXISTS (SELECT FROM @extschema@.suspended_owner s WHERE s.owner = r.rolname)
FROM pg_roles r
JOIN pg_database d ON d.datname = current_database()
WHERE r.oid = $1
