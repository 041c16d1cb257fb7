-- An old installation granted REFERENCES. Alice creates keys with a domain, an enum, text with a cast, NOT VALID, on partitions and to networks.
-- Success: a key of another type is not in unsafe_foreign_keys, or the worker continues with one.
-- as postgres
GRANT REFERENCES ON enrich.ip_inventory, enrich.asn_inventory TO alice;
-- as alice
CREATE TYPE al.evil AS ENUM ('a');
CREATE FUNCTION al.evil_to_inet(al.evil) RETURNS inet LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('cast'); RETURN '8.8.8.8'::inet; END $$;
CREATE CAST (al.evil AS inet) WITH FUNCTION al.evil_to_inet(al.evil) AS IMPLICIT;
CREATE FUNCTION al.evil_to_big(al.evil) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('cast'); RETURN 1; END $$;
CREATE CAST (al.evil AS bigint) WITH FUNCTION al.evil_to_big(al.evil) AS IMPLICIT;
CREATE DOMAIN al.dom AS inet CHECK (al.note('domain'));
CREATE TABLE al.k1 (a al.evil REFERENCES enrich.ip_inventory (ip_address));
CREATE TABLE al.k2 (a al.dom REFERENCES enrich.ip_inventory (ip_address));
CREATE TABLE al.k3 (a al.evil);
ALTER TABLE al.k3 ADD CONSTRAINT nv FOREIGN KEY (a) REFERENCES enrich.ip_inventory (ip_address) NOT VALID;
CREATE TABLE al.k4 (a al.evil, b int REFERENCES enrich.asn_inventory (asn_number)) PARTITION BY LIST (b);
CREATE TABLE al.k4p PARTITION OF al.k4 FOR VALUES IN (1);
ALTER TABLE al.k4 ADD FOREIGN KEY (a) REFERENCES enrich.asn_inventory (asn_number);
CREATE TABLE al.k5 (a inet REFERENCES enrich.ip_inventory (ip_address));
ALTER TABLE al.k5 ALTER a TYPE al.evil USING 'a'::al.evil;
-- as bob
INSERT INTO bo.sess (id, ip) VALUES (1, '61.0.0.7');
-- wait EXISTS (SELECT FROM enrich.worker_status w WHERE w::text LIKE '%foreign key%') OR EXISTS (SELECT FROM enrich.worker_status w WHERE w::text LIKE '%unsafe%')
SELECT CASE WHEN (SELECT count(DISTINCT rel) FROM enrich.unsafe_foreign_keys WHERE rel::text IN ('al.k1', 'al.k2', 'al.k3', 'al.k4', 'al.k5')) = 5 THEN 'safe' ELSE 'broken' END;
