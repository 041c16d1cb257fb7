-- Some rows of a table in the order of their key, from behind where the last ones ended. Runs as the table's owner, who need
-- not have rights on anything of ours.
-- $1 text: key
-- $2 oid: part
-- $3 tid: place
SELECT t.@key@::pg_catalog.text, t.tableoid, t.ctid, @columns@
FROM @table@ t
WHERE @behind@
ORDER BY @order@, t.tableoid, t.ctid
LIMIT @most@
