-- The results of the offline lookups for an address. Nothing is written.
SELECT address, ip_country(address), ip_city(address), ip_asn(address), ip_asn_org(address)
FROM unnest('{8.8.8.8, 1.1.1.1, 45.0.0.1, 46.0.0.1, 47.0.0.1, 48.0.0.1, 10.0.0.1,
              2001:4860:4860::8888, ::ffff:8.8.8.8}'::inet[]) AS address;

-- The whole object, without the time of the lookup.
SELECT jsonb_pretty(maxmind_lookup('8.8.8.8') - 'cached_at') AS maxmind;

SELECT count(*) AS written FROM ip_inventory;
