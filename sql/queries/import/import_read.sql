-- Reads the next rows of a table after the last row that was read, in the order of a key of the table. Runs as the
-- table's owner, who may have no rights on the extension's objects.
-- $1 text: key of the last row that was read
-- $2 oid: OID of the table or partition of that row
-- $3 tid: tuple id of that row
SELECT t.@key@::pg_catalog.text, t.tableoid, t.ctid, @columns@
FROM @table@ t
WHERE @behind@
ORDER BY @order@, t.tableoid, t.ctid
LIMIT @most@
