-- Triggers for restoring a dump. CREATE EXTENSION creates the foreign key from addresses to networks, so this foreign
-- key exists before the first row is restored. If pg_restore runs several jobs, they load tables in any order, so an
-- address may be restored before its network. In this case a trigger creates a row for the network, which has only the
-- ASN. The row from the dump later replaces this row. The triggers recognise pg_restore by its application_name. Any
-- client can set this name, so the triggers fire only for a superuser.

CREATE FUNCTION addresses_restored() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Parallel jobs of pg_restore may be loading networks now. This lock waits until these jobs have finished. If another job
    -- starts to load networks afterwards, that job waits for this transaction.
    LOCK TABLE @extschema@.asn_inventory IN SHARE ROW EXCLUSIVE MODE;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION addresses_restored() IS
    'trigger on ip_inventory: makes parallel jobs of pg_restore load ip_inventory and asn_inventory one after the other';
CREATE TRIGGER addresses_restored BEFORE INSERT ON ip_inventory
    FOR EACH STATEMENT
    WHEN (current_setting('application_name') = 'pg_restore' AND current_setting('is_superuser') = 'on')
    EXECUTE FUNCTION addresses_restored();

CREATE FUNCTION address_restored() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.asn_inventory (asn_number) VALUES (NEW.current_asn) ON CONFLICT DO NOTHING;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION address_restored() IS
    'trigger on ip_inventory: when pg_restore loads an address whose network is missing, creates a row for the network with only the AS number';
CREATE TRIGGER address_restored BEFORE INSERT ON ip_inventory
    FOR EACH ROW
    WHEN (NEW.current_asn IS NOT NULL
          AND current_setting('application_name') = 'pg_restore' AND current_setting('is_superuser') = 'on')
    EXECUTE FUNCTION address_restored();

CREATE FUNCTION network_restored() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.asn_inventory n
    SET (organization_name, organization_country, rir_registry, allocated_on, as_name, lookup_queued_at, asn_type, is_known_hosting, is_known_vpn, first_seen, last_seen,
         unique_ip_count, total_session_count, enrichment, enrichment_updated_at, created_at, updated_at)
        = (NEW.organization_name, NEW.organization_country, NEW.rir_registry, NEW.allocated_on, NEW.as_name,
           NEW.lookup_queued_at, NEW.asn_type, NEW.is_known_hosting,
           NEW.is_known_vpn, NEW.first_seen, NEW.last_seen, NEW.unique_ip_count, NEW.total_session_count, NEW.enrichment,
           NEW.enrichment_updated_at, NEW.created_at, NEW.updated_at)
    WHERE n.asn_number = NEW.asn_number AND n.organization_name IS NULL AND n.first_seen IS NULL
      AND n.enrichment = '{}' AND n.unique_ip_count = 0 AND n.total_session_count = 0;
    RETURN CASE WHEN FOUND THEN NULL ELSE NEW END;
END
$$;
COMMENT ON FUNCTION network_restored() IS
    'trigger on asn_inventory: when pg_restore loads a network for which a row with only the AS number exists, fills this row; address_restored() creates such rows';
CREATE TRIGGER network_restored BEFORE INSERT ON asn_inventory
    FOR EACH ROW
    WHEN (pg_trigger_depth() = 0
          AND current_setting('application_name') = 'pg_restore' AND current_setting('is_superuser') = 'on')
    EXECUTE FUNCTION network_restored();

-- A worker starts as soon as the extension is created. So the worker may store the spent quota of today before
-- pg_restore loads the rows of this table. In this case the trigger combines the worker's row with the restored row.
CREATE FUNCTION quota_restored() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.provider_quota AS q (provider, day, requests, cluster_spent)
    VALUES (NEW.provider, NEW.day, NEW.requests, NEW.cluster_spent)
    ON CONFLICT (provider, day) DO UPDATE
    SET requests = q.requests + excluded.requests, cluster_spent = GREATEST(q.cluster_spent, excluded.cluster_spent);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION quota_restored() IS
    'trigger on provider_quota: if a day already has a row, adds the number of requests that pg_restore loads to the number in this row';
CREATE TRIGGER quota_restored BEFORE INSERT ON provider_quota
    FOR EACH ROW
    WHEN (pg_trigger_depth() = 0
          AND current_setting('application_name') = 'pg_restore' AND current_setting('is_superuser') = 'on')
    EXECUTE FUNCTION quota_restored();

-- The leases in a dump belong to a worker of another database. When the worker of this database starts, it ends the leases of other
-- workers. But it may start before the jobs are restored. So the trigger ends the leases of restored jobs.
CREATE FUNCTION job_restored() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.leased_by := NULL;
    NEW.due_at := pg_catalog.now();
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION job_restored() IS
    'trigger on enrichment_job: ends the lease of a job that pg_restore loads, because the lease belonged to a worker of the dumped database; the job can then be sent at once';
CREATE TRIGGER job_restored BEFORE INSERT ON enrichment_job
    FOR EACH ROW
    WHEN (NEW.leased_by IS NOT NULL
          AND current_setting('application_name') = 'pg_restore' AND current_setting('is_superuser') = 'on')
    EXECUTE FUNCTION job_restored();
