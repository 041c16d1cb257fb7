-- Functions that look up lists of addresses. They write nothing and send no request to a provider, so they also work on
-- a standby.

CREATE FUNCTION lookup_ips(
    addresses text[], OUT line integer, OUT input text, OUT ip_address inet, OUT error text, OUT is_bogon boolean,
    OUT bogon_reason text, OUT ip_types text[], OUT country text, OUT region text, OUT city text, OUT latitude float8,
    OUT longitude float8, OUT asn_number bigint, OUT organization_name text, OUT asn_type text, OUT rir_registry text,
    OUT is_scanner boolean, OUT is_known boolean, OUT session_count bigint, OUT first_seen timestamptz,
    OUT last_seen timestamptz)
    RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'lookup_ips_wrapper';
COMMENT ON FUNCTION lookup_ips(text[]) IS
    'looks up a list of addresses in the mmdb files and the inventories. Returns one row for each line of the list, in the same order. For an invalid line, the column "error" contains the reason. Writes nothing and sends no requests. Runs with the caller''s privileges';
