-- Whether an index has the sessions that wait, and those among them that wait for a type alone. Locks the table.
-- $1 index oid
SELECT waits.for_types
FROM pg_index i
JOIN (VALUES
        ('((snapshot_asn IS NULL) OR (snapshot_country IS NULL))', false),
        ('((snapshot_asn IS NULL) OR (snapshot_country IS NULL) OR (snapshot_ip_type IS NULL))', true),
        ('(snapshot_asn IS NULL)', false),
        ('', true)) waits(predicate, for_types)
    ON waits.predicate = COALESCE(pg_get_expr(i.indpred, i.indrelid), '')
WHERE i.indexrelid = $1
