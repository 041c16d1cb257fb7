-- Sessions whose null snapshot columns may still be filled, and the processes that fill these columns.
--
-- A commit appends to incomplete_session without waiting. The worker moves these rows into session_completion. A process that runs
-- as the owner of the session table leases the rows that are due, completes the sessions, and stores the outcome in the leased
-- rows.
--
-- A transaction locks rows of session_completion after jobs, networks and addresses, and in the order of their primary
-- keys. While a process runs code of a table's owner, the process holds no lock on these tables.

CREATE TABLE incomplete_session (
    rel           regclass NOT NULL,
    ip_address    inet NOT NULL,
    lacks_network boolean NOT NULL DEFAULT true,
    lacks_country boolean NOT NULL DEFAULT true,
    lacks_ip_type boolean NOT NULL DEFAULT true
);
-- The table has no primary key, like the tables of pending counts. Without a replica identity, the server would refuse
-- the extension's deletes if the table is in a publication FOR ALL TABLES.
ALTER TABLE incomplete_session REPLICA IDENTITY FULL;
-- A dump leaves out the rows of dropped session tables. In the database into which the dump is restored, another table
-- may have the OID of a dropped table.
SELECT pg_catalog.pg_extension_config_dump('incomplete_session', 'WHERE rel IN (SELECT oid FROM pg_catalog.pg_class)');
COMMENT ON TABLE incomplete_session IS
    'tables and addresses of new sessions that have null snapshot columns; the worker moves these rows to session_completion';
COMMENT ON COLUMN incomplete_session.rel IS 'table that holds the session; for a partitioned table, the partition';
COMMENT ON COLUMN incomplete_session.ip_address IS
    'address without a netmask; an IPv4-mapped IPv6 address is stored as IPv4, as in ip_inventory.ip_address';
COMMENT ON COLUMN incomplete_session.lacks_network IS 'true if snapshot_asn of the session was null';
COMMENT ON COLUMN incomplete_session.lacks_country IS 'true if snapshot_country of the session was null';
COMMENT ON COLUMN incomplete_session.lacks_ip_type IS
    'true if snapshot_ip_type of the session was null while a source of address types, such as ''spur'', was enabled';

CREATE TABLE session_completion (
    ip_address    inet NOT NULL,
    rel           regclass NOT NULL,
    due_at        timestamptz,
    leased_by     bigint,
    is_renewed    boolean NOT NULL DEFAULT false,
    attempts      integer NOT NULL DEFAULT 0,
    pending_since timestamptz,
    last_error    text,
    PRIMARY KEY (ip_address, rel)
);
CREATE INDEX session_completion_due_idx ON session_completion (rel, due_at) WHERE due_at IS NOT NULL;
-- A row is updated each time a process visits the sessions of its address, and deleted when all these sessions are
-- complete. So autovacuum must not wait until a fifth of the table has changed.
ALTER TABLE session_completion SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
SELECT pg_catalog.pg_extension_config_dump('session_completion', 'WHERE rel IN (SELECT oid FROM pg_catalog.pg_class)');
COMMENT ON TABLE session_completion IS
    'sessions whose null snapshot columns the extension can still fill: one row for each pair of an address and a table with such sessions';
COMMENT ON COLUMN session_completion.ip_address IS
    'address without a netmask; an IPv4-mapped IPv6 address is stored as IPv4, as in ip_inventory.ip_address';
COMMENT ON COLUMN session_completion.rel IS 'table that holds the sessions; for a partitioned table, the partition';
COMMENT ON COLUMN session_completion.due_at IS
    'earliest time of the next attempt to fill the null snapshot columns. While leased_by is set, the end of the lease. After a failed attempt, the end of the pause. Null while the row waits for an answer or a backfill';
COMMENT ON COLUMN session_completion.leased_by IS
    'id of the background process that has reserved (leased) this row until due_at; the process runs with the rights of the owner of the session table; null if the row is not leased';
COMMENT ON COLUMN session_completion.is_renewed IS
    'true if another answer about the address, or another session from the address, arrived during the lease; another attempt then follows at once';
COMMENT ON COLUMN session_completion.attempts IS
    'number of consecutive failed attempts; an attempt also fails if the sessions are locked; each failure lengthens the pause before the next attempt and reduces the batch size';
COMMENT ON COLUMN session_completion.pending_since IS
    'time at which an attempt to fill the null snapshot columns became possible; failed attempts do not change this time; null while due_at is null';
COMMENT ON COLUMN session_completion.last_error IS
    'why the last attempt did not fill the null snapshot columns; null if the last attempt filled them, or if there was no attempt';

