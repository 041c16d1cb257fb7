-- hp inserts snapshots and documents to poison networks and addresses at the next backfill.
-- Success: an inventory or another session has a value that hp wrote.
-- as hp
INSERT INTO public.sessions (id, starttime, ip, enrichment, snapshot_asn, snapshot_country, enrichment_at) VALUES
    ('p1', '2999-01-01', '45.45.45.45',
     '{"greynoise":{"noise":false,"riot":true,"name":"Google"},"cymru":{"asn":15169,"org":"PWNED INC","registry":"arin","country":"KP"},"maxmind":{"country":"KP","asn":15169,"asn_org":"PWNED BY HONEYPOT"}}',
     666, 'KP', '2999-01-01');
-- as postgres
CALL enrich.backfill_sessions('public.sessions');
CALL enrich.build_asn_inventory();
SELECT CASE WHEN NOT EXISTS (SELECT FROM enrich.asn_inventory WHERE organization_name LIKE '%PWNED%' OR organization_country = 'KP')
    AND NOT EXISTS (SELECT FROM enrich.ip_inventory WHERE enrichment::text LIKE '%PWNED%' OR last_seen > now() + interval '2 days')
    AND NOT EXISTS (SELECT FROM sessions WHERE snapshot_asn = 666 OR snapshot_country = 'KP' OR enrichment_at > now())
    THEN 'safe' ELSE 'broken' END;
