-- Records that lookups of these addresses were cancelled, by an entry in the document of each address. The caller has
-- locked the rows of the addresses. Writes the entry only if a sweep would otherwise queue the lookup again.
-- src/document/skipped.rs describes the format of the entry.
-- $1 inet[]: addresses
-- $2 text: name of the provider
-- $3 boolean: true if the provider is asked only about addresses without a known network
-- $4 text: time when the lookup was cancelled, as text
WITH pending AS (
    SELECT d.ip_address, sum(d.sessions)::bigint AS sessions
    FROM @extschema@.session_delta d
    WHERE d.ip_address = ANY ($1)
    GROUP BY d.ip_address
), skipped AS (
    SELECT g.ip, jsonb_build_object('_meta', jsonb_build_object($2, jsonb_build_object(
               'state', 'skipped', 'skipped_at', $4,
               'sessions', i.session_count + COALESCE(p.sessions, 0)))) AS document
    FROM unnest($1) AS g(ip)
    JOIN @extschema@.ip_inventory i ON i.ip_address = g.ip
    LEFT JOIN pending p ON p.ip_address = g.ip
    WHERE @extschema@.is_source_open(i.enrichment, $2, $3)
)
UPDATE @extschema@.ip_inventory i
SET enrichment = @extschema@.merge_enrichment(i.enrichment, s.document), updated_at = now()
FROM skipped s
WHERE i.ip_address = s.ip
