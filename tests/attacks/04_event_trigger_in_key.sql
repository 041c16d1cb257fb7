-- A superuser's event trigger calls a function of alice. The functions that create keys run commands as the extension's owner.
-- dbo, the owner of the database, tries to create an event trigger. Success: the event trigger exists.
-- as dbo
CREATE SCHEMA db_own;
CREATE FUNCTION db_own.spy() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM al.note('event trigger'); END $$;
-- fails
CREATE EVENT TRIGGER spy ON ddl_command_start EXECUTE FUNCTION db_own.spy();
-- as alice
CREATE TABLE al.k (a inet);
SELECT enrich.create_address_key('al.k', 'a');
SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_event_trigger) AND NOT EXISTS (SELECT FROM al.loot) THEN 'safe' ELSE 'broken' END;
