-- Returns the reason why the sessions of a table are not completed. The reason names a trigger that would run code of a
-- third role. A third role is not the table's owner, the extension's owner or a superuser.
-- $1 regclass: the table
SELECT b.reason FROM @extschema@.blocked_session_tables b WHERE b.rel = $1 ORDER BY b.trigger_name LIMIT 1
