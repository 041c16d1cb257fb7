-- postgres imports a schema of alice with views, domains, hostile CHECKs, triggers and generated columns in place of the tables.
-- Success: alice's code runs as postgres or as the extension's owner.
-- as alice
CREATE FUNCTION al.konst(how text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN al.note(how); END $$;
CREATE FUNCTION al.number(how text, x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM al.note(how); RETURN x; END $$;
CREATE DOMAIN al.dom AS text CHECK (al.konst('domain'));
CREATE TABLE al.asn_inventory (asn_number integer PRIMARY KEY, organization_name al.dom, organization_country varchar(2), registry varchar(10),
    asn_type text, is_known_hosting boolean, is_known_vpn boolean, first_seen timestamptz, last_seen timestamptz, enrichment json,
    CHECK (al.konst('check')));
CREATE INDEX ON al.asn_inventory (asn_number) WHERE al.konst('predicate asn');
CREATE TABLE al.real_ips (ip_address varchar(45), current_asn integer, first_seen timestamptz, last_seen timestamptz, session_count integer,
    enrichment json NOT NULL, enrichment_updated_at timestamptz);
INSERT INTO al.real_ips VALUES ('78.46.0.1', 24940, now(), now(), 3, '{}', now());
CREATE VIEW al.ip_inventory AS SELECT ip_address, current_asn, first_seen, last_seen, session_count + al.number('view', 0) AS session_count, enrichment, enrichment_updated_at FROM al.real_ips;
CREATE TABLE al.session_summaries (session_id varchar(64) PRIMARY KEY, source_ip varchar(45), first_event_at timestamptz, snapshot_asn integer,
    snapshot_country varchar(2), enrichment json);
INSERT INTO al.asn_inventory VALUES (24940, 'x', 'DE', 'ripencc', 'CLOUD', true, false, now(), now(), '{}');
INSERT INTO al.session_summaries VALUES ('4711', '78.46.0.1', now(), 24940, 'DE', '{}');
CREATE INDEX ON al.session_summaries (session_id) WHERE al.konst('predicate sessions');
CREATE INDEX ON al.session_summaries ((al.number('folded', 7)));
ALTER TABLE al.session_summaries ADD CHECK (al.konst('check sessions')), ADD gen int GENERATED ALWAYS AS (al.number('generated', 1)) STORED;
CREATE POLICY p ON al.session_summaries USING (al.note('policy'));
ALTER TABLE al.session_summaries ENABLE ROW LEVEL SECURITY;
DELETE FROM al.loot;
-- fails
CALL enrich.import_inventory('al');
-- as operator
-- fails
CALL enrich.import_inventory('al');
-- as postgres
-- fails
CALL enrich.import_inventory('al');
-- as alice
DROP VIEW al.ip_inventory;
ALTER TABLE al.real_ips RENAME TO ip_inventory;
CREATE INDEX ON al.ip_inventory (ip_address) WHERE al.konst('predicate ip');
DELETE FROM al.loot WHERE who = 'alice';
-- as postgres
-- fails
CALL enrich.import_inventory('al');
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'alice') THEN 'safe' ELSE (SELECT string_agg(DISTINCT who || ' ' || how, ', ') FROM al.loot WHERE who <> 'alice') END;
