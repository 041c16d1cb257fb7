-- The inventories, and the append-only tables with counts that are later added to the inventories.
--
-- All code of the extension locks rows in this order (see ARCHITECTURE.md, "Locks"): new networks, existing networks,
-- new addresses, existing addresses. Within each of these groups, it locks the rows in the order of their primary keys.

CREATE FUNCTION canonical_address(ip inet) RETURNS inet
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'canonical_address_wrapper';
COMMENT ON FUNCTION canonical_address(inet) IS
    'converts an address to the form in which ip_inventory.ip_address stores it: without a netmask; an IPv4-mapped IPv6 address becomes an IPv4 address';

CREATE FUNCTION geo_country_of(enrichment jsonb) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'geo_country_of_wrapper';
COMMENT ON FUNCTION geo_country_of(jsonb) IS
    'country in an enrichment document (a value of ip_inventory.enrichment): from the source ''maxmind'', otherwise from ''cymru'', otherwise from ''dshield''; ''XX'' if none of these sources names a country; never raises an error';

CREATE FUNCTION ip_types_of(enrichment jsonb) RETURNS text[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ip_types_of_wrapper';
COMMENT ON FUNCTION ip_types_of(jsonb) IS
    'types of an address according to SPUR, for example VPN or DATACENTER, in upper case and without duplicates. The argument is a value of ip_inventory.enrichment. The types are those of the tunnels, the infrastructure and the clients in SPUR''s answer (the key "spur")';

CREATE FUNCTION is_scanner_of(enrichment jsonb) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_scanner_of_wrapper';
COMMENT ON FUNCTION is_scanner_of(jsonb) IS
    'true if greynoise.noise is true in an enrichment document (a value of ip_inventory.enrichment): GreyNoise has seen the address scan the internet';

CREATE FUNCTION is_bogon_of(enrichment jsonb) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_bogon_of_wrapper';
COMMENT ON FUNCTION is_bogon_of(jsonb) IS
    'true if validation.is_bogon is true in an enrichment document (a value of ip_inventory.enrichment): the address cannot be a source address on the public internet';

-- The function is not STRICT and sets no search_path, so that the planner can inline the function. The function
-- compares the time with the later one of now() and statement_timestamp(). In a long procedure now() is later, and in a
-- long transaction statement_timestamp() is later.
CREATE FUNCTION session_time(t timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE
        WHEN t OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'::timestamptz
         AND t OPERATOR(pg_catalog.<=) (
             GREATEST(pg_catalog.now(), pg_catalog.statement_timestamp()) OPERATOR(pg_catalog.+) '24:00:00'::interval)
        THEN t END;
COMMENT ON FUNCTION session_time(timestamptz) IS
    'returns the given time of a session if the time is plausible; null if the time is before 1970 or more than one day in the future';

-- Since PostgreSQL 17, subtracting two timestamps raises an error if the difference is out of range. A user or an old
-- version of the extension may have stored two times with such a difference. The function does not subtract such times,
-- because an UPDATE or a restore must not fail.
CREATE FUNCTION seen_over(first_seen timestamptz, last_seen timestamptz) RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN first_seen OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'::timestamptz
         AND last_seen OPERATOR(pg_catalog.<) '3000-01-01 00:00:00+00'::timestamptz
         AND last_seen OPERATOR(pg_catalog.>=) first_seen
        THEN last_seen OPERATOR(pg_catalog.-) first_seen END;
COMMENT ON FUNCTION seen_over(timestamptz, timestamptz) IS
    'time from first_seen to last_seen; null if one of these times is before 1970 or after 2999';

-- A fold updates the counts and times of a row, and no index contains these columns. So if the page of the row has free
-- space, the update writes no index entry (a HOT update). fillfactor leaves this space, also in ip_inventory.
CREATE TABLE asn_inventory (
    asn_number            bigint PRIMARY KEY CHECK (asn_number BETWEEN 1 AND 4294967295),
    organization_name     text,
    organization_country  text CHECK (organization_country ~ '^[A-Z]{2}$'),
    rir_registry          text CHECK (rir_registry IN ('ARIN', 'RIPE', 'APNIC', 'LACNIC', 'AFRINIC')),
    allocated_on          date,
    as_name               text,
    asn_type              text NOT NULL DEFAULT 'UNKNOWN'
                          CHECK (asn_type IN ('HOSTING', 'ISP', 'EDUCATION', 'GOVERNMENT', 'UNKNOWN')),
    is_known_hosting      boolean NOT NULL DEFAULT false,
    is_known_vpn          boolean NOT NULL DEFAULT false,
    first_seen            timestamptz,
    last_seen             timestamptz,
    unique_ip_count       bigint NOT NULL DEFAULT 0,
    total_session_count   bigint NOT NULL DEFAULT 0,
    enrichment            jsonb NOT NULL DEFAULT '{}',
    enrichment_updated_at timestamptz,
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    lookup_queued_at      timestamptz
) WITH (fillfactor = 70);
-- The worker finds new networks by this index. The index contains only networks for which no lookup was ever queued.
CREATE INDEX asn_inventory_lookup_idx ON asn_inventory (asn_number) WHERE lookup_queued_at IS NULL;
SELECT pg_catalog.pg_extension_config_dump('asn_inventory', '');

COMMENT ON TABLE asn_inventory IS 'one row for each known network (autonomous system)';
COMMENT ON COLUMN asn_inventory.asn_number IS 'autonomous system number, 1 to 4294967295';
COMMENT ON COLUMN asn_inventory.organization_name IS
    'organisation that runs the network; the key "provenance" in the column "enrichment" names the source of this value';
COMMENT ON COLUMN asn_inventory.organization_country IS
    'two-letter code of a country; from Team Cymru, the country where the network is registered; from MaxMind, the country of the address for which the extension created this row';
COMMENT ON COLUMN asn_inventory.rir_registry IS 'regional internet registry (ARIN, RIPE, APNIC, LACNIC or AFRINIC); initially the registry to which IANA assigned the ASN; a source of higher rank replaces this value';
COMMENT ON COLUMN asn_inventory.allocated_on IS 'date when the registry allocated the ASN, from Team Cymru';
COMMENT ON COLUMN asn_inventory.as_name IS
    'name of the network as Team Cymru writes it, with the country of registration at its end, for example ''GOOGLE, US''';
COMMENT ON COLUMN asn_inventory.asn_type IS
    'type of the network: HOSTING, ISP, EDUCATION, GOVERNMENT or UNKNOWN; see classify_asn()';
COMMENT ON COLUMN asn_inventory.is_known_hosting IS 'true if known_networks lists the network as a hosting provider';
COMMENT ON COLUMN asn_inventory.is_known_vpn IS 'true if known_networks lists the network as a host of VPN services';
COMMENT ON COLUMN asn_inventory.first_seen IS 'time of the first session from this network';
COMMENT ON COLUMN asn_inventory.last_seen IS 'time of the last session from this network';
COMMENT ON COLUMN asn_inventory.unique_ip_count IS
    'number of addresses that now belong to this network; recent changes are missing until the worker or fold_statistics() adds them';
COMMENT ON COLUMN asn_inventory.total_session_count IS
    'number of sessions from the addresses that now belong to this network; recent sessions are missing until the worker or fold_statistics() adds them';
COMMENT ON COLUMN asn_inventory.enrichment IS
    'JSON object. The key "provenance" names the source of each filled column of this row. The key "_meta" holds the state and the time of the last lookup of the network at a provider. The key "import" holds values of an imported row that fit no column of this table';
COMMENT ON COLUMN asn_inventory.enrichment_updated_at IS
    'time when a source last changed organization_name, organization_country, rir_registry, allocated_on or as_name';
COMMENT ON COLUMN asn_inventory.lookup_queued_at IS
    'time when the worker first queued a lookup of the network at a provider; null before the first such lookup';

CREATE TABLE ip_inventory (
    ip_address            inet PRIMARY KEY CHECK (ip_address = canonical_address(ip_address)),
    current_asn           bigint REFERENCES asn_inventory,
    asn_last_verified     timestamptz,
    first_seen            timestamptz,
    last_seen             timestamptz,
    session_count         bigint NOT NULL DEFAULT 0,
    enrichment            jsonb NOT NULL DEFAULT '{}',
    enrichment_updated_at timestamptz,
    enrichment_version    text,
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    geo_country           text GENERATED ALWAYS AS (geo_country_of(enrichment)) STORED,
    ip_types              text[] GENERATED ALWAYS AS (ip_types_of(enrichment)) STORED,
    is_scanner            boolean GENERATED ALWAYS AS (is_scanner_of(enrichment)) STORED,
    is_bogon              boolean GENERATED ALWAYS AS (is_bogon_of(enrichment)) STORED
) WITH (fillfactor = 85);
CREATE INDEX ip_inventory_current_asn_idx ON ip_inventory (current_asn);
SELECT pg_catalog.pg_extension_config_dump('ip_inventory', '');

-- Tells all backends to discard their cached rows of ip_inventory. The trigger also fires for replicated changes.
CREATE FUNCTION inventory_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'inventory_changed_wrapper';
COMMENT ON FUNCTION inventory_changed() IS
    'trigger on ip_inventory: makes all backends drop their cached rows of ip_inventory';
CREATE TRIGGER inventory_changed AFTER UPDATE OF enrichment, current_asn OR DELETE OR TRUNCATE ON ip_inventory
    FOR EACH STATEMENT EXECUTE FUNCTION inventory_changed();
ALTER TABLE ip_inventory ENABLE ALWAYS TRIGGER inventory_changed;

-- Keeps the counts of networks exact when a user deletes addresses by delete_addresses() or by DELETE.
CREATE FUNCTION addresses_deleted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.network_delta (asn_number, addresses, sessions)
    SELECT g.current_asn, -count(*), -sum(g.session_count)
    FROM gone g
    WHERE g.current_asn IS NOT NULL
    GROUP BY g.current_asn;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION addresses_deleted() IS
    'trigger on ip_inventory: when addresses are deleted, reduces the counts of the networks to which the addresses belonged';
CREATE TRIGGER addresses_deleted AFTER DELETE ON ip_inventory
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION addresses_deleted();

COMMENT ON TABLE ip_inventory IS
    'one row for each known address, with the current data about the address, such as its network and the answers of the sources';
COMMENT ON COLUMN ip_inventory.ip_address IS 'address without a netmask; an IPv4-mapped IPv6 address is stored as IPv4';
COMMENT ON COLUMN ip_inventory.current_asn IS 'ASN of the network that announces the address now; null if unknown';
COMMENT ON COLUMN ip_inventory.asn_last_verified IS 'time when a source last confirmed current_asn';
COMMENT ON COLUMN ip_inventory.first_seen IS 'time of the first session from this address';
COMMENT ON COLUMN ip_inventory.last_seen IS 'time of the last session from this address';
COMMENT ON COLUMN ip_inventory.session_count IS
    'number of sessions from this address in the attached tables; recent sessions are missing until the worker or fold_statistics() adds them';
COMMENT ON COLUMN ip_inventory.enrichment IS
    'JSON object with one key for each source that answered; the key "_meta" holds the state and the time of each answer; for an imported address, "_meta" also holds the imported row';
COMMENT ON COLUMN ip_inventory.enrichment_updated_at IS
    'time when an answer of any source last changed the column "enrichment"; the key "_meta" of this column holds the time of each answer';
COMMENT ON COLUMN ip_inventory.enrichment_version IS 'version of the format of the JSON document in the column "enrichment"';
COMMENT ON COLUMN ip_inventory.geo_country IS
    'two-letter code of the country: from the source ''maxmind'', otherwise from ''cymru'', otherwise from ''dshield''; ''XX'' if none of these sources names a country';
COMMENT ON COLUMN ip_inventory.ip_types IS
    'types of the address according to SPUR, for example VPN, TOR, PROXY or DATACENTER';
COMMENT ON COLUMN ip_inventory.is_scanner IS 'true if GreyNoise has seen the address scan the internet';
COMMENT ON COLUMN ip_inventory.is_bogon IS
    'true if the address is a bogon (an address that cannot be a source address on the public internet); bogon_reason() returns the reason';

CREATE TABLE ip_asn_history (
    ip_address          inet NOT NULL,
    asn_number          bigint NOT NULL,
    observed_at         timestamptz NOT NULL DEFAULT now(),
    verification_source text NOT NULL,
    PRIMARY KEY (ip_address, asn_number, observed_at)
);
CREATE INDEX ip_asn_history_asn_number_idx ON ip_asn_history (asn_number, observed_at);
-- The index is a BRIN index, because rows are appended in the order of observed_at.
CREATE INDEX ip_asn_history_observed_at_idx ON ip_asn_history USING brin (observed_at);
SELECT pg_catalog.pg_extension_config_dump('ip_asn_history', '');
COMMENT ON TABLE ip_asn_history IS
    'history of the network of each address: one row for the first known network, and one row for each change to another network';
COMMENT ON COLUMN ip_asn_history.observed_at IS
    'time when the extension detected that the address belongs to the network; the address may have moved to the network earlier';
COMMENT ON COLUMN ip_asn_history.verification_source IS
    'source that named the network: ''maxmind'', ''cymru'' or ''manual''; ''import'' if the row was imported and the source is unknown';

-- The tables of pending counts are append-only, because sessions must not wait for the rows of busy networks. These
-- tables have no index and no primary key, so an INSERT writes only one heap row. In a cluster of several nodes, each
-- node can have its own rows. The tables have a replica identity, because otherwise the server would refuse to delete
-- folded counts from a table in a publication FOR ALL TABLES.
CREATE TABLE session_delta (
    ip_address inet NOT NULL,
    sessions   bigint NOT NULL,
    first_seen timestamptz,
    last_seen  timestamptz,
    counted_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE session_delta REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('session_delta', '');
COMMENT ON TABLE session_delta IS
    'pending session counts per address: the worker or fold_statistics() adds these counts to ip_inventory and deletes the rows';

CREATE TABLE counter_delta (
    library       text NOT NULL,
    counter_index bigint NOT NULL,
    amount        bigint NOT NULL
);
ALTER TABLE counter_delta REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('counter_delta', '');
COMMENT ON TABLE counter_delta IS
    'amounts by which prepared transactions increase metric counters; when such a transaction is committed, the worker adds its amounts to the counters of enrich_metrics, and deletes the rows';
COMMENT ON COLUMN counter_delta.library IS
    'version of the library cowrie_enrich that stored the row; a worker that has loaded another version deletes the row and does not add the amount';
COMMENT ON COLUMN counter_delta.counter_index IS
    'number of the metric counter; its meaning depends on the version in the column "library"';

CREATE TABLE recount_request (
    requested_at timestamptz NOT NULL DEFAULT now(),
    sessions     bigint NOT NULL DEFAULT 0,
    has_gaps     boolean NOT NULL DEFAULT false
);
ALTER TABLE recount_request REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('recount_request', '');
COMMENT ON TABLE recount_request IS
    'requests to recount all sessions: a transaction inserts a row if it could not insert rows into session_delta or incomplete_session; the worker then recounts all sessions; the recount deletes the row';
COMMENT ON COLUMN recount_request.requested_at IS 'time when the row was written, during the commit of the transaction';
COMMENT ON COLUMN recount_request.sessions IS
    'number of honeypot sessions that the transaction could not count; 0 if the transaction counted all its sessions';
COMMENT ON COLUMN recount_request.has_gaps IS
    'true if the transaction stored sessions with null snapshot columns, and some of these sessions may be missing in incomplete_session. The recount adds them there.';

CREATE TABLE network_delta (
    asn_number bigint NOT NULL,
    addresses  bigint NOT NULL,
    sessions   bigint NOT NULL,
    first_seen timestamptz,
    last_seen  timestamptz,
    counted_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE network_delta REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('network_delta', '');
COMMENT ON TABLE network_delta IS
    'pending address and session counts per network: the worker or fold_statistics() adds these counts to asn_inventory and deletes the rows';
