-- alice's trigger, which fires after the extension's, writes snapshots and documents, with times that overflow.
-- Success: an inventory, the history or a count shows them, or folding fails.
-- as alice
CREATE FUNCTION al.forge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.snapshot_asn := 666; NEW.snapshot_country := 'KP'; NEW.enrichment_at := '294276-12-31';
    NEW.t := '294276-12-31';
    NEW.enrichment := '{"cymru":{"asn":666,"org":"PWNED","country":"KP"},"maxmind":{"asn":99999999999999999999,"asn_org":{"a":1},"country":"KP"},"_meta":{"cymru":{"asked_at":"2999-01-01"}}}';
    RETURN NEW;
END $$;
CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON al.sess FOR EACH ROW EXECUTE FUNCTION al.forge();
INSERT INTO al.sess (id, ip) VALUES (1, '60.0.0.7'), (2, '8.8.8.8');
CALL enrich.backfill_sessions('al.sess');
-- as postgres
CALL enrich.fold_statistics();
CALL enrich.build_asn_inventory();
CALL enrich.backfill_sessions('al.sess');
CALL enrich.refresh_session_counts();
CALL enrich.fold_statistics();
SELECT CASE WHEN NOT EXISTS (SELECT FROM enrich.asn_inventory WHERE organization_name LIKE '%PWNED%' OR asn_number = 666)
    AND NOT EXISTS (SELECT FROM enrich.ip_inventory WHERE enrichment::text LIKE '%PWNED%' OR current_asn = 666 OR last_seen > now() + interval '2 days')
    AND NOT EXISTS (SELECT FROM enrich.ip_asn_history WHERE asn_number = 666)
    AND (SELECT session_count FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8') = 1 THEN 'safe' ELSE 'broken' END;
