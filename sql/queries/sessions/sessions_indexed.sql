-- Tests whether the predicate of an index is suitable for finding incomplete sessions. If the predicate is suitable,
-- returns whether the index also contains the sessions in which only snapshot_ip_type is null. Otherwise returns no
-- row. Locks the table. The predicates can be compared as text, because format() and pg_get_expr() put quotes around
-- the same names. Both functions follow the setting quote_all_identifiers.
-- $1 oid: OID of the index
SELECT waits.for_types
FROM pg_index i
JOIN (VALUES
        (format('((%I IS NULL) OR (%I IS NULL))', 'snapshot_asn', 'snapshot_country'), false),
        (format('((%I IS NULL) OR (%I IS NULL) OR (%I IS NULL))', 'snapshot_asn', 'snapshot_country', 'snapshot_ip_type'),
         true),
        (format('(%I IS NULL)', 'snapshot_asn'), false),
        ('', true)) waits(predicate, for_types)
    ON waits.predicate = COALESCE(pg_get_expr(i.indpred, i.indrelid), '')
WHERE i.indexrelid = $1
