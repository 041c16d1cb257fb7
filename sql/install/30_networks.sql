-- Networks, and the functions that fill the metadata of networks.

CREATE FUNCTION classify_name(organization_name text) RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'classify_name_wrapper';
COMMENT ON FUNCTION classify_name(text) IS
    'returns the type of a network: HOSTING, ISP, EDUCATION, GOVERNMENT or UNKNOWN; whole words in the organisation name determine the type';

CREATE TABLE known_networks (
    asn_number bigint PRIMARY KEY CHECK (asn_number BETWEEN 1 AND 4294967295),
    label      text NOT NULL,
    asn_type   text NOT NULL CHECK (asn_type IN ('HOSTING', 'ISP', 'EDUCATION', 'GOVERNMENT', 'UNKNOWN')),
    is_hosting boolean NOT NULL DEFAULT false,
    is_vpn     boolean NOT NULL DEFAULT false,
    is_seed    boolean NOT NULL DEFAULT false,
    source     text CHECK (source <> '')
);
COMMENT ON TABLE known_networks IS
    'networks whose type is known. This type overrides a type derived from the organisation name. You can edit the table. pg_dump includes only rows that you added or changed. A restore brings back deleted rows that came with the extension';
COMMENT ON COLUMN known_networks.asn_type IS 'type of the network: HOSTING, ISP, EDUCATION, GOVERNMENT or UNKNOWN';
COMMENT ON COLUMN known_networks.is_seed IS
    'true if the row came with the extension and is unchanged; pg_dump omits such rows';
COMMENT ON COLUMN known_networks.source IS
    'name of the list from which the row was loaded; cowrie_enrich if the row came with the extension; null if the row was entered or edited by hand';

