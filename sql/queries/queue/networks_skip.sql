-- Records that lookups of these networks were cancelled, by an entry in the document of each network. Locks the networks in the
-- order of their ASNs. A sweep queues the lookup again after the next session of the network. An earlier answer remains in the
-- document. src/document/skipped.rs describes the format of the entry.
-- $1 bigint[]: ASNs of the networks
-- $2 text: name of the provider
-- $3 text: time when the lookup was cancelled, as text
WITH locked AS (
    SELECT n.asn_number
    FROM @extschema@.asn_inventory n
    WHERE n.asn_number = ANY ($1)
    ORDER BY n.asn_number
    FOR NO KEY UPDATE
)
UPDATE @extschema@.asn_inventory n
SET enrichment = n.enrichment || jsonb_build_object('_meta', COALESCE(n.enrichment -> '_meta', '{}')
        || jsonb_build_object($2, COALESCE(n.enrichment #> ARRAY['_meta', $2], '{}')
            || jsonb_build_object('state', 'skipped', 'skipped_at', $3, 'sessions', n.total_session_count))),
    lookup_queued_at = COALESCE(n.lookup_queued_at, now()),
    updated_at = now()
FROM locked l
WHERE n.asn_number = l.asn_number
