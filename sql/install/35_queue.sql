-- The queue contains lookups at providers. A lookup begins as a request, and ends with an answer or as a dead letter.
--
-- A transaction appends requests without waiting. The worker creates jobs from many requests at a time. A job is one
-- lookup at one provider, with the addresses that wait for the answer. When the worker claims a job, it sets the due
-- time of the job to the end of a lease. If the worker is killed, the job falls due again when the lease ends.
--
-- A lookup has a kind and a lookup key. The lookup key alone identifies the lookup, because each kind of lookup key has
-- its own form. A host is an address without a mask, a prefix always has a mask, and a network is a number without dots
-- or colons. If the lookup key is a host or a prefix, addresses wait for the answer. If the lookup key is a network,
-- the answer belongs to the network's row in asn_inventory.
--
-- A transaction locks jobs first, in the order of their lookup keys, and then rows of the inventories. Lookup keys are
-- compared by their bytes (COLLATE "C"), so that the order is the same in every database.

CREATE FUNCTION providers(OUT provider text, OUT title text) RETURNS SETOF record
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'providers_wrapper';
COMMENT ON FUNCTION providers() IS
    'names of the providers, which are the sources that the worker queries over the internet';

CREATE FUNCTION is_provider(name text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_provider_wrapper';
COMMENT ON FUNCTION is_provider(text) IS 'true if providers() returns a provider of this name';

CREATE FUNCTION may_be_asked(provider text, ip inet) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'may_be_asked_wrapper';
COMMENT ON FUNCTION may_be_asked(text, inet) IS
    'true if a provider can look up an address. False for a bogon. False for an IPv6 address if the provider supports only IPv4. For the provider ''greynoise'', also false for a known research scanner. The files of ip_type_databases list such scanners as SCANNER_BENIGN';

CREATE FUNCTION lookup_key_of(provider text, ip inet, OUT lookup_kind text, OUT lookup_key text)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'lookup_key_of_wrapper';
COMMENT ON FUNCTION lookup_key_of(text, inet) IS
    'lookup_kind and lookup_key of the job that looks up an address at a provider; for the provider ''cymru'', the key is the /24 or /48 prefix of the address, because longer prefixes are not routed globally; for other providers, the key is the address';

CREATE FUNCTION is_lookup_key(lookup_kind text, lookup_key text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_lookup_key_wrapper';
COMMENT ON FUNCTION is_lookup_key(text, text) IS
    'true if a lookup key has the format that its kind requires: for the kind ''host'', an address as host(inet) returns it; for ''prefix'', a cidr value that is not a single address; for ''asn'', decimal digits';

CREATE FUNCTION is_source_fresh(
    enrichment jsonb, source text, value_lifetime integer, absent_lifetime integer) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_source_fresh_wrapper';
COMMENT ON FUNCTION is_source_fresh(jsonb, text, integer, integer) IS
    'true if the answer of a source in an enrichment document has not expired; an answer with data expires after value_lifetime seconds; an answer without data expires after absent_lifetime seconds';

CREATE FUNCTION is_source_open(enrichment jsonb, source text, again boolean) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_source_open_wrapper';
COMMENT ON FUNCTION is_source_open(jsonb, text, boolean) IS
    'true if, according to an enrichment document, a source has neither answered nor failed; with again => true, also true if the source had no data and the time "retry_after" in the key "_meta" has passed';

CREATE FUNCTION has_sessions_since_skip(
    enrichment jsonb, source text, session_count bigint, last_seen timestamptz) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'has_sessions_since_skip_wrapper';
COMMENT ON FUNCTION has_sessions_since_skip(jsonb, text, bigint, timestamptz) IS
    'true if an enrichment document says that a lookup was skipped, and the address has had a session since then; cancel_requests() skips the lookups that it removes; enrich_ips() skips lookups at providers that its argument "sources" omits';

CREATE TABLE enrichment_request (
    ip_address   inet CHECK (ip_address = canonical_address(ip_address)),
    provider     text NOT NULL CHECK (is_provider(provider)),
    priority     integer NOT NULL DEFAULT 0,
    requested_at timestamptz NOT NULL DEFAULT now(),
    asn_number   bigint CHECK (asn_number BETWEEN 1 AND 4294967295),
    CONSTRAINT enrichment_request_target_check CHECK (pg_catalog.num_nonnulls(ip_address, asn_number) = 1)
);
-- The table has no primary key, like the tables of pending counts. Without a replica identity, the server would refuse
-- the extension's deletes if the table is in a publication FOR ALL TABLES.
ALTER TABLE enrichment_request REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('enrichment_request', '');
COMMENT ON TABLE enrichment_request IS
    'requested lookups: for each request, the worker creates a job in enrichment_job and deletes the request; several requests for the same lookup lead to one job';
COMMENT ON COLUMN enrichment_request.ip_address IS
    'address to look up, without a netmask; an IPv4-mapped IPv6 address is stored as IPv4, as in ip_inventory.ip_address; null if the request is about a network';
COMMENT ON COLUMN enrichment_request.asn_number IS 'ASN of the network to look up; null if the request is about an address';
COMMENT ON COLUMN enrichment_request.priority IS
    'priority of the lookup; the worker sends lookups with a higher priority first';

CREATE FUNCTION request_appended() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'request_appended_wrapper';
COMMENT ON FUNCTION request_appended() IS
    'trigger on INSERT into enrichment_request and on DELETE from suspended_owner: wakes the worker when the transaction commits';
-- This is a row trigger. A statement trigger would also fire for a statement of the extension that inserts no request.
CREATE TRIGGER request_appended AFTER INSERT ON enrichment_request
    FOR EACH ROW EXECUTE FUNCTION request_appended();

CREATE FUNCTION requests_removed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'requests_removed_wrapper';
COMMENT ON FUNCTION requests_removed() IS
    'trigger on DELETE from and TRUNCATE of enrichment_request: lets the extension append the same requests again. While no worker runs, the extension remembers appended requests, and appends no equal requests';
-- While no worker reads the requests, equal requests are appended only once. After a request was deleted, the same
-- request may be appended again. This trigger makes that possible.
CREATE TRIGGER requests_removed AFTER DELETE OR TRUNCATE ON enrichment_request
    FOR EACH STATEMENT EXECUTE FUNCTION requests_removed();

CREATE TABLE enrichment_job (
    provider     text NOT NULL,
    lookup_kind  text NOT NULL,
    lookup_key   text COLLATE "C" NOT NULL,
    priority     integer NOT NULL,
    due_at       timestamptz NOT NULL DEFAULT now(),
    leased_by    bigint,
    attempts     integer NOT NULL DEFAULT 0,
    failed_at    timestamptz,
    last_error   text,
    requested_at timestamptz NOT NULL,
    PRIMARY KEY (provider, lookup_key),
    CONSTRAINT enrichment_job_lookup_key_check CHECK (is_lookup_key(lookup_kind, lookup_key))
);
CREATE INDEX enrichment_job_due_idx ON enrichment_job (provider, priority DESC, due_at);
CREATE INDEX enrichment_job_leased_idx ON enrichment_job (leased_by) WHERE leased_by IS NOT NULL;
-- Each job is updated when the worker claims the job, and deleted when the job is done. So autovacuum must not wait
-- until a fifth of the table has changed.
ALTER TABLE enrichment_job SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
SELECT pg_catalog.pg_extension_config_dump('enrichment_job', '');
COMMENT ON TABLE enrichment_job IS
    'jobs, which are lookups without an answer yet: one row per provider and lookup key';
COMMENT ON COLUMN enrichment_job.lookup_kind IS
    '''asn'' if the job looks up a network. ''prefix'' if the job looks up an address at the provider ''cymru'', because an answer of Team Cymru is valid for a whole prefix. ''host'' if the job looks up an address at another provider. See lookup_key_of()';
COMMENT ON COLUMN enrichment_job.lookup_key IS
    'a host in the format of host(inet), such as 203.0.113.7 or 2001:db8::7; a prefix in the format of cidr, such as 203.0.113.0/24 or 2001:db8:1::/48; an ASN in decimal digits, such as 15169';
COMMENT ON COLUMN enrichment_job.due_at IS
    'earliest time of the next attempt: if leased_by is set, the end of the lease; otherwise, the end of the pause after a failed attempt';
COMMENT ON COLUMN enrichment_job.leased_by IS
    'id of the worker that has leased the job; a lease reserves the job for the worker until due_at; null if the job is not leased';
COMMENT ON COLUMN enrichment_job.attempts IS
    'number of failed attempts of this lookup; failures because of a provider outage or a rate limit do not count';
COMMENT ON COLUMN enrichment_job.failed_at IS
    'time of the last failed attempt; an attempt does not count if its request was postponed or never sent';

CREATE TABLE job_address (
    provider    text NOT NULL,
    ip_address  inet NOT NULL CHECK (ip_address = canonical_address(ip_address)),
    lookup_kind text NOT NULL,
    lookup_key  text COLLATE "C" NOT NULL,
    PRIMARY KEY (provider, ip_address),
    CONSTRAINT job_address_lookup_key_check CHECK (lookup_kind <> 'asn' AND is_lookup_key(lookup_kind, lookup_key))
);
CREATE INDEX job_address_lookup_key_idx ON job_address (provider, lookup_key, ip_address);
ALTER TABLE job_address SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
SELECT pg_catalog.pg_extension_config_dump('job_address', '');
COMMENT ON TABLE job_address IS
    'addresses that wait for the answer to a job in enrichment_job: one row per provider and address';
COMMENT ON COLUMN job_address.lookup_kind IS 'kind of the lookup key, as in enrichment_job.lookup_kind';
COMMENT ON COLUMN job_address.lookup_key IS 'lookup key of the job in enrichment_job whose answer the address waits for';

CREATE TABLE dead_letter (
    provider     text NOT NULL,
    ip_address   inet,
    lookup_kind  text NOT NULL,
    lookup_key   text COLLATE "C" NOT NULL,
    priority     integer NOT NULL,
    attempts     integer NOT NULL,
    last_error   text NOT NULL,
    requested_at timestamptz NOT NULL,
    died_at      timestamptz NOT NULL DEFAULT now(),
    asn_number   bigint,
    UNIQUE (provider, ip_address),
    UNIQUE (provider, asn_number),
    CONSTRAINT dead_letter_lookup_key_check CHECK (is_lookup_key(lookup_kind, lookup_key)),
    CONSTRAINT dead_letter_target_check CHECK (
        pg_catalog.num_nonnulls(ip_address, asn_number) = 1 AND (lookup_kind = 'asn') = (asn_number IS NOT NULL))
);
-- The table has no primary key, because each of its unique keys has a column that may be null. Without a replica
-- identity, the server would refuse the extension's deletes if the table is in a publication FOR ALL TABLES.
ALTER TABLE dead_letter REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('dead_letter', '');
COMMENT ON TABLE dead_letter IS
    'dead letters: lookups that failed max_attempts times and are no longer attempted, each with the last error; retry_dead_letters() queues the lookups again';
COMMENT ON COLUMN dead_letter.ip_address IS 'address of the failed lookup; null for the lookup of a network';
COMMENT ON COLUMN dead_letter.asn_number IS 'ASN of the failed lookup; null for the lookup of an address';
COMMENT ON COLUMN dead_letter.lookup_kind IS 'kind of the lookup key, as in enrichment_job.lookup_kind';
COMMENT ON COLUMN dead_letter.lookup_key IS
    'lookup key of the failed job; all addresses that waited for the same job have the same key';

CREATE TABLE block_answer (
    provider        text NOT NULL,
    prefix          cidr NOT NULL,
    asn_number      bigint,
    network_country text,
    rir_registry    text,
    network_name    text,
    document        jsonb NOT NULL,
    is_absent       boolean NOT NULL,
    asked_at        timestamptz NOT NULL,
    PRIMARY KEY (provider, prefix)
);
CREATE INDEX block_answer_asked_at_idx ON block_answer (provider, asked_at);
SELECT pg_catalog.pg_extension_config_dump('block_answer', '');
COMMENT ON TABLE block_answer IS
    'answers of a provider that are valid for a whole prefix; until an answer expires, the extension uses the answer for all addresses of the prefix, without a new request';
COMMENT ON COLUMN block_answer.prefix IS
    'prefix for which the answer is valid: normally the /24 or /48 that was looked up; if the network announces a longer prefix, the announced prefix';
COMMENT ON COLUMN block_answer.asn_number IS 'ASN of the network that announces the prefix';
COMMENT ON COLUMN block_answer.network_country IS 'two-letter code of the country where the network is registered';
COMMENT ON COLUMN block_answer.is_absent IS 'true for a negative answer: no network announces the prefix';
COMMENT ON COLUMN block_answer.document IS
    'JSON object with the keys that the answer sets in ip_inventory.enrichment for each address of the prefix: the key of the provider, and "_meta"';

CREATE TABLE provider_quota (
    provider       text NOT NULL,
    day            date NOT NULL,
    requests       bigint NOT NULL,
    cluster_spent  bigint NOT NULL,
    PRIMARY KEY (provider, day)
);
SELECT pg_catalog.pg_extension_config_dump('provider_quota', '');
COMMENT ON TABLE provider_quota IS
    'number of requests per day (UTC) to providers with a daily quota; each request is counted before it is sent';
COMMENT ON COLUMN provider_quota.requests IS 'number of requests that this database sent on this day';
COMMENT ON COLUMN provider_quota.cluster_spent IS
    'number of requests that all databases of the cluster had sent on this day when this database last wrote this row; later requests of other databases are not included, so the total of the cluster is the highest cluster_spent in any database';

CREATE FUNCTION retry_dead_letters(provider text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'retry_dead_letters_wrapper';
COMMENT ON FUNCTION retry_dead_letters(text) IS
    'queue the failed lookups (dead letters) of one provider again. If the argument is null, queue the dead letters of all providers again. Sets the number of failed attempts to 0. Returns the number of queued lookups';

CREATE FUNCTION cancel_requests(provider text, ip inet DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cancel_requests_wrapper';
COMMENT ON FUNCTION cancel_requests(text, inet) IS
    'remove the waiting lookups of one provider from the queue, including lookups for sessions. If "ip" is not null, remove only the lookup of this address. Returns the number of addresses and networks whose lookups were removed. Lookups that a worker has leased stay in the queue. The worker queues a removed lookup again only after a new session from the address or network';

CREATE VIEW queue_status AS
    SELECT p.provider,
           COALESCE(r.requests, 0) AS requested,
           COALESCE(j.jobs, 0) AS jobs,
           COALESCE(j.due, 0) AS due,
           COALESCE(j.leased, 0) AS leased,
           COALESCE(j.delayed, 0) AS delayed,
           COALESCE(a.addresses, 0) AS addresses,
           COALESCE(d.dead, 0) AS dead,
           pg_catalog.date_trunc('milliseconds', pg_catalog.clock_timestamp()
               OPERATOR(pg_catalog.-) LEAST(r.oldest, j.oldest)) AS oldest_age
    FROM @extschema@.providers() p
    LEFT JOIN (
        SELECT provider, pg_catalog.count(*) AS requests, pg_catalog.min(@extschema@.session_time(requested_at)) AS oldest
        FROM @extschema@.enrichment_request GROUP BY provider) r
      ON r.provider OPERATOR(pg_catalog.=) p.provider
    LEFT JOIN (
        SELECT provider, pg_catalog.count(*) AS jobs, pg_catalog.min(@extschema@.session_time(requested_at)) AS oldest,
               pg_catalog.count(*) FILTER (WHERE due_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()) AS due,
               pg_catalog.count(*) FILTER (WHERE due_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
                   AND leased_by IS NOT NULL) AS leased,
               pg_catalog.count(*) FILTER (WHERE due_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
                   AND leased_by IS NULL) AS delayed
        FROM @extschema@.enrichment_job GROUP BY provider) j
      ON j.provider OPERATOR(pg_catalog.=) p.provider
    LEFT JOIN (
        SELECT provider, pg_catalog.count(*) AS addresses
        FROM @extschema@.job_address GROUP BY provider) a
      ON a.provider OPERATOR(pg_catalog.=) p.provider
    LEFT JOIN (
        SELECT provider, pg_catalog.count(*) AS dead
        FROM @extschema@.dead_letter GROUP BY provider) d
      ON d.provider OPERATOR(pg_catalog.=) p.provider;
COMMENT ON VIEW queue_status IS
    'size and age of the lookup queue, one row for each provider. The column "requested" is the number of requests without a job. The column "jobs" is the number of jobs: "due" jobs can be sent now, "leased" jobs are being processed by a worker, and "delayed" jobs wait after a failure. The column "addresses" is the number of addresses that wait for an answer. The column "dead" is the number of dead letters';
