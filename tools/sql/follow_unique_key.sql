-- Says whether a second insert of a session violates a unique key. The key may have more columns than the id, as the
-- primary key of a partitioned table has, if the same session always has the same values in them.
-- Also says whether a key has the id alone. Only such a key stops a part of a session that has another start.
SELECT count(*) > 0 AS is_there, coalesce(bool_or(key.indnkeyatts = 1), false) AS is_id_alone
FROM pg_catalog.pg_index AS key
WHERE key.indrelid = 'sessions'::regclass
  AND key.indisunique
  AND key.indisvalid
  AND key.indimmediate
  AND key.indpred IS NULL
  AND (
      SELECT bool_and(coalesce(attribute.attname IN ('id', 'starttime', 'sensor', 'ip'), false))
          AND bool_or(coalesce(attribute.attname = 'id', false))
      FROM unnest(key.indkey::int2[]) WITH ORDINALITY AS part (number, nth)
      LEFT JOIN pg_catalog.pg_attribute AS attribute
          ON attribute.attrelid = key.indrelid AND attribute.attnum = part.number
      WHERE part.nth <= key.indnkeyatts
  )
