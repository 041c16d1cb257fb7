-- Writes the answers of a source about existing addresses. Locks the addresses in ascending order. If the caller's
-- transaction stores sessions, the Rust code adds SKIP LOCKED to the statement, because an INSERT must not wait for an
-- enrichment. A network that MaxMind names takes precedence. The network of another source is used only if MaxMind
-- names no network.
-- $1 inet[]: addresses
-- $2 bigint[]: network (ASN) of each address
-- $3 jsonb[]: new answers about each address, as parts of its document
-- $4 text: version of the layout of the documents
-- $5 text: source of the answers
WITH given AS (
    SELECT g.ip, g.asn, g.document
    FROM unnest($1, $2, $3) AS g(ip, asn, document)
), locked AS (
    SELECT i.ip_address, i.current_asn, i.session_count, i.first_seen, i.last_seen, i.enrichment
    FROM @extschema@.ip_inventory i
    WHERE i.ip_address IN (SELECT g.ip FROM given g)
    ORDER BY i.ip_address
    FOR NO KEY UPDATE
), merged AS (
    SELECT l.ip_address, l.current_asn AS old_asn,
           CASE WHEN $5 <> 'maxmind' AND l.current_asn IS NOT NULL AND l.enrichment #> '{maxmind,asn}' IS NOT NULL
                THEN l.current_asn ELSE COALESCE(g.asn, l.current_asn) END AS new_asn,
           g.asn, l.enrichment AS old_enrichment, l.session_count, l.first_seen, l.last_seen,
           @extschema@.merge_enrichment(l.enrichment, g.document) AS enrichment
    FROM locked l
    JOIN given g ON g.ip = l.ip_address
), changed AS (
    SELECT m.* FROM merged m WHERE m.new_asn IS DISTINCT FROM m.old_asn OR m.enrichment <> m.old_enrichment
), updated AS (
    UPDATE @extschema@.ip_inventory i
    SET current_asn = m.new_asn,
        asn_last_verified = CASE WHEN m.asn = m.new_asn THEN now() ELSE i.asn_last_verified END,
        enrichment = m.enrichment,
        enrichment_updated_at = now(),
        enrichment_version = $4,
        updated_at = now()
    FROM changed m
    WHERE i.ip_address = m.ip_address
    RETURNING i.ip_address, i.current_asn, i.enrichment
), moved AS (
    SELECT m.* FROM merged m WHERE m.new_asn IS DISTINCT FROM m.old_asn
), history AS (
    -- Uses the current time, because the row is locked now. The start time of the transaction could be older than the last entry of
    -- the history.
    INSERT INTO @extschema@.ip_asn_history (ip_address, asn_number, observed_at, verification_source)
    SELECT m.ip_address, m.new_asn, clock_timestamp(), $5
    FROM moved m
    ON CONFLICT DO NOTHING
), counted AS (
    INSERT INTO @extschema@.network_delta (asn_number, addresses, sessions, first_seen, last_seen)
    SELECT m.old_asn, -1, -m.session_count, NULL, NULL FROM moved m WHERE m.old_asn IS NOT NULL
    UNION ALL
    SELECT m.new_asn, 1, m.session_count, m.first_seen, m.last_seen FROM moved m
)
SELECT u.ip_address, u.current_asn, u.enrichment FROM updated u
