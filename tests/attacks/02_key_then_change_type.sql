-- alice gets a key on an inet column, then changes the type of the column to her own type with an implicit cast.
-- Success: a key of another type than inet, or her cast runs as the extension's owner.
-- as alice
CREATE TYPE al.evil AS ENUM ('a');
CREATE FUNCTION al.evil_to_inet(al.evil) RETURNS inet LANGUAGE plpgsql AS $$
BEGIN PERFORM al.note('cast'); RETURN '8.8.8.8'::inet; END $$;
CREATE CAST (al.evil AS inet) WITH FUNCTION al.evil_to_inet(al.evil) AS IMPLICIT;
CREATE TABLE al.k (a inet);
SELECT enrich.create_address_key('al.k', 'a');
-- fails
ALTER TABLE al.k ALTER a TYPE al.evil USING 'a'::al.evil;
CREATE DOMAIN al.dom AS inet CHECK (al.note('domain ' || VALUE::text));
-- fails
ALTER TABLE al.k ALTER a TYPE al.dom;
-- fails
CREATE TABLE al.k2 (LIKE al.k INCLUDING ALL);
-- fails
CREATE TABLE al.child (a al.dom) INHERITS (al.k);
-- fails
INSERT INTO al.k VALUES ('8.8.8.8');
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice')
    AND NOT EXISTS (SELECT FROM enrich.unsafe_foreign_keys)
    THEN 'safe' ELSE 'broken' END;
