-- Merges imported values into existing addresses that the caller has locked. The period from first_seen to last_seen
-- can only grow. Imported parts of the document are added to the stored document, or replace the stored parts. The
-- stored parts that $12 and $13 name are kept. Each element of $12 and $13 is a JSON object with one key for each part
-- that is kept.
-- $1 inet[]: addresses
-- $2 bigint[]: network (ASN) of each address
-- $3 timestamptz[]: time when a source last confirmed the network of each address
-- $4 timestamptz[]: first_seen of each address
-- $5 timestamptz[]: last_seen of each address
-- $6 jsonb[]: enrichment document of each address
-- $7 jsonb[]: states of the sources of each address, for the key _meta
-- $8 timestamptz[]: time of the last update of each address
-- $9 timestamptz[]: time when each address was created
-- $10 text: version of the layout of the documents
-- $11 boolean[]: for each address, true if the imported network replaces the stored one
-- $12 jsonb[]: for each address, the keys of the stored document that are kept
-- $13 jsonb[]: for each address, the sources whose stored states are kept
WITH given AS (
    SELECT *
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $11, $12, $13) AS g(
        ip, asn, verified, first_seen, last_seen, document, states, updated, created, moves, stands, states_stand)
), ours AS (
    SELECT i.ip_address, i.current_asn, i.asn_last_verified, i.session_count, i.enrichment,
           CASE WHEN jsonb_typeof(i.enrichment) = 'object' THEN i.enrichment ELSE '{}' END AS document,
           CASE WHEN jsonb_typeof(i.enrichment -> '_meta') = 'object' THEN i.enrichment -> '_meta' ELSE '{}' END AS states
    FROM @extschema@.ip_inventory i
    WHERE i.ip_address = ANY ($1)
), merged AS (
    SELECT o.ip_address, o.current_asn AS old_asn, o.session_count,
           CASE WHEN g.moves THEN g.asn ELSE o.current_asn END AS new_asn,
           CASE WHEN g.moves THEN g.verified
                WHEN g.asn = o.current_asn THEN GREATEST(o.asn_last_verified, g.verified)
                ELSE o.asn_last_verified END AS verified,
           g.first_seen, g.last_seen, g.updated, g.created,
           o.document
               || (g.document - '_meta' - ARRAY(SELECT jsonb_object_keys(g.stands)))
               || jsonb_build_object('_meta', o.states
                   || ((CASE WHEN jsonb_typeof(g.document -> '_meta') = 'object' THEN g.document -> '_meta' ELSE '{}' END || g.states)
                       - ARRAY(SELECT jsonb_object_keys(g.states_stand)))) AS enrichment
    FROM ours o
    JOIN given g ON g.ip = o.ip_address
), updated AS (
    UPDATE @extschema@.ip_inventory i
    SET current_asn = m.new_asn,
        asn_last_verified = m.verified,
        first_seen = LEAST(@extschema@.session_time(i.first_seen), m.first_seen),
        last_seen = GREATEST(@extschema@.session_time(i.last_seen), m.last_seen),
        enrichment = m.enrichment,
        enrichment_updated_at = GREATEST(i.enrichment_updated_at, m.updated),
        enrichment_version = $10,
        created_at = LEAST(i.created_at, m.created),
        updated_at = now()
    FROM merged m
    WHERE i.ip_address = m.ip_address
      AND (m.new_asn, m.verified, LEAST(@extschema@.session_time(i.first_seen), m.first_seen),
           GREATEST(@extschema@.session_time(i.last_seen), m.last_seen), m.enrichment,
           GREATEST(i.enrichment_updated_at, m.updated), LEAST(i.created_at, m.created))
          IS DISTINCT FROM
          (i.current_asn, i.asn_last_verified, i.first_seen, i.last_seen, i.enrichment, i.enrichment_updated_at, i.created_at)
    RETURNING i.ip_address, i.first_seen, i.last_seen
), moved AS (
    SELECT m.ip_address, m.old_asn, m.new_asn, m.verified, m.session_count, u.first_seen, u.last_seen
    FROM merged m
    JOIN updated u ON u.ip_address = m.ip_address
    WHERE m.new_asn IS DISTINCT FROM m.old_asn
), history AS (
    INSERT INTO @extschema@.ip_asn_history (ip_address, asn_number, observed_at, verification_source)
    SELECT m.ip_address, m.new_asn, COALESCE(m.verified, m.first_seen, now()), 'import'
    FROM moved m
    ON CONFLICT DO NOTHING
), counted AS (
    INSERT INTO @extschema@.network_delta (asn_number, addresses, sessions, first_seen, last_seen)
    SELECT m.old_asn, -1, -m.session_count, NULL, NULL FROM moved m WHERE m.old_asn IS NOT NULL
    UNION ALL
    SELECT m.new_asn, 1, m.session_count, m.first_seen, m.last_seen FROM moved m
)
SELECT u.ip_address FROM updated u
