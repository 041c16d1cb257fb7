-- How a process becomes this role: whether its code comes first, and whether the role may connect as itself. From
-- version 17 on, a role without LOGIN can do so.
-- $1 oid: owner
-- $2 oid: owner of the extension
SELECT r.rolname::text, r.rolsuper OR r.oid = $2,
       (r.rolcanlogin OR current_setting('server_version_num')::integer >= 170000)
       AND r.rolconnlimit < 0 AND d.datconnlimit < 0
       AND has_database_privilege(r.oid, d.oid, 'CONNECT'),
       EXISTS (SELECT FROM @extschema@.suspended_owner s WHERE s.owner = r.rolname)
FROM pg_roles r
JOIN pg_database d ON d.datname = current_database()
WHERE r.oid = $1
