-- $1 provider text, $2 prefix cidr[], $3 asn bigint[], $4 name text[], $5 country text[], $6 registry text[],
-- $7 document jsonb[], $8 is absent boolean[], $9 asked at timestamptz
INSERT INTO @extschema@.block_answer (
    provider, prefix, asn_number, network_name, network_country, rir_registry, document, is_absent, asked_at)
SELECT $1, g.prefix, g.asn, g.name, g.country, g.registry, g.document, g.is_absent, $9
FROM unnest($2, $3, $4, $5, $6, $7, $8) AS g(prefix, asn, name, country, registry, document, is_absent)
ORDER BY g.prefix
ON CONFLICT (provider, prefix) DO UPDATE
SET asn_number = excluded.asn_number, network_name = excluded.network_name, network_country = excluded.network_country,
    rir_registry = excluded.rir_registry, document = excluded.document, is_absent = excluded.is_absent,
    asked_at = excluded.asked_at
