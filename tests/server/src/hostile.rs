//! Creates objects that an attacker could create: the server might find such an object instead of a function or an
//! operator of the extension. All code in these objects leaves a trace.

use crate::session::Session;

/// Creates a function that records its caller in sequences, because a rollback does not undo changes of sequences.
/// There is one sequence for the attacker and one for all other roles. Every role may call the function.
pub fn create_trap(session: &mut Session, attacker: &str) {
    session.run(&format!(
        "CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC;
         CREATE SEQUENCE trap.own; CREATE SEQUENCE trap.others; GRANT ALL ON ALL SEQUENCES IN SCHEMA trap TO PUBLIC;
         CREATE FUNCTION trap.visited() RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN
             IF current_user OPERATOR(pg_catalog.<>) '{attacker}'::name THEN
                 RAISE LOG 'the trap ran as %', current_user;
             END IF;
             PERFORM pg_catalog.nextval(CASE WHEN current_user OPERATOR(pg_catalog.=) '{attacker}'::name
                 THEN 'trap.own'::pg_catalog.regclass ELSE 'trap.others'::pg_catalog.regclass END);
             RETURN true;
         END $$"
    ));
}

/// An SQL condition that is true if the code of a table runs in a background process, as the owner of the table. In the
/// foreground the condition is false, because the tests insert as a superuser.
pub const IN_BACKGROUND: &str = "current_user <> 'postgres'";

/// A statement of PL/pgSQL that does not end when it is cancelled.
pub const LOOPS: &str =
    "LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;";

/// Creates a table of an owner, in a schema with the owner's name, and attaches it. The columns of the table are `id`,
/// `ip` and `t`.
pub fn attach(session: &mut Session, role: &str, table: &str) {
    session.run(&format!(
        "CREATE TABLE {role}.{table} (id int, ip inet, t timestamptz DEFAULT now());
         ALTER TABLE {role}.{table} OWNER TO {role};
         SELECT enrich.attach_session_table('{role}.{table}', 'ip', 't')"
    ));
}

/// Creates a function of an owner, in a schema with the owner's name. The function returns true. In the background it
/// runs `body` first.
pub fn create_check(session: &mut Session, role: &str, name: &str, body: &str) {
    session.run(&format!(
        "CREATE FUNCTION {role}.{name}(anything text) RETURNS boolean LANGUAGE plpgsql AS $check$
         DECLARE
             n numeric := pg_catalog.repeat('9', 60000)::numeric;
         BEGIN
             IF {IN_BACKGROUND} THEN
                 {body}
             END IF;
             RETURN true;
         END $check$;
         ALTER FUNCTION {role}.{name}(text) OWNER TO {role}"
    ));
}

/// Adds a constraint to a table of the owner. The constraint calls a function of [`create_check`] for each changed
/// row.
pub fn constrain(session: &mut Session, role: &str, table: &str, check: &str) {
    session.run(&format!(
        "ALTER TABLE {role}.{table} ADD CONSTRAINT theirs CHECK ({role}.{check}(snapshot_country)) NOT VALID"
    ));
}

/// Returns true if code of the trap ran with the rights of another role than the attacker.
pub fn is_sprung(session: &mut Session) -> bool {
    session.one("SELECT is_called FROM trap.others") == "t"
}

/// Returns true if the code ran as the attacker, which shows that the trap works.
pub fn is_armed(session: &mut Session) -> bool {
    session.one("SELECT is_called FROM trap.own") == "t"
}

