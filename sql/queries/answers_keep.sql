-- $1 covers cidr[], $2 asn bigint[], $3 country text[], $4 registry text[], $5 document jsonb[], $6 asked at timestamptz
INSERT INTO @extschema@.cymru_answer (covers, asn_number, network_country, rir_registry, document, asked_at)
SELECT g.covers, g.asn, g.country, g.registry, g.document, $6
FROM unnest($1, $2, $3, $4, $5) AS g(covers, asn, country, registry, document)
ORDER BY g.covers
ON CONFLICT (covers) DO UPDATE
SET asn_number = excluded.asn_number, network_country = excluded.network_country,
    rir_registry = excluded.rir_registry, document = excluded.document, asked_at = excluded.asked_at
