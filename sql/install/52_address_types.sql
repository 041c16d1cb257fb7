-- Types of addresses from all sources. Types from files are read from the present files in each query. The extension
-- does not store types from files, because a new file may contain other types.

CREATE FUNCTION stored_types_of(
    enrichment jsonb, OUT type text, OUT source text, OUT provider text, OUT stated_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', 'stored_types_of_wrapper';
COMMENT ON FUNCTION stored_types_of(jsonb) IS
    'types of an address in an enrichment document (a value of ip_inventory.enrichment), one row for each type and source. The column "source" is ''spur'', or ''ip_classification'' for a type that the Python system (the predecessor of the extension) determined. The column "provider" is the cloud operator that the source names';

CREATE VIEW address_types AS
    SELECT i.ip_address, t.type, t.source, false AS is_list, t.provider, NULL::text AS region, NULL::text AS service,
           t.stated_at
    FROM @extschema@.ip_inventory i
    CROSS JOIN LATERAL @extschema@.stored_types_of(i.enrichment) t
    UNION ALL
    SELECT i.ip_address, e.type, e.list, true, e.provider, e.region, e.service, e.published_at
    FROM @extschema@.ip_inventory i
    CROSS JOIN LATERAL @extschema@.ip_type_entries(i.ip_address) e
    WHERE e.is_usable;
COMMENT ON VIEW address_types IS
    'types of the addresses in ip_inventory, one row for each type that a source names; a source is the stored answer of a provider, or a list in the files of ip_type_databases; lists older than ip_type_max_age are left out';
COMMENT ON COLUMN address_types.source IS 'name of the provider, or of the list if is_list is true';
COMMENT ON COLUMN address_types.stated_at IS
    'time of the provider''s answer, or time at which the list was published';
