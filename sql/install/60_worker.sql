-- The workers and the providers.

CREATE FUNCTION worker_status(
    OUT role text, OUT database text, OUT pid integer, OUT state text, OUT since timestamptz,
    OUT started_at timestamptz, OUT batches bigint, OUT errors bigint)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'worker_status_wrapper';
COMMENT ON FUNCTION worker_status() IS
    'the launcher, the exporter where there is one, and the workers of all databases of the cluster: what they are doing, and how many batches they have written and steps have failed since they were started; a database without a worker has the reason in state';

CREATE VIEW worker_status AS SELECT * FROM @extschema@.worker_status();
COMMENT ON VIEW worker_status IS 'worker_status(), beside queue_status';

CREATE FUNCTION provider_status(
    OUT provider text, OUT state text, OUT blocked_reason text, OUT failures bigint, OUT backoff_until timestamptz,
    OUT in_flight bigint, OUT last_success timestamptz, OUT last_failure timestamptz, OUT last_error text,
    OUT notice text, OUT quota bigint, OUT quota_left bigint, OUT quota_resets_at timestamptz,
    OUT requests bigint, OUT questions bigint, OUT answers bigint, OUT absent bigint, OUT shared bigint,
    OUT unanswered bigint, OUT refused bigint, OUT foreign_rows bigint, OUT malformed_rows bigint,
    OUT oversized_rows bigint, OUT unreachable bigint, OUT silent bigint, OUT timed_out bigint, OUT cut_off bigint,
    OUT too_large bigint, OUT failed bigint, OUT dead_letters bigint, OUT throttled bigint, OUT unauthorized bigint,
    OUT bad_status bigint)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'provider_status_wrapper';
COMMENT ON FUNCTION provider_status() IS
    'how each provider is doing, across the cluster: its circuit breaker (closed, open, half-open), what else keeps it from being asked, requests under way, what is left of its daily quota, and, since the server was started or the counters were reset, what was asked and answered, what was dropped, and how requests failed';

CREATE VIEW provider_status AS SELECT * FROM @extschema@.provider_status();
COMMENT ON VIEW provider_status IS 'provider_status(), beside queue_status';

CREATE FUNCTION resume_provider(provider text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'resume_provider_wrapper';
COMMENT ON FUNCTION resume_provider(text) IS
    'ask a provider again that refused the key, asked for a rest or failed, without waiting any longer; rate and quota stay';

CREATE FUNCTION cymru_lookup(
    ips inet[], OUT ip_address inet, OUT asn bigint, OUT prefix cidr, OUT country text, OUT registry text,
    OUT allocation_date date, OUT asn_org text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cymru_lookup_wrapper';
COMMENT ON FUNCTION cymru_lookup(inet[]) IS
    'ask Team Cymru now, in batches and within the limits of the settings; keeps nothing; nulls where nobody announces an address; can be cancelled';
