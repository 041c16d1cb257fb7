-- Creates the temporary table for the numbers of sessions that a recount has counted, until they are compared with the
-- stored counts.
CREATE TEMPORARY TABLE cowrie_enrich_counted (
    ip_address inet NOT NULL,
    sessions   bigint NOT NULL,
    first_seen timestamptz,
    last_seen  timestamptz
) ON COMMIT DROP
