-- Whether nobody else is folding in this database, and then nobody will until this transaction ends.
SELECT pg_try_advisory_xact_lock('@extschema@.session_delta'::regclass::oid::bigint)
