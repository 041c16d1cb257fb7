-- If the value of the key "import" in a network's document mentions one of these addresses, removes this key from the
-- document.
-- $1 inet[]: addresses
WITH locked AS MATERIALIZED (
    SELECT n.asn_number
    FROM @extschema@.asn_inventory n
    WHERE n.enrichment ? 'import' AND @extschema@.mentions_address(n.enrichment ->> 'import', $1)
    ORDER BY n.asn_number
    FOR NO KEY UPDATE
)
UPDATE @extschema@.asn_inventory n
SET enrichment = n.enrichment - 'import', updated_at = now()
FROM locked l
WHERE n.asn_number = l.asn_number