INSERT INTO known_networks (asn_number, label, asn_type, is_hosting, is_vpn, is_seed, source) VALUES
    -- clouds
    (16509, 'Amazon Web Services', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (14618, 'Amazon Web Services', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (15169, 'Google', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (396982, 'Google Cloud', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (8075, 'Microsoft Azure', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (31898, 'Oracle Cloud', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (36351, 'IBM Cloud', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (45102, 'Alibaba Cloud', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (37963, 'Alibaba Cloud', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (132203, 'Tencent Cloud', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (45090, 'Tencent Cloud', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (136907, 'Huawei Cloud', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (55990, 'Huawei Cloud', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (13335, 'Cloudflare', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (54113, 'Fastly', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (20940, 'Akamai', 'HOSTING', true, false, true, 'cowrie_enrich'),
    -- hosting companies
    (20473, 'Vultr', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (16276, 'OVH', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (14061, 'DigitalOcean', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (24940, 'Hetzner', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (213230, 'Hetzner Cloud', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (63949, 'Linode', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (12876, 'Scaleway', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (51167, 'Contabo', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (8560, 'IONOS', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (26496, 'GoDaddy', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (36352, 'ColoCrossing', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (53667, 'FranTech (BuyVM)', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (49981, 'WorldStream', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (202425, 'IP Volume', 'HOSTING', true, false, true, 'cowrie_enrich'),
    (29073, 'Quasi Networks', 'HOSTING', true, false, true, 'cowrie_enrich'),
    -- hosts of VPN services
    (9009, 'M247', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (60068, 'Datacamp (CDN77)', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (212238, 'Datacamp', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (209854, 'Cyberzone (Surfshark)', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (136787, 'PacketHub (NordVPN)', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (147049, 'PacketHub (NordVPN)', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (39351, '31173 Services (Mullvad)', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (62371, 'Proton', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (209103, 'Proton VPN', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (60781, 'LeaseWeb', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (20860, 'iomart', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (32489, 'Amanah (VPN exits)', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (46562, 'Performive (VPN exits)', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (62240, 'Clouvider', 'HOSTING', true, true, true, 'cowrie_enrich'),
    (8100, 'QuadraNet', 'HOSTING', true, true, true, 'cowrie_enrich');
SELECT pg_catalog.pg_extension_config_dump('known_networks', 'WHERE NOT is_seed');

-- If a user has edited a row of known_networks, a dump must include the row, and a list that is loaded again must not
-- replace the row. Lists are loaded by DELETE and INSERT. So an UPDATE that does not set the column "source" is an edit
-- by a user.
CREATE FUNCTION known_network_edited() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (NEW.asn_number, NEW.label, NEW.asn_type, NEW.is_hosting, NEW.is_vpn)
       IS DISTINCT FROM (OLD.asn_number, OLD.label, OLD.asn_type, OLD.is_hosting, OLD.is_vpn) THEN
        NEW.is_seed := false;
        IF NEW.source IS NOT DISTINCT FROM OLD.source THEN
            NEW.source := NULL;
        END IF;
    ELSIF NEW.source IS DISTINCT FROM OLD.source THEN
        NEW.is_seed := false;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION known_network_edited() IS
    'trigger on known_networks: when a user edits a row, sets is_seed to false, so that pg_dump includes the row; also sets source to null, so that loading a list does not replace the row';
CREATE TRIGGER known_network_edited BEFORE UPDATE ON known_networks
    FOR EACH ROW EXECUTE FUNCTION known_network_edited();

-- When a dump is restored, CREATE EXTENSION has already inserted the seed rows. A row from the dump replaces the seed
-- row of the same network.
CREATE FUNCTION known_network_restored() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.is_seed THEN
        NEW.source := 'cowrie_enrich';
    ELSE
        DELETE FROM @extschema@.known_networks k WHERE k.asn_number = NEW.asn_number AND k.is_seed;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION known_network_restored() IS
    'trigger on known_networks: before a user or a restore inserts a row for a network, deletes the seed row of this network (the row that came with the extension). If the inserted row is itself a seed row (is_seed is true), deletes nothing, and sets source to ''cowrie_enrich''';
CREATE TRIGGER known_network_restored BEFORE INSERT ON known_networks
    FOR EACH ROW EXECUTE FUNCTION known_network_restored();

-- This table lists networks that must be reclassified, because their entry in known_networks was edited. The table is
-- append-only and its index is not unique, because a transaction that edits an entry must not wait for the worker.
CREATE TABLE network_reclassification (
    asn_number bigint NOT NULL CHECK (asn_number BETWEEN 1 AND 4294967295),
    edited_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX network_reclassification_asn_number_idx ON network_reclassification (asn_number);
-- The table has no primary key, like the tables of pending counts. Without a replica identity, the server would refuse
-- the extension's deletes if the table is in a publication FOR ALL TABLES.
ALTER TABLE network_reclassification REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('network_reclassification', '');
COMMENT ON TABLE network_reclassification IS
    'networks whose row in known_networks was added, changed or deleted; the worker classifies these networks again, then deletes the rows';
COMMENT ON COLUMN network_reclassification.edited_at IS 'start time of the transaction that edited known_networks';

CREATE FUNCTION reclassification_appended() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'reclassification_appended_wrapper';
COMMENT ON FUNCTION reclassification_appended() IS
    'trigger on network_reclassification: wakes the worker when the transaction commits; the worker then classifies the networks again';
CREATE TRIGGER reclassification_appended AFTER INSERT ON network_reclassification
    FOR EACH STATEMENT EXECUTE FUNCTION reclassification_appended();

-- Runs as the extension's owner, so that a user who edits known_networks needs no rights on other tables.
CREATE FUNCTION known_networks_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO @extschema@.network_reclassification (asn_number)
        SELECT n.asn_number FROM new_rows n;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO @extschema@.network_reclassification (asn_number)
        SELECT o.asn_number FROM old_rows o;
    ELSIF TG_OP = 'TRUNCATE' THEN
        INSERT INTO @extschema@.network_reclassification (asn_number)
        SELECT k.asn_number FROM @extschema@.known_networks k;
    ELSE
        INSERT INTO @extschema@.network_reclassification (asn_number)
        SELECT e.asn_number
        FROM (
            (SELECT o.asn_number, o.asn_type, o.is_hosting, o.is_vpn FROM old_rows o
             EXCEPT
             SELECT n.asn_number, n.asn_type, n.is_hosting, n.is_vpn FROM new_rows n)
            UNION
            (SELECT n.asn_number, n.asn_type, n.is_hosting, n.is_vpn FROM new_rows n
             EXCEPT
             SELECT o.asn_number, o.asn_type, o.is_hosting, o.is_vpn FROM old_rows o)) e
        GROUP BY e.asn_number;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION known_networks_changed() IS
    'trigger on known_networks: inserts the networks of edited rows into network_reclassification';
CREATE TRIGGER known_networks_inserted AFTER INSERT ON known_networks
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION known_networks_changed();
CREATE TRIGGER known_networks_updated AFTER UPDATE ON known_networks
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION known_networks_changed();
CREATE TRIGGER known_networks_deleted AFTER DELETE ON known_networks
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION known_networks_changed();
CREATE TRIGGER known_networks_truncated BEFORE TRUNCATE ON known_networks
    FOR EACH STATEMENT EXECUTE FUNCTION known_networks_changed();

CREATE FUNCTION classify_asn(asn bigint, organization_name text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT COALESCE(
            (SELECT k.asn_type FROM @extschema@.known_networks k WHERE k.asn_number = $1),
            @extschema@.classify_name($2))
    $$;
COMMENT ON FUNCTION classify_asn(bigint, text) IS
    'returns the type of a network: the type in known_networks if the network is listed there, otherwise a type derived from whole words in the given name of the organisation';

-- If a network has no entry in known_networks, the flags of the network may come from an import, so the function keeps
-- the flags. There is one exception: while an edit for this network is pending, the flags may come from a deleted
-- entry. In this case the function returns false for both flags.
CREATE FUNCTION classify_network(
    asn bigint, organization_name text, was_datacenter boolean, was_vpn boolean,
    OUT asn_type text, OUT is_known_hosting boolean, OUT is_known_vpn boolean)
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT COALESCE(k.asn_type, @extschema@.classify_name($2)),
               COALESCE(k.is_hosting, $3 AND NOT p.is_pending),
               COALESCE(k.is_vpn, $4 AND NOT p.is_pending)
        FROM (SELECT EXISTS (SELECT FROM @extschema@.network_reclassification r WHERE r.asn_number = $1) AS is_pending) p
        LEFT JOIN @extschema@.known_networks k ON k.asn_number = $1
    $$;
COMMENT ON FUNCTION classify_network(bigint, text, boolean, boolean) IS
    'returns the type of a network and the flags is_known_hosting and is_known_vpn; if known_networks has a row for the network, all values come from this row; otherwise, derives the type from the given name, and returns the flags that the caller passed';

-- Returns the rank of a source. A source may replace values from a source of lower rank.
CREATE FUNCTION source_rank(source text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT CASE source WHEN 'manual' THEN 4 WHEN 'cymru' THEN 3 WHEN 'maxmind' THEN 2 WHEN 'iana' THEN 1 WHEN 'document' THEN -1 ELSE 0 END $$;
COMMENT ON FUNCTION source_rank(text) IS
    'rank of a source of countries and registries. A value from a higher rank replaces a value from a lower rank. From high to low: ''manual'', ''cymru'', ''maxmind'', ''iana'' (only registries), imported rows, ''document''. ''document'' is JSON that a client wrote into the column "enrichment" of a table with the option trust_input';

-- The rank of a source for names differs from its rank for countries and registries. Files contain the name of the
-- organisation ("Hetzner Online GmbH"), and Team Cymru returns the name of the network ("HETZNER-AS"). A name without a
-- known source may come from a file, so this name ranks above a name from Team Cymru.
CREATE FUNCTION name_rank(source text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT CASE source WHEN 'manual' THEN 3 WHEN 'maxmind' THEN 2 WHEN 'cymru' THEN 0 WHEN 'document' THEN -1 ELSE 1 END $$;
COMMENT ON FUNCTION name_rank(text) IS
    'rank of a source of organisation names. A name from a higher rank replaces a name from a lower rank. From high to low: ''manual'', ''maxmind'', imported rows, ''cymru'', ''document''. ''document'' is JSON that a client wrote into the column "enrichment" of a table with the option trust_input';

CREATE FUNCTION may_replace(current_value text, enrichment jsonb, field text, source text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT $1 IS NULL
            OR CASE $3 WHEN 'organization_name'
               THEN @extschema@.name_rank($4) > @extschema@.name_rank($2 -> 'provenance' ->> $3)
               ELSE @extschema@.source_rank($4) > @extschema@.source_rank($2 -> 'provenance' ->> $3) END
            -- Among earlier values of Team Cymru, a new value of Team Cymru may replace only a name. Countries and
            -- registries of Team Cymru belong to a prefix. If they could replace earlier countries and registries, the
            -- values of the network would change with every address.
            OR ($4 = $2 -> 'provenance' ->> $3 AND $4 = 'cymru' AND $3 = 'organization_name')
    $$;
COMMENT ON FUNCTION may_replace(text, jsonb, text, text) IS
    'true if a source is allowed to set a field of a network; the field must be null, or its value must come from a source of lower rank; Team Cymru is also allowed to replace an organization_name from Team Cymru';

CREATE FUNCTION merge_enrichment(old jsonb, new jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT parts.base
            || ($2 - 'maxmind' - '_meta')
            || CASE WHEN $2 ? 'maxmind' THEN jsonb_build_object('maxmind',
                   CASE WHEN jsonb_typeof(parts.base -> 'maxmind') = 'object' THEN parts.base -> 'maxmind' ELSE '{}' END
                   - CASE WHEN $2 -> 'maxmind' ?| parts.place THEN parts.place ELSE '{}' END
                   - CASE WHEN $2 -> 'maxmind' ? 'asn' THEN ARRAY['asn', 'asn_org', 'asn_vendor', 'asn_build_epoch'] ELSE '{}' END
                   || ($2 -> 'maxmind')) ELSE '{}' END
            || CASE WHEN $2 ? '_meta' THEN jsonb_build_object('_meta',
                   CASE WHEN jsonb_typeof(parts.base -> '_meta') = 'object' THEN parts.base -> '_meta' ELSE '{}' END
                   || ($2 -> '_meta')) ELSE '{}' END
        FROM (SELECT CASE WHEN jsonb_typeof($1) = 'object' THEN $1 ELSE '{}' END AS base,
                     ARRAY['country', 'country_name', 'city', 'latitude', 'longitude', 'accuracy_radius'] AS place) parts
    $$;
COMMENT ON FUNCTION merge_enrichment(jsonb, jsonb) IS
    'merge newer answers into an enrichment document (a value of ip_inventory.enrichment); new values of a source replace the old values of the same source; all other old values are kept';

CREATE FUNCTION request_enrichment(ip inet, provider text, priority integer DEFAULT 0) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'request_enrichment_wrapper';
COMMENT ON FUNCTION request_enrichment(inet, text, integer) IS
    'queue the lookup of an address at a provider; the worker sends lookups with a higher priority first; raises an error for a bogon (an address that cannot be a source address on the public internet)';

-- Queues the lookup of an address that is given as text. Without this function, a call with two literals could mean
-- request_enrichment(inet, text) or request_enrichment(bigint, text). PostgreSQL would reject such a call, because the
-- type of a literal is unknown.
CREATE FUNCTION request_enrichment(address text, provider text, priority integer DEFAULT 0) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT @extschema@.request_enrichment($1::inet, $2, $3) $$;
COMMENT ON FUNCTION request_enrichment(text, text, integer) IS
    'queue the lookup of an address at a provider; does the same as request_enrichment(inet, text, integer) if the address is given as text';

CREATE FUNCTION request_enrichment(asn bigint, provider text DEFAULT 'cymru') RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'request_network_enrichment_wrapper';
COMMENT ON FUNCTION request_enrichment(bigint, text) IS
    'queue the lookup of a network at a provider; raises an error if the ASN is reserved (a bogon), or if the provider does not look up networks';

CREATE FUNCTION ensure_asn_inventory(
    asn bigint, organization_name text DEFAULT NULL, organization_country text DEFAULT NULL,
    rir_registry text DEFAULT NULL, overwrite boolean DEFAULT false)
    RETURNS asn_inventory
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'ensure_asn_inventory_wrapper';
COMMENT ON FUNCTION ensure_asn_inventory(bigint, text, text, text, boolean) IS
    'create the row of a network in asn_inventory, or set last_seen of the existing row to the current time. The arguments replace null values and values from sources such as Team Cymru. They replace values of an earlier call only if the argument "overwrite" is true. Later answers of sources do not replace values that a call has set';

CREATE FUNCTION enrich_ip(ip inet, force boolean DEFAULT false) RETURNS ip_inventory
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'enrich_ip_wrapper';
COMMENT ON FUNCTION enrich_ip(inet, boolean) IS
    'return the ip_inventory row of an address; fills a missing or outdated row from the mmdb files, and queues lookups at providers; with force => true, does this even if the row is up to date';

CREATE FUNCTION enrich_addresses(ips inet[], force boolean, sources text[], max_requests bigint) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'enrich_addresses_wrapper';
COMMENT ON FUNCTION enrich_addresses(inet[], boolean, text[], bigint) IS
    'writes the rows in ip_inventory when a client calls enrich_ip() or enrich_ips(); not meant to be called directly';

CREATE FUNCTION enrich_ips(
    ips inet[], force boolean DEFAULT false, sources text[] DEFAULT NULL, max_requests bigint DEFAULT NULL)
    RETURNS SETOF ip_inventory
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT @extschema@.enrich_addresses($1, $2, $3, $4);
        -- Sorts the addresses first, and then reads their rows one by one. Sorting whole rows would write temporary
        -- files.
        SELECT i.*
        FROM (SELECT DISTINCT @extschema@.canonical_address(u.ip) AS ip FROM unnest($1) u(ip) ORDER BY 1) wanted
        CROSS JOIN LATERAL (SELECT * FROM @extschema@.ip_inventory r WHERE r.ip_address = wanted.ip OFFSET 0) i;
    $$;
COMMENT ON FUNCTION enrich_ips(inet[], boolean, text[], bigint) IS
    'does the same as enrich_ip() for many addresses, and returns their ip_inventory rows. The argument "sources" names the providers to ask. With sources => ''{maxmind}'', the call queues no lookup of an address, but the worker still looks up new networks at Team Cymru. Raises an error and writes nothing if the call would queue more than max_requests requests. Locks inventory rows in key order, so that concurrent calls cannot deadlock';
