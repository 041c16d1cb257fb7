-- Stores the progress of a procedure call.
-- $1 text: name of the procedure
-- $2 oid: OID of the table that the procedure processes, or 0
-- $3 text: name of the phase
-- $4 bigint: number of finished items in the phase
-- $5 bigint: number of all items in the phase
-- $6 jsonb: position at which the next call resumes, or null to leave it unchanged
UPDATE @extschema@.procedure_call c
SET phase = $3, done = $4, total = $5, updated_at = clock_timestamp(), resume_at = COALESCE($6, c.resume_at),
    phase_started_at = CASE WHEN c.phase = $3 THEN c.phase_started_at ELSE clock_timestamp() END
WHERE c.procedure = $1 AND c.relation = $2
