-- Returns true if an index contains sessions that lack only the type of the address. Returns false if it contains only
-- other waiting sessions, and null if it is not an index of waiting sessions. Locks the table. The predicates can be compared as
-- text: format() and pg_get_expr() put quotes around the same names, because both follow quote_all_identifiers.
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
