-- Reason why sessions of a table are not completed: a trigger that would run code of a third role.
-- $1 regclass: the table
SELECT b.reason FROM @extschema@.blocked_session_tables b WHERE b.rel = $1 ORDER BY b.trigger_name LIMIT 1
