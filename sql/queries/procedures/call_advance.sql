-- How far a call is. $1 procedure text, $2 relation oid, $3 phase text, $4 done bigint, $5 total bigint, $6 resume at jsonb
UPDATE @extschema@.procedure_call c
SET phase = $3, done = $4, total = $5, updated_at = clock_timestamp(), resume_at = COALESCE($6, c.resume_at),
    phase_started_at = CASE WHEN c.phase = $3 THEN c.phase_started_at ELSE clock_timestamp() END
WHERE c.procedure = $1 AND c.relation = $2
