-- Says whether a second insert of a session violates a unique key. The key may have more columns than the id, as the
-- primary key of a partitioned table has, if the same session always has the same values in them.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_index AS key
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
)
