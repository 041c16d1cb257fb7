-- Metrics: as rows, in Prometheus' text format, and in the format of the status files.

CREATE FUNCTION enrich_metrics(OUT name text, OUT type text, OUT labels jsonb, OUT value double precision)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'enrich_metrics_wrapper';
COMMENT ON FUNCTION enrich_metrics() IS
    'every number that is measured, named and labelled as Prometheus has it, histograms as rows of _bucket, _sum and _count: of the whole cluster when the library is preloaded, else of this session; sizes of this database are counted by the call';

CREATE VIEW enrich_metrics AS SELECT * FROM @extschema@.enrich_metrics();
COMMENT ON VIEW enrich_metrics IS
    'enrich_metrics(); without preloading its counters are those of this session alone';

CREATE FUNCTION prometheus_metrics() RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'prometheus_metrics_wrapper';
COMMENT ON FUNCTION prometheus_metrics() IS
    'the same in the text format of Prometheus: of the whole cluster when the library is preloaded, else of this session';

CREATE FUNCTION status_json() RETURNS jsonb
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'status_json_wrapper';
COMMENT ON FUNCTION status_json() IS
    'what is written to the file that status_file names, as of now: a phase for each thing that goes on, with metrics, checkpoint and dead_letter';
