-- The registry that received an ASN from IANA, and whether an ASN is a bogon.
SELECT asn, asn_registry(asn), is_bogon_asn(asn)
FROM unnest('{0, 1, 112, 3320, 15169, 23455, 23456, 23457, 28573, 36864, 64495, 64496, 65535, 65551, 65552, 131071, 131072,
              155962, 262143, 262144, 404380, 404381, 4199999999, 4200000000, 4294967295}'::bigint[]) AS asn;
SELECT asn_registry(NULL), is_bogon_asn(NULL);

-- Out of range.
SELECT asn_registry(-1);
SELECT asn_registry(4294967296);
SELECT is_bogon_asn(-1);
SELECT is_bogon_asn(9223372036854775807);

-- A new network has the registry at once.
SELECT asn_number, rir_registry, enrichment -> 'provenance' AS provenance FROM ensure_asn_inventory(28573);
