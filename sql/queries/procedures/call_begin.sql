-- Stores the start of a procedure call. If an earlier call of the procedure did not finish, returns the position at
-- which that call stopped.
-- $1 text: name of the procedure
-- $2 oid: OID of the table that the procedure processes, or 0
-- $3 bigint: kind of the advisory lock that the call holds
-- $4 text: name of the phase
INSERT INTO @extschema@.procedure_call AS c (
    procedure, relation, lock_kind, pid, phase, started_at, phase_started_at, updated_at)
SELECT $1, $2, $3, pg_backend_pid(), $4, clock_timestamp(), clock_timestamp(), clock_timestamp()
ON CONFLICT (procedure, relation) DO UPDATE
SET lock_kind = excluded.lock_kind, pid = excluded.pid, phase = excluded.phase, done = 0, total = 0,
    started_at = excluded.started_at, phase_started_at = excluded.phase_started_at, updated_at = excluded.updated_at,
    ended_at = NULL, result = NULL, resume_at = CASE WHEN c.ended_at IS NULL THEN c.resume_at END
RETURNING c.resume_at
