-- postgres trusts a table, then makes alice its owner. alice wants to write inventories by documents.
-- Success: the document of alice reaches an inventory.
-- as postgres
CREATE TABLE public.gift (id int, ip inet, t timestamptz DEFAULT now());
SELECT enrich.attach_session_table('public.gift', 'ip', 't');
SELECT enrich.set_session_table_options('public.gift', NULL, true);
ALTER TABLE public.gift OWNER TO alice;
-- as alice
INSERT INTO public.gift (id, ip, enrichment, enrichment_at) VALUES (1, '45.45.45.46', '{"maxmind":{"country":"KP","asn":15169,"asn_org":"PWNED"}}', now());
CALL enrich.backfill_sessions('public.gift');
SELECT CASE WHEN NOT EXISTS (SELECT FROM enrich.asn_inventory WHERE organization_name LIKE '%PWNED%')
    AND NOT EXISTS (SELECT FROM enrich.ip_inventory WHERE enrichment::text LIKE '%PWNED%')
    AND NOT EXISTS (SELECT FROM public.gift WHERE snapshot_country = 'KP' OR enrichment::text LIKE '%PWNED%')
    THEN 'safe' ELSE 'broken' END;
