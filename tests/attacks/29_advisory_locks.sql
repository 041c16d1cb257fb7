-- alice takes every advisory lock whose key the extension's processes show in pg_locks, and a million locks of both kinds
-- with small keys. Success: addresses, folds, backfills or completions wait for her.
-- as postgres
CREATE TABLE public.seen (classid oid, objid oid, objsubid int2);
GRANT SELECT ON public.seen TO alice;
INSERT INTO bo.sess (id, ip) SELECT i, ('61.1.' || i || '.7')::inet FROM generate_series(1, 50) i;
INSERT INTO public.seen SELECT classid, objid, objsubid FROM pg_locks WHERE locktype = 'advisory';
-- as alice
DO $$ BEGIN
    PERFORM pg_advisory_lock(i) FROM generate_series(0, 500) i;
    PERFORM pg_advisory_lock(0, i) FROM generate_series(0, 500) i;
    PERFORM pg_advisory_lock(oid::int, 0), pg_advisory_lock(0, oid::int), pg_advisory_lock(oid::bigint)
        FROM pg_class WHERE relnamespace IN ('enrich'::regnamespace, 'bo'::regnamespace);
    PERFORM pg_advisory_lock(classid::int, objid::int), pg_advisory_lock((classid::bigint << 32) | objid::bigint) FROM public.seen;
END $$;
-- as bob
INSERT INTO bo.sess (id, ip) VALUES (1000, '61.0.0.7');
-- wait (SELECT snapshot_asn IS NOT NULL FROM bo.sess WHERE id = 1000)
-- wait (SELECT session_count = 1 FROM enrich.ip_inventory WHERE ip_address = '61.0.0.7')
-- as bob
CALL enrich.backfill_sessions('bo.sess');
SELECT 'safe';
