-- Functions that return the metrics as rows, in the text format of Prometheus, and in the format of the status files.

CREATE FUNCTION enrich_metrics(OUT name text, OUT type text, OUT labels jsonb, OUT value double precision)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'enrich_metrics_wrapper';
COMMENT ON FUNCTION enrich_metrics() IS
    'all metrics of the extension, with their Prometheus names and labels; counters cover the whole cluster if shared_preload_libraries contains cowrie_enrich, otherwise only the current database session; the call measures sizes, such as numbers of rows, in the current database';

CREATE VIEW enrich_metrics AS SELECT * FROM @extschema@.enrich_metrics();
COMMENT ON VIEW enrich_metrics IS
    'the rows of enrich_metrics(); the counters cover the whole cluster if shared_preload_libraries contains cowrie_enrich, otherwise only the current database session';

CREATE FUNCTION prometheus_metrics() RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'prometheus_metrics_wrapper';
COMMENT ON FUNCTION prometheus_metrics() IS
    'the metrics of enrich_metrics() in the text format of Prometheus; the counters cover the whole cluster if shared_preload_libraries contains cowrie_enrich, otherwise only the current database session';

CREATE FUNCTION status_json() RETURNS jsonb
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'status_json_wrapper';
COMMENT ON FUNCTION status_json() IS
    'current content of the file that the setting status_file names, as JSON; the object of each phase (kind of work of the extension) has the keys "metrics", "checkpoint" and "dead_letter"';
