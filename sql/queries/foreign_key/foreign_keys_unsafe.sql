-- Returns the number of foreign keys whose checks can run code with the rights of the extension's owner. Also returns
-- the name of one such foreign key.
SELECT count(*) OVER (), format('%I of %s', k.constraint_name, k.rel)
FROM @extschema@.unsafe_foreign_keys k
ORDER BY k.rel, k.constraint_name
LIMIT 1
