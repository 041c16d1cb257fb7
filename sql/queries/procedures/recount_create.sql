-- Temporary table for the sums of sessions, until they are compared.
CREATE TEMPORARY TABLE cowrie_enrich_counted (
    ip_address inet NOT NULL,
    sessions   bigint NOT NULL,
    first_seen timestamptz,
    last_seen  timestamptz
) ON COMMIT DROP
