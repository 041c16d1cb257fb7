-- Generated columns are computed from any JSON without an error.
INSERT INTO ip_inventory (ip_address, enrichment) VALUES
    ('192.0.2.1', '{}'),
    ('192.0.2.2', '{"maxmind": {"country": "us"}}'),
    ('192.0.2.3', '{"maxmind": {"country": ""}, "cymru": {"country": "DE"}}'),
    ('192.0.2.4', '{"dshield": {"ip": {"ascountry": "fr"}}}'),
    ('192.0.2.5', '{"maxmind": "US", "greynoise": [], "validation": 7, "spur": null}'),
    ('192.0.2.6', '{"greynoise": {"noise": true}, "validation": {"is_bogon": "true"}}'),
    ('192.0.2.7', '{"spur": {"tunnels": [{"type": "VPN"}], "infrastructure": "DATACENTER",
                    "client": {"types": ["MOBILE", "DESKTOP"]}}}'),
    ('192.0.2.8', '{"spur": {"tunnels": {"type": "TOR"}, "client": {"types": "MOBILE"}}}');
SELECT ip_address, geo_country, ip_types, is_scanner, is_bogon FROM ip_inventory ORDER BY ip_address;
