-- Returns the privileges that the current role lacks, of three lists: tables, their columns, and privileges. Tables that
-- do not exist are left out. A serial column also needs USAGE on its sequence, an identity column does not.
SELECT format('%s (%s) on table %s', needed.privilege, needed.attribute, needed.relation)
FROM unnest($1::text[], $2::text[], $3::text[]) AS needed (relation, attribute, privilege)
WHERE to_regclass(needed.relation) IS NOT NULL
  AND NOT has_column_privilege(to_regclass(needed.relation), needed.attribute, needed.privilege)
UNION ALL
SELECT format('USAGE on sequence %s', sequence)
FROM (SELECT DISTINCT relation FROM unnest($1::text[]) AS relation) AS needed
JOIN pg_catalog.pg_attribute AS attribute
    ON attribute.attrelid = to_regclass(needed.relation)
   AND attribute.attname = 'id'
   AND attribute.attidentity = ''
-- The argument is a column of the joined row, so it is a table that exists.
CROSS JOIN LATERAL pg_get_serial_sequence(attribute.attrelid::regclass::text, 'id') AS sequence
WHERE NOT has_sequence_privilege(sequence, 'USAGE')
