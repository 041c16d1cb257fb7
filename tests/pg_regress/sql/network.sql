-- A network is created once; metadata is filled, and never replaced by null.
SELECT asn_number, organization_name, organization_country, rir_registry, asn_type
FROM ensure_asn_inventory(64500, 'Example University');
SELECT asn_number, organization_name, organization_country, rir_registry, asn_type
FROM ensure_asn_inventory(64500, NULL, 'DE', 'ripencc');
SELECT asn_number, organization_name, organization_country, rir_registry, asn_type
FROM ensure_asn_inventory(4294967295);

-- Out of range.
SELECT ensure_asn_inventory(0);
SELECT ensure_asn_inventory(4294967296);

-- Known networks first, then whole words.
SELECT asn, name, classify_asn(asn, name)
FROM (VALUES (16509, NULL), (13335, 'anything'), (64500, 'Example Hosting'), (64500, 'Cloudy Telecom'),
             (64500, 'Hispanic ISP'), (64500, 'University of Example'), (64500, 'Ministry of Silly Walks'),
             (64500, NULL)) AS n (asn, name);
