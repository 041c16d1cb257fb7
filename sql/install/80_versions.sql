-- Functions about versions. An upgrade changes the installed files, the library in the running server, and the SQL
-- objects at different times, so their versions can differ.

CREATE FUNCTION library_version() RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'library_version_wrapper';
COMMENT ON FUNCTION library_version() IS
    'version of the library cowrie_enrich that this database session has loaded; pg_extension.extversion is the version of the SQL objects in this database';

CREATE FUNCTION require_library(version text) RETURNS void
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'require_library_wrapper';
COMMENT ON FUNCTION require_library(text) IS
    'raise an error if the library cowrie_enrich that this database session has loaded is older than the given version; each update script calls this function first';
