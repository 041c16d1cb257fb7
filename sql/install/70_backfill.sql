-- Processing of sessions that were stored before their table was attached, and recounting.

CREATE PROCEDURE backfill_sessions(rel regclass, batch_size integer DEFAULT 10000, progress boolean DEFAULT true)
    LANGUAGE c AS 'MODULE_PATHNAME', 'backfill_sessions_wrapper';
COMMENT ON PROCEDURE backfill_sessions(regclass, integer, boolean) IS
    'fill the inventories from all sessions of an attached table, complete their snapshots, and count them; commits after each batch, and goes on where a killed call stopped';

CREATE PROCEDURE add_session_foreign_key(rel regclass)
    LANGUAGE c AS 'MODULE_PATHNAME', 'add_session_foreign_key_wrapper';
COMMENT ON PROCEDURE add_session_foreign_key(regclass) IS
    'have the sessions of an attached table point at ip_inventory: added NOT VALID, orphans reported, then validated; no writer is locked out';

CREATE PROCEDURE refresh_session_counts()
    LANGUAGE c AS 'MODULE_PATHNAME', 'refresh_session_counts_wrapper';
COMMENT ON PROCEDURE refresh_session_counts() IS
    'recount the sessions of all attached tables, and the addresses of all networks, and correct the inventories where they differ';
