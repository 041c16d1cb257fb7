-- Stores the end of a procedure call.
-- $1 text: name of the procedure
-- $2 oid: OID of the table that the procedure processes, or 0
-- $3 jsonb: numbers of the final report
UPDATE @extschema@.procedure_call c
SET updated_at = clock_timestamp(), ended_at = clock_timestamp(), succeeded_at = clock_timestamp(), result = $3,
    resume_at = NULL
WHERE c.procedure = $1 AND c.relation = $2
