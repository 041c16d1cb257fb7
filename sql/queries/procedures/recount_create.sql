-- Creates a temporary table. A recount stores the number of sessions of each address in this table, and later compares
-- these numbers with the stored counts.
CREATE TEMPORARY TABLE cowrie_enrich_counted (
    ip_address inet NOT NULL,
    sessions   bigint NOT NULL,
    first_seen timestamptz,
    last_seen  timestamptz
) ON COMMIT DROP
