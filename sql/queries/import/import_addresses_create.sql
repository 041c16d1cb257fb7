-- Creates those imported addresses that ip_inventory does not contain, in ascending order. Adds the new addresses to
-- the counts of their networks. If a new address has no imported history, adds one row to its history.
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
WITH created AS (
    INSERT INTO @extschema@.ip_inventory AS i (
        ip_address, current_asn, asn_last_verified, first_seen, last_seen,
        enrichment, enrichment_updated_at, enrichment_version, created_at)
    SELECT g.ip, g.asn, CASE WHEN g.asn IS NOT NULL THEN g.verified END, g.first_seen, g.last_seen,
           g.document || jsonb_build_object('_meta',
               CASE WHEN jsonb_typeof(g.document -> '_meta') = 'object' THEN g.document -> '_meta' ELSE '{}' END || g.states),
           g.updated, $10, COALESCE(g.created, now())
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) AS g(
        ip, asn, verified, first_seen, last_seen, document, states, updated, created)
    WHERE NOT EXISTS (SELECT FROM @extschema@.ip_inventory i WHERE i.ip_address = g.ip)
    ORDER BY g.ip
    ON CONFLICT (ip_address) DO NOTHING
    RETURNING i.ip_address, i.current_asn, i.asn_last_verified, i.first_seen, i.last_seen
), history AS (
    INSERT INTO @extschema@.ip_asn_history (ip_address, asn_number, observed_at, verification_source)
    SELECT c.ip_address, c.current_asn, COALESCE(c.asn_last_verified, c.first_seen, now()), 'import'
    FROM created c
    WHERE c.current_asn IS NOT NULL
      AND NOT EXISTS (SELECT FROM @extschema@.ip_asn_history h WHERE h.ip_address = c.ip_address)
    ON CONFLICT DO NOTHING
), counted AS (
    INSERT INTO @extschema@.network_delta (asn_number, addresses, sessions, first_seen, last_seen)
    SELECT c.current_asn, count(*), 0, min(c.first_seen), max(c.last_seen)
    FROM created c
    WHERE c.current_asn IS NOT NULL
    GROUP BY c.current_asn
)
SELECT c.ip_address FROM created c
