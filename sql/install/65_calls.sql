-- Calls of procedures that process whole tables in batches, with one transaction for each batch. The objects of this
-- file show the process that runs a call, the progress of the call, and its last result.

CREATE TABLE procedure_call (
    procedure        text NOT NULL,
    relation         oid NOT NULL,
    lock_kind        smallint NOT NULL,
    pid              integer NOT NULL,
    phase            text NOT NULL,
    done             bigint NOT NULL DEFAULT 0,
    total            bigint NOT NULL DEFAULT 0,
    started_at       timestamptz NOT NULL,
    phase_started_at timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    ended_at         timestamptz,
    result           jsonb,
    succeeded_at     timestamptz,
    resume_at        jsonb,
    PRIMARY KEY (procedure, relation)
);
-- A dump contains no rows of this table, because a running call belongs to a process of this server, and the OIDs of
-- tables differ between databases.
SELECT pg_catalog.pg_extension_config_dump('procedure_call', 'WHERE false');
COMMENT ON TABLE procedure_call IS
    'last call of each procedure that works in batches, such as backfill_sessions(): one row for each procedure and processed table; the view enrich_progress shows running calls';
COMMENT ON COLUMN procedure_call.relation IS
    'OID of the table that the procedure processes; 0 if the procedure processes ip_inventory and asn_inventory instead';
COMMENT ON COLUMN procedure_call.lock_kind IS
    'a running call of the procedure holds an advisory lock; this number is objsubid of the lock in pg_locks';
COMMENT ON COLUMN procedure_call.done IS
    'number of finished items in the current phase at the last commit of the call; the column "total" is the number of all items of the phase';
COMMENT ON COLUMN procedure_call.ended_at IS
    'end of the call; null while the call runs; stays null if the call failed or was killed';
COMMENT ON COLUMN procedure_call.result IS
    'JSON object with the numbers that the procedure reported at its end, for example the number of processed rows';
COMMENT ON COLUMN procedure_call.resume_at IS
    'position at which the next call continues; null if the last call finished';
COMMENT ON COLUMN procedure_call.succeeded_at IS
    'end of the last call that did not fail; null if every call failed';

CREATE VIEW enrich_progress AS
    SELECT c.procedure, NULLIF(c.relation, 0::pg_catalog.oid)::pg_catalog.regclass AS relation, l.pid, c.phase, c.done, c.total,
           pg_catalog.round(c.done OPERATOR(pg_catalog./) NULLIF(t.seconds, 0::pg_catalog.numeric), 1) AS rate,
           c.started_at, c.phase_started_at, c.updated_at,
           -- Limits the remaining time to a century. Otherwise a jump of the system clock could cause an out-of-range
           -- error.
           CASE WHEN c.done OPERATOR(pg_catalog.>) 0 THEN c.updated_at OPERATOR(pg_catalog.+) pg_catalog.make_interval(
               secs => LEAST(t.seconds OPERATOR(pg_catalog.*) GREATEST(c.total OPERATOR(pg_catalog.-) c.done, 0)
                        OPERATOR(pg_catalog./) c.done, 3155760000)::double precision) END AS estimated_end
    FROM @extschema@.procedure_call c
    JOIN pg_catalog.pg_locks l
      ON l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted
     AND l.classid OPERATOR(pg_catalog.=) '@extschema@.procedure_call'::pg_catalog.regclass
     AND l.objid OPERATOR(pg_catalog.=) c.relation
     AND l.objsubid OPERATOR(pg_catalog.=) c.lock_kind
    JOIN pg_catalog.pg_database d
      ON d.oid OPERATOR(pg_catalog.=) l.database AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
    CROSS JOIN LATERAL (
        SELECT (EXTRACT(epoch FROM c.updated_at OPERATOR(pg_catalog.-) c.phase_started_at)) AS seconds) t
    WHERE c.ended_at IS NULL AND c.pid OPERATOR(pg_catalog.=) l.pid;
COMMENT ON VIEW enrich_progress IS
    'running calls of procedures that work in batches: phase, progress, rate per second, and estimated end of the phase';

CREATE TABLE rejected_row (
    procedure   text NOT NULL,
    relation    text NOT NULL,
    row_key     text NOT NULL,
    reason      text NOT NULL,
    content     text,
    rejected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (procedure, relation, row_key, reason)
);
SELECT pg_catalog.pg_extension_config_dump('rejected_row', '');
COMMENT ON TABLE rejected_row IS
    'rows of other tables that a procedure rejected, or used only in part, each with the reason; you can delete rows from rejected_row';
COMMENT ON COLUMN rejected_row.relation IS 'table that contains the rejected row';
COMMENT ON COLUMN rejected_row.row_key IS
    'key of the rejected row; if the table of the row has no key, the ctid of the row';
COMMENT ON COLUMN rejected_row.content IS 'the invalid values of the rejected row, shortened';
