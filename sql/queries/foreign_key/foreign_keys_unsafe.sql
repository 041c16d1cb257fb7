-- Number of foreign keys that can run code as the extension's owner, and the name of one such key.
SELECT count(*) OVER (), format('%I of %s', k.constraint_name, k.rel)
FROM @extschema@.unsafe_foreign_keys k
ORDER BY k.rel, k.constraint_name
LIMIT 1