/// Creates hostile operators with the names of the operators that the extension's statements use. There is one operator
/// for each pair of types. For a pair for which the server has no operator, the server would convert the types. If it
/// searches this schema, it prefers the hostile operator.
pub fn create_operators(session: &mut Session, schema: &str) {
    session.run(&format!(
        "DO $do$
         DECLARE
             l text; r text; op text;
         BEGIN
             FOREACH l IN ARRAY '{{inet,cidr,text,varchar,name,\"char\",bigint,integer,smallint,numeric,oid,regclass,regproc,regtype,jsonb,timestamptz,date,interval,boolean}}'::text[] LOOP
                 FOREACH r IN ARRAY '{{inet,cidr,text,varchar,name,\"char\",bigint,integer,smallint,numeric,oid,regclass,regproc,regtype,jsonb,timestamptz,date,interval,boolean}}'::text[] LOOP
                     EXECUTE format('CREATE FUNCTION {schema}.hostile(a %s, b %s) RETURNS boolean LANGUAGE plpgsql AS
                         $f$ BEGIN RETURN trap.visited(); END $f$', l, r);
                     FOREACH op IN ARRAY '{{=,<>,<,>,<=,>=,~,||,->,->>,-,+,*,/}}'::text[] LOOP
                         EXECUTE format('CREATE OPERATOR {schema}.%s (leftarg = %s, rightarg = %s, function = {schema}.hostile)', op, l, r);
                     END LOOP;
                 END LOOP;
             END LOOP;
         END $do$"
    ));
}

/// Creates functions that have the names of the extension's functions and fit some calls better. Such a function lacks
/// the arguments that have defaults, or has one argument of a closer type. Returns the number of the functions.
pub fn create_overloads(session: &mut Session, schema: &str) -> i64 {
    session.number(&format!(
        "CREATE FUNCTION pg_temp.overload() RETURNS bigint LANGUAGE plpgsql AS $do$
         DECLARE
             ours record; nearer record; types text[]; made bigint := 0; n int;
             PROCEDURE_OR_FUNCTION text;
         BEGIN
             FOR ours IN
                 SELECT p.oid, p.proname, p.prokind, p.pronargs, p.pronargdefaults,
                        CASE WHEN p.proretset THEN 'SETOF ' ELSE '' END
                            || CASE WHEN p.prorettype = 'void'::regtype THEN 'text' ELSE p.prorettype::regtype::text END AS result,
                        ARRAY(SELECT t::regtype::text FROM unnest(p.proargtypes) t) AS types
                 FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                 JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'cowrie_enrich'
                 WHERE p.pronargs > 0
             LOOP
                 FOR n IN ours.pronargs - ours.pronargdefaults .. ours.pronargs - 1 LOOP
                     PERFORM pg_temp.hostile_function(ours.prokind, ours.proname, ours.types[1:n], ours.result);
                     made := made + 1;
                 END LOOP;
                 FOR nearer IN
                     SELECT o.n, t.other FROM unnest(ours.types) WITH ORDINALITY o(type, n)
                     JOIN (VALUES ('text', 'varchar'), ('text', 'bpchar'), ('text', 'name'), ('inet', 'cidr'), ('inet', 'text'), ('inet', 'varchar'),
                                  ('bigint', 'integer'), ('integer', 'smallint'), ('integer', 'bigint'), ('jsonb', 'text'), ('name', 'text'),
                                  ('name', 'varchar'), ('regclass', 'oid'), ('regclass', 'text'), ('inet[]', 'text[]')) t(type, other) USING (type)
                 LOOP
                     types := ours.types;
                     types[nearer.n] := nearer.other;
                     CONTINUE WHEN to_regprocedure(format('{schema}.%I(%s)', ours.proname, array_to_string(types, ','))) IS NOT NULL;
                     PERFORM pg_temp.hostile_function(ours.prokind, ours.proname, types, ours.result);
                     made := made + 1;
                 END LOOP;
             END LOOP;
             RETURN made;
         END $do$;
         CREATE FUNCTION pg_temp.hostile_function(kind \"char\", name name, types text[], result text) RETURNS void LANGUAGE plpgsql AS $do$
         BEGIN
             IF to_regprocedure(format('{schema}.%I(%s)', name, array_to_string(types, ','))) IS NOT NULL THEN
                 RETURN;
             END IF;
             EXECUTE format('CREATE %s {schema}.%I(%s) %s LANGUAGE plpgsql %s AS $f$ BEGIN PERFORM trap.visited(); %s END $f$',
                 CASE kind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, name, array_to_string(types, ','),
                 CASE kind WHEN 'p' THEN '' ELSE 'RETURNS ' || result END,
                 CASE kind WHEN 'p' THEN '' ELSE 'IMMUTABLE' END,
                 CASE WHEN kind = 'p' OR result LIKE 'SETOF%' THEN '' ELSE 'RETURN NULL;' END);
         END $do$;
         SELECT pg_temp.overload()"
    ))
}

/// Creates temporary tables and types with the names that the extension's functions use.
pub fn create_temporary_shadows(session: &mut Session) {
    session.run(
        "CREATE TEMP TABLE ip_inventory (LIKE enrich.ip_inventory);
         CREATE TEMP TABLE asn_inventory (LIKE enrich.asn_inventory);
         CREATE TEMP TABLE session_delta (LIKE enrich.session_delta);
         CREATE TEMP TABLE known_networks (asn_number int, asn_type text);
         CREATE TEMP TABLE pg_class (oid oid, relname text);
         CREATE TEMP TABLE pg_trigger (oid oid);
         CREATE TEMP TABLE pg_namespace (oid oid, nspname text);
         CREATE TEMP TABLE pg_extension (oid oid);
         CREATE DOMAIN pg_temp.inet AS text CHECK (trap.visited());
         CREATE DOMAIN pg_temp.text AS varchar CHECK (trap.visited());
         CREATE DOMAIN pg_temp.jsonb AS text CHECK (trap.visited());
         CREATE DOMAIN pg_temp.bigint AS int CHECK (trap.visited());
         CREATE DOMAIN pg_temp.regclass AS text CHECK (trap.visited())",
    );
}
