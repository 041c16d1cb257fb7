-- Raises an error if the schema already contains a table with the name of a table of the extension, for example a table
-- of the Python system. Without this check, the installation would stop halfway, and the server's message would not say
-- how to proceed. A test compares the list of names with the relations of the extension.
DO $$
DECLARE
    taken text;
BEGIN
    SELECT c.relname INTO taken
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace OPERATOR(pg_catalog.=) '@extschema@'::pg_catalog.regnamespace::oid
      AND c.relname::text OPERATOR(pg_catalog.=) ANY (pg_catalog.regexp_split_to_array($relations$
        address_types, asn_inventory, attached_tables, block_answer, blocked_session_tables, blocklist_exception, cluster_member, cluster_node, completion_status, counter_delta,
        dead_letter, default_schedule, enrich_metrics, enrich_progress, enrichment_job,
        enrichment_request, incomplete_session, ip_asn_history, ip_inventory, job_address,
        known_networks, moved_addresses, network_activity, network_delta, network_reclassification,
        persistent_addresses, procedure_call, provider_quota, provider_status, queue_status, recount_request, rejected_row,
        session_completion, session_delta, session_priority, session_table_option, suspended_owner, unfinished_erasure,
        unsafe_foreign_keys, worker_status
        $relations$, '[,\s]+'))
    ORDER BY c.relname
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_table',
            MESSAGE = pg_catalog.format('relation "%s" already exists in schema "%s"', taken, '@extschema@'),
            HINT = 'Install the extension into a separate schema: CREATE SCHEMA cowrie_enrich; CREATE EXTENSION cowrie_enrich SCHEMA cowrie_enrich;';
    END IF;
END
$$;

-- The following functions look up addresses in the mmdb files of this server. They write nothing and send nothing over
-- the network.

CREATE FUNCTION ip_country(ip inet) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ip_country_wrapper';
COMMENT ON FUNCTION ip_country(inet) IS
    'two-letter code of the country where an address is used, from the mmdb files of the setting city_database; null if unknown';

CREATE FUNCTION ip_registered_country(ip inet) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ip_registered_country_wrapper';
COMMENT ON FUNCTION ip_registered_country(inet) IS
    'two-letter code of the country where the network of an address is registered, from the mmdb files of the setting city_database; null if unknown';

CREATE FUNCTION ip_city(ip inet) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ip_city_wrapper';
COMMENT ON FUNCTION ip_city(inet) IS
    'English name of the city of an address, from the mmdb files of the setting city_database; null if unknown';

CREATE FUNCTION ip_location(
    ip inet, OUT country text, OUT region text, OUT region_code text, OUT city text, OUT postal_code text,
    OUT latitude double precision, OUT longitude double precision, OUT accuracy_radius_km integer, OUT time_zone text)
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ip_location_wrapper';
COMMENT ON FUNCTION ip_location(inet) IS
    'location of an address, from the mmdb files of the setting city_database: country, region (the largest subdivision of the country), city, postal code, coordinates and time zone; one row, with null for each unknown value';

CREATE FUNCTION ip_asn(ip inet) RETURNS bigint
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ip_asn_wrapper';
COMMENT ON FUNCTION ip_asn(inet) IS
    'number (ASN) of the network that announces an address, from the mmdb files of the setting asn_database; null if unknown';

CREATE FUNCTION ip_asn_org(ip inet) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ip_asn_org_wrapper';
COMMENT ON FUNCTION ip_asn_org(inet) IS
    'organisation that runs the network of an address, from the mmdb files of the setting asn_database; null if unknown';

CREATE FUNCTION maxmind_lookup(ip inet) RETURNS jsonb
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'maxmind_lookup_wrapper';
COMMENT ON FUNCTION maxmind_lookup(inet) IS
    'data about an address in the mmdb files of the settings city_database and asn_database, with the same keys as ip_inventory.enrichment -> ''maxmind''; ip_location() also returns region, postal code and time zone';

CREATE FUNCTION is_bogon(ip inet) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_bogon_wrapper';
COMMENT ON FUNCTION is_bogon(inet) IS
    'true if an address is a bogon: according to the IANA special-purpose registries, a bogon cannot be a source address on the public internet';

