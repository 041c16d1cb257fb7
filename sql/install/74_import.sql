-- Importing an installation of the Python system.

CREATE PROCEDURE import_inventory(source_schema name)
    LANGUAGE c AS 'MODULE_PATHNAME', 'import_inventory_wrapper';
COMMENT ON PROCEDURE import_inventory(name) IS
    'imports the data of cowrieprocessor, the Python system that this extension replaces; the argument names the schema with the tables asn_inventory, ip_inventory, ip_asn_history and session_summaries; rejected_row lists rows that could not be used';
