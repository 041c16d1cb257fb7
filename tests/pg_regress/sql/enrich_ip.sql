-- The cascade for one address: a known one, one without a network, a bogon.
SELECT ip_address, current_asn, geo_country, is_bogon, session_count FROM enrich_ip('8.8.8.8');
SELECT ip_address, current_asn, geo_country, is_bogon, session_count FROM enrich_ip('46.0.0.1');
SELECT ip_address, current_asn, geo_country, is_bogon, session_count FROM enrich_ip('10.0.0.1');

-- A network is refused, and nothing is written for it.
SELECT enrich_ip('10.0.0.0/8');

-- The rows in the inventory now.
SELECT ip_address, current_asn, geo_country FROM ip_inventory ORDER BY ip_address;
SELECT asn_number, organization_name, asn_type, is_known_hosting, is_known_vpn
FROM asn_inventory ORDER BY asn_number;
SELECT ip_address, asn_number FROM ip_asn_history ORDER BY ip_address;
SELECT DISTINCT ip_address, provider FROM enrichment_request ORDER BY ip_address, provider;