CREATE FUNCTION bogon_reason(ip inet) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bogon_reason_wrapper';
COMMENT ON FUNCTION bogon_reason(inet) IS 'reason why an address is a bogon; null if the address is not a bogon';

CREATE FUNCTION asn_registry(asn bigint) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'asn_registry_wrapper';
COMMENT ON FUNCTION asn_registry(bigint) IS
    'regional internet registry (ARIN, RIPE, APNIC, LACNIC or AFRINIC) that received an ASN from IANA. Null if IANA has reserved or not yet allocated the ASN. Ignores a later move of the ASN to another registry. Reads no file and sends no request';

CREATE FUNCTION is_bogon_asn(asn bigint) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_bogon_asn_wrapper';
COMMENT ON FUNCTION is_bogon_asn(bigint) IS
    'true if an ASN is a bogon: the IANA registry of special-purpose AS numbers lists the ASN, for example for private use. No network on the public internet has such an ASN. The registry also lists AS112, but servers around the world announce AS112, so the result for AS112 is false';

CREATE FUNCTION mmdb_files(
    kind text, OUT kind_ text, OUT file_number integer, OUT source_path text, OUT vendor text, OUT database_type text,
    OUT build_time timestamptz, OUT ip_version integer, OUT node_count bigint, OUT loaded_at timestamptz, OUT last_error text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mmdb_files_wrapper';
COMMENT ON FUNCTION mmdb_files(text) IS
    'returns the rows of mmdb_status() for the files of one setting; the argument is ''city'', ''asn'' or ''types''';

CREATE FUNCTION mmdb_in_service(kind text) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mmdb_in_service_wrapper';
COMMENT ON FUNCTION mmdb_in_service(text) IS
    'true if an mmdb file of the kind ''city'' or ''asn'' is loaded; null for any other kind; null if the setting enabled_sources does not contain maxmind, because the extension then uses no mmdb files';

CREATE FUNCTION mmdb_status(
    OUT kind text, OUT file_number integer, OUT source_path text, OUT vendor text, OUT database_type text,
    OUT build_time timestamptz, OUT ip_version integer, OUT node_count bigint, OUT loaded_at timestamptz, OUT last_error text)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT f.* FROM (VALUES ('city'), ('asn'), ('types')) k(kind) CROSS JOIN LATERAL @extschema@.mmdb_files(k.kind) f
    $$;
COMMENT ON FUNCTION mmdb_status() IS
    'state of the mmdb files: one row for each file that the settings city_database, asn_database and ip_type_databases name; each row has the loaded file, its load time, and the reason if the extension refused a newer file';

CREATE FUNCTION ip_type_entries(
    ip inet, OUT type text, OUT list text, OUT provider text, OUT region text, OUT service text,
    OUT published_at timestamptz, OUT is_usable boolean)
    RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 2 AS 'MODULE_PATHNAME', 'ip_type_entries_wrapper';
COMMENT ON FUNCTION ip_type_entries(inet) IS
    'types of an address, such as VPN or TOR, in the mmdb files of the setting ip_type_databases. One row for each entry of a list. is_usable is false if the list is older than ip_type_max_age allows. The extension ignores lists that are not usable';

CREATE FUNCTION contains_benign_scanner(prefix cidr) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'contains_benign_scanner_wrapper';
COMMENT ON FUNCTION contains_benign_scanner(cidr) IS
    'true if a list in the mmdb files of the setting ip_type_databases says that an address of the prefix belongs to a known research scanner (SCANNER_BENIGN); lists older than ip_type_max_age are ignored';

CREATE FUNCTION ip_type_lists(
    OUT list text, OUT type text, OUT published_at timestamptz, OUT max_age_seconds bigint, OUT is_usable boolean,
    OUT entries bigint, OUT notice text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE ROWS 20 AS 'MODULE_PATHNAME', 'ip_type_lists_wrapper';
COMMENT ON FUNCTION ip_type_lists() IS
    'lists in the loaded mmdb files of the setting ip_type_databases; each row has the type, time, number of entries and required copyright notice of the list, and the maximum age that ip_type_max_age sets';

CREATE FUNCTION reload_mmdb() RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reload_mmdb_wrapper';
COMMENT ON FUNCTION reload_mmdb() IS
    'load the mmdb files that the settings city_database, asn_database and ip_type_databases name, if the files have changed; if a file is unusable, raises an error and keeps the previously loaded file in use';
