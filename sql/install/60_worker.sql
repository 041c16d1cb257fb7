-- Functions and views about the workers and the providers.

CREATE FUNCTION worker_status(
    OUT role text, OUT database text, OUT pid integer, OUT state text, OUT since timestamptz,
    OUT started_at timestamptz, OUT batches bigint, OUT errors bigint)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'worker_status_wrapper';
COMMENT ON FUNCTION worker_status() IS
    'one row for each background process of the extension: its state, and the numbers of stored batches and failed steps since the process started; if the worker of a database does not run, the column "state" contains the reason';

CREATE VIEW worker_status AS SELECT * FROM @extschema@.worker_status();
COMMENT ON VIEW worker_status IS 'the rows of worker_status()';

CREATE FUNCTION provider_status(
    OUT provider text, OUT state text, OUT blocked_reason text, OUT failures bigint, OUT backoff_until timestamptz,
    OUT in_flight bigint, OUT last_success timestamptz, OUT last_failure timestamptz, OUT last_error text,
    OUT notice text, OUT quota bigint, OUT quota_left bigint, OUT quota_resets_at timestamptz,
    OUT requests bigint, OUT lookups bigint, OUT answers bigint, OUT absent bigint, OUT shared bigint,
    OUT unanswered bigint, OUT refused bigint, OUT foreign_rows bigint, OUT malformed_rows bigint,
    OUT oversized_rows bigint, OUT unreachable bigint, OUT silent bigint, OUT timed_out bigint, OUT cut_off bigint,
    OUT too_large bigint, OUT failed bigint, OUT dead_letters bigint, OUT throttled bigint, OUT unauthorized bigint,
    OUT bad_status bigint)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'provider_status_wrapper';
COMMENT ON FUNCTION provider_status() IS
    'state of each provider in the whole cluster: circuit breaker, pause, requests without an answer yet, remaining quota; also counts of requests, answers and failures since PostgreSQL started or the counters were reset';

CREATE VIEW provider_status AS SELECT * FROM @extschema@.provider_status();
COMMENT ON VIEW provider_status IS 'the rows of provider_status()';

CREATE FUNCTION resume_provider(provider text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'resume_provider_wrapper';
COMMENT ON FUNCTION resume_provider(text) IS
    'end the pause of a provider, so that the worker sends requests again; a pause begins when a provider refuses the key, demands a pause or fails; rate limit and quota still apply';

CREATE FUNCTION cymru_lookup(
    ips inet[], OUT ip_address inet, OUT asn bigint, OUT prefix cidr, OUT country text, OUT registry text,
    OUT allocation_date date, OUT asn_org text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cymru_lookup_wrapper';
COMMENT ON FUNCTION cymru_lookup(inet[]) IS
    'look up addresses at Team Cymru during the call, in batches and within the configured limits. Stores nothing. Returns nulls in all columns except ip_address if no network announces the address. The call can be cancelled';
