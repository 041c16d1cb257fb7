-- hp creates temporary tables, types and a function with names that the extension uses, then inserts.
-- Success: the counts or the request are written to hp's tables, or the insert fails.
-- as hp
CREATE TEMP TABLE ip_inventory (ip_address text, x int);
CREATE TEMP TABLE session_delta (ip_address inet, sessions int);
CREATE TEMP TABLE asn_inventory (x int);
CREATE TEMP TABLE enrichment_request (ip_address inet, provider text);
CREATE TEMP TABLE pg_class (oid oid);
CREATE TEMP TABLE inet (x int);
CREATE DOMAIN pg_temp.jsonb AS text;
SET search_path = pg_temp, pg_catalog, public;
INSERT INTO public.sessions (id, starttime, ip) VALUES ('a', now(), '8.8.8.8'), ('b', now(), '60.0.0.7');
-- fails
PREPARE TRANSACTION 'x';
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO public.sessions (id, starttime, ip) VALUES ('c', now(), '1.1.1.1');
COMMIT;
-- as postgres
CALL enrich.fold_statistics();
-- wait (SELECT snapshot_asn IS NOT NULL FROM sessions WHERE id = 'b')
SELECT CASE WHEN (SELECT count(*) FROM enrich.ip_inventory WHERE ip_address IN ('8.8.8.8', '1.1.1.1', '60.0.0.7') AND session_count = 1) = 3 THEN 'safe' ELSE 'broken' END;
