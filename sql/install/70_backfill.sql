-- Sessions that were there before their table was attached, and counts that were.

CREATE PROCEDURE backfill_sessions(rel regclass, batch_size integer DEFAULT 10000, progress boolean DEFAULT true)
    LANGUAGE c AS 'MODULE_PATHNAME', 'backfill_sessions_wrapper';
COMMENT ON PROCEDURE backfill_sessions(regclass, integer, boolean) IS
    'fill the inventories from all sessions of an attached table, complete their snapshots, and count them; commits after each batch, and goes on where a killed call stopped';

CREATE PROCEDURE refresh_session_counts()
    LANGUAGE c AS 'MODULE_PATHNAME', 'refresh_session_counts_wrapper';
COMMENT ON PROCEDURE refresh_session_counts() IS
    'recount the sessions of all attached tables, and the addresses of all networks, and correct the inventories where they differ';
