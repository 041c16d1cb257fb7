ANALYZE @extschema@.enrichment_job, @extschema@.job_address
