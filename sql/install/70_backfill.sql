-- Procedures that process sessions which were stored before their table was attached, and that count all sessions
-- again.

CREATE PROCEDURE backfill_sessions(rel regclass, batch_size integer DEFAULT 10000, progress boolean DEFAULT true)
    LANGUAGE c AS 'MODULE_PATHNAME', 'backfill_sessions_wrapper';
COMMENT ON PROCEDURE backfill_sessions(regclass, integer, boolean) IS
    'process all sessions of an attached table: add their addresses and networks to the inventories, fill null snapshot columns, and count the sessions; commits after each batch; after an interrupted call, the next call continues at the last commit';

CREATE PROCEDURE add_session_foreign_key(rel regclass)
    LANGUAGE c AS 'MODULE_PATHNAME', 'add_session_foreign_key_wrapper';
COMMENT ON PROCEDURE add_session_foreign_key(regclass) IS
    'add a foreign key from an attached table to ip_inventory, without blocking writers. The foreign key is first NOT VALID. The procedure then validates the key if the addresses of all sessions are in ip_inventory. Otherwise the key stays NOT VALID, and rejected_row lists up to 1000 sessions with missing addresses';

CREATE PROCEDURE refresh_session_counts()
    LANGUAGE c AS 'MODULE_PATHNAME', 'refresh_session_counts_wrapper';
COMMENT ON PROCEDURE refresh_session_counts() IS
    'recount the sessions of all attached tables and the addresses of all networks, and correct the counts in the inventories';
