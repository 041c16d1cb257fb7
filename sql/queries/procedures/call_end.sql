-- Stores the end of a call.
-- $1 text: procedure
-- $2 oid: relation
-- $3 jsonb: result
UPDATE @extschema@.procedure_call c
SET updated_at = clock_timestamp(), ended_at = clock_timestamp(), succeeded_at = clock_timestamp(), result = $3,
    resume_at = NULL
WHERE c.procedure = $1 AND c.relation = $2
