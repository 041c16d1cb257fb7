-- Stores the progress of a call.
-- $1 text: procedure
-- $2 oid: relation
-- $3 text: phase
-- $4 bigint: done
-- $5 bigint: total
-- $6 jsonb: resume at
UPDATE @extschema@.procedure_call c
SET phase = $3, done = $4, total = $5, updated_at = clock_timestamp(), resume_at = COALESCE($6, c.resume_at),
    phase_started_at = CASE WHEN c.phase = $3 THEN c.phase_started_at ELSE clock_timestamp() END
WHERE c.procedure = $1 AND c.relation = $2
