-- One fold at a time per database; the key is the table's own OID.
SELECT pg_advisory_xact_lock('@extschema@.session_delta'::regclass::oid::bigint)