CREATE TABLE suspended_owner (
    owner        name PRIMARY KEY,
    suspended_at timestamptz NOT NULL DEFAULT now(),
    reason       text NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('suspended_owner', '');
COMMENT ON TABLE suspended_owner IS
    'suspended owners of session tables. A role is suspended if its code, for example a trigger, did not stop when it was cancelled, or repeatedly ended its process. The extension runs no code of a suspended role. resume_owner() ends the suspension';
COMMENT ON COLUMN suspended_owner.owner IS 'role that owns session tables and is suspended';
COMMENT ON COLUMN suspended_owner.reason IS 'reason for the suspension, for example that a trigger did not end after its cancellation';
CREATE TRIGGER owner_resumed AFTER DELETE ON suspended_owner
    FOR EACH ROW EXECUTE FUNCTION request_appended();

CREATE FUNCTION resume_owner(owner name) RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        WITH delayed AS MATERIALIZED (
            SELECT p.ip_address, p.rel
            FROM @extschema@.session_completion p
            JOIN pg_class c ON c.oid = p.rel
            JOIN pg_roles r ON r.oid = c.relowner AND r.rolname = $1
            WHERE p.due_at > now() AND p.leased_by IS NULL
            ORDER BY p.ip_address, p.rel
            FOR UPDATE OF p
        ), due AS (
            UPDATE @extschema@.session_completion p
            SET due_at = now(), attempts = 0
            FROM delayed d
            WHERE p.ip_address = d.ip_address AND p.rel = d.rel
        ), resumed AS (
            DELETE FROM @extschema@.suspended_owner s WHERE s.owner = $1 RETURNING 1
        )
        SELECT count(*) > 0 FROM resumed
    $$;
COMMENT ON FUNCTION resume_owner(name) IS
    'end the suspension of a table owner. Before the call, repair the code of this role, for example triggers. After the call, the extension fills null snapshot columns in tables of this role without further delay. Returns true if the role was suspended';

CREATE FUNCTION abandoned_processes() RETURNS integer
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'abandoned_processes_wrapper';
COMMENT ON FUNCTION abandoned_processes() IS
    'number of background processes of this database that still run code of a table owner, for example a trigger, after the worker cancelled the code';

-- The view has one row for each table, because the reason depends on the table and not on the address.
CREATE VIEW completion_status AS
    SELECT q.rel,
           pg_catalog.pg_get_userbyid(c.relowner) AS owner,
           q.waiting, q.due, q.leased, q.delayed,
           pg_catalog.date_trunc('milliseconds', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) q.oldest) AS oldest_age,
           CASE
               WHEN q.oldest IS NULL THEN NULL
               WHEN c.oid IS NULL THEN 'the table does not exist any more'
               WHEN s.owner IS NOT NULL THEN pg_catalog.concat('the owner is suspended: ', s.reason)
               WHEN root.relowner OPERATOR(pg_catalog.<>) c.relowner THEN 'the partition and its partitioned table have different owners'
               WHEN NOT EXISTS (
                   SELECT FROM pg_catalog.pg_index i
                   JOIN pg_catalog.pg_depend d
                     ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid OPERATOR(pg_catalog.=) i.indexrelid
                    AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
                    AND d.refobjid OPERATOR(pg_catalog.=) '@extschema@.parsed_address'::pg_catalog.regtype::pg_catalog.oid
                   WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisvalid)
                   THEN 'the table has no valid index of sessions with null snapshot columns; call attach_session_table() again with the same arguments'
               WHEN q.due OPERATOR(pg_catalog.+) q.delayed OPERATOR(pg_catalog.=) 0 THEN NULL
               WHEN b.reason IS NOT NULL THEN b.reason
               WHEN @extschema@.abandoned_processes() OPERATOR(pg_catalog.>) 2
                   THEN 'code of three table owners did not end after it was cancelled, so the extension starts no further code of table owners'
               WHEN q.delayed OPERATOR(pg_catalog.>) 0 AND q.due OPERATOR(pg_catalog.=) 0
                   THEN COALESCE(q.last_error, 'the sessions were locked, or the UPDATE of the sessions failed; see the server log for the error')
               ELSE 'waiting for a process that runs as the table owner, or for a free slot of max_worker_processes'
           END AS blocked_reason
    FROM (
        SELECT p.rel, pg_catalog.count(*) AS waiting,
               pg_catalog.count(*) FILTER (WHERE p.due_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()) AS due,
               pg_catalog.count(*) FILTER (WHERE p.due_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
                   AND p.leased_by IS NOT NULL) AS leased,
               pg_catalog.count(*) FILTER (WHERE p.due_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
                   AND p.leased_by IS NULL) AS delayed,
               pg_catalog.min(p.pending_since) AS oldest,
               pg_catalog.max(p.last_error) AS last_error
        FROM @extschema@.session_completion p GROUP BY p.rel) q
    LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) q.rel::pg_catalog.oid
    LEFT JOIN pg_catalog.pg_class root
      ON root.oid OPERATOR(pg_catalog.=) COALESCE(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, c.oid)
    LEFT JOIN @extschema@.suspended_owner s ON s.owner OPERATOR(pg_catalog.=) pg_catalog.pg_get_userbyid(c.relowner)
    LEFT JOIN LATERAL (
        SELECT t.reason FROM @extschema@.blocked_session_tables t
        WHERE t.rel::pg_catalog.oid OPERATOR(pg_catalog.=) c.oid
        ORDER BY t.trigger_name LIMIT 1) b ON true;
COMMENT ON VIEW completion_status IS
    'tables with sessions whose null snapshot columns are not filled yet, one row for each table. The column "waiting" is the number of addresses of these sessions. The columns "due", "leased" and "delayed" are parts of this number. oldest_age is the longest wait since an answer arrived. blocked_reason says why the extension does not fill the nulls now';
