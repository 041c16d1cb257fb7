-- Stores answers of a provider about blocks of addresses. Replaces earlier answers about the same blocks.
-- $1 text: name of the provider
-- $2 cidr[]: prefix of each answer
-- $3 bigint[]: ASN of the network in each answer
-- $4 text[]: name of the network in each answer
-- $5 text[]: country in each answer
-- $6 text[]: registry in each answer
-- $7 jsonb[]: document of each answer
-- $8 boolean[]: true for each negative answer
-- $9 timestamptz: time of the request
INSERT INTO @extschema@.block_answer (
    provider, prefix, asn_number, network_name, network_country, rir_registry, document, is_absent, asked_at)
SELECT $1, g.prefix, g.asn, g.name, g.country, g.registry, g.document, g.is_absent, $9
FROM unnest($2, $3, $4, $5, $6, $7, $8) AS g(prefix, asn, name, country, registry, document, is_absent)
ORDER BY g.prefix
ON CONFLICT (provider, prefix) DO UPDATE
SET asn_number = excluded.asn_number, network_name = excluded.network_name, network_country = excluded.network_country,
    rir_registry = excluded.rir_registry, document = excluded.document, is_absent = excluded.is_absent,
    asked_at = excluded.asked_at
