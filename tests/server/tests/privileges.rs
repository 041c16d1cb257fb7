//! Least privilege: what a role without grants can do, and attacks by objects in the schema of such a role.

use server_tests::database::bare_database;
use server_tests::hosts::COWRIE;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, database, shared};

/// The functions that every role may call. These functions read the server's files and constants. They read no table
/// with the caller's privileges, and write nothing.
const OFFLINE: &[&str] = &[
    "announced_prefix",
    "asn_registry",
    "attribution_change_between",
    "bogon_reason",
    "canonical_address",
    "classify_asn",
    "classify_name",
    "contains_benign_scanner",
    "contains_bogon",
    "document_time",
    "geo_country_of",
    "has_sessions_since_skip",
    "ip_asn",
    "ip_asn_org",
    "ip_city",
    "ip_country",
    "ip_location",
    "ip_registered_country",
    "ip_type_entries",
    "ip_type_lists",
    "ip_types_of",
    "is_benign_of",
    "is_bogon",
    "is_bogon_asn",
    "is_bogon_of",
    "is_lookup_key",
    "is_provider",
    "is_scanner_of",
    "is_source_fresh",
    "is_source_open",
    "is_source_stale",
    "library_version",
    "lock_session_table",
    "lookup_key_of",
    "maxmind_lookup",
    "may_be_asked",
    "mmdb_in_service",
    "network_kind",
    "networks_of_benign_scanners",
    "networks_within",
    "parsed_address_in",
    "parsed_address_out",
    "prefix_size",
    "providers",
    "require_library",
    "seen_over",
    "session_address",
    "session_table_findings",
    "session_time",
    "sessions_wait_for_types",
    "stored_types_of",
];

#[test]
fn a_role_that_may_only_insert_has_its_sessions_enriched() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let honeypot = db.create_role("honeypot");
    db.run(&format!("GRANT INSERT ON sessions TO {honeypot}"));
    let mut session = db.session_as(&honeypot);
    session.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    session.run(&COWRIE.insert(&[("b", Some("48.0.0.1")), ("c", Some("not an ip"))]));
    session.run(&format!(
        "BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; COMMIT",
        COWRIE.insert(&[("d", Some("1.1.1.1"))]),
        COWRIE.insert(&[("e", Some("1.1.1.2"))])
    ));
    session.copy("sessions (id, starttime, ip)", "f\t2024-05-01\t89.160.20.1\n");
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_eq!(COWRIE.snapshot(&mut db, "d"), "13335|AU|NULL");
    assert_eq!(COWRIE.snapshot(&mut db, "f"), "29518|SE|NULL");
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 4);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    for table in ["ip_inventory", "asn_inventory", "session_delta", "enrichment_request"] {
        let refusal = session.refused(&format!("SELECT * FROM enrich.{table}"));
        assert_eq!(refusal.code, "42501", "{table}");
    }
}

/// Revokes more privileges than hardening guides recommend: PUBLIC has no privilege on objects of the extension.
const HARDEN: &str = "
    DO $$
    DECLARE
        member record;
    BEGIN
        FOR member IN
            SELECT y.oid::regtype AS name
            FROM pg_type y
            JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = y.oid AND d.deptype = 'e'
            JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'cowrie_enrich'
            -- Array types and row types are members in newer versions. They have no privileges of their own.
            WHERE y.typelem = 0 AND y.typrelid = 0
        LOOP
            EXECUTE format('REVOKE ALL ON TYPE %s FROM PUBLIC', member.name);
        END LOOP;
    END $$;
    REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA enrich FROM PUBLIC;
    REVOKE ALL ON ALL TABLES IN SCHEMA enrich FROM PUBLIC;
    REVOKE ALL ON SCHEMA enrich FROM PUBLIC;";

/// Addresses as a client writes them: in the mmdb files, unknown, empty, malformed.
const WRITTEN: &[&str] =
    &["'8.8.8.8'", "'48.0.0.1'", "' ::FFFF:8.8.8.8 '", "''", "'not an ip'", "NULL", "repeat(md5('x'), 9)"];

#[test]
fn sessions_are_stored_by_a_role_without_any_privilege_on_the_extension() {
    let mut db = database();
    let (owner, honeypot) = (db.create_role("owner"), db.create_role("honeypot"));
    db.run(&format!(
        "GRANT USAGE ON SCHEMA enrich TO {owner};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA enrich TO {owner};
         GRANT SELECT ON enrich.attached_tables TO {owner};
         CREATE SCHEMA pot AUTHORIZATION {owner};
         GRANT USAGE ON SCHEMA pot TO {honeypot}"
    ));
    // The owner is not a superuser. The foreign key needs a column of type inet.
    let mut owns = db.session_as(&owner);
    let columns = "id serial, ip {}, seen timestamptz DEFAULT now()";
    let mut tables = Vec::new();
    for (n, address_type) in ["text", "varchar(300)", "char(300)", "inet", "inet"].into_iter().enumerate() {
        let columns = columns.replace("{}", address_type);
        owns.run(&format!(
            "CREATE TABLE pot.plain{n} ({columns});
             CREATE TABLE pot.child{n} () INHERITS (pot.plain{n});
             CREATE TABLE pot.parted{n} ({columns}) PARTITION BY RANGE (seen);
             CREATE TABLE pot.part{n} PARTITION OF pot.parted{n} DEFAULT"
        ));
        for table in [format!("pot.plain{n}"), format!("pot.parted{n}")] {
            owns.run(&format!("SELECT enrich.attach_session_table('{table}', 'ip', 'seen', {})", n == 4));
            owns.run(&format!("SELECT enrich.index_session_table('{table}')"));
        }
        tables.extend(["plain", "child", "parted"].map(|name| (format!("pot.{name}{n}"), address_type)));
    }
    owns.run(&format!(
        "GRANT INSERT, SELECT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pot TO {honeypot};
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA pot TO {honeypot}"
    ));
    db.run(HARDEN);
    let may_use_type = format!("SELECT has_type_privilege('{honeypot}', 'enrich.parsed_address', 'USAGE')");
    assert_eq!(db.one(&may_use_type), "f");
    let mut session = db.session_as(&honeypot);
    assert_eq!(session.refused("SELECT enrich.session_address('8.8.8.8'::text)").code, "42501");
    for (table, address_type) in &tables {
        let is_inet = *address_type == "inet";
        let unparsable = |written: &str| {
            is_inet && ["''", "'not", "repe"].iter().any(|begins| written.starts_with(begins))
        };
        for written in WRITTEN.iter().copied().filter(|written| !unparsable(written)) {
            let written = if is_inet { written.replace(' ', "") } else { written.to_owned() };
            for statement in [
                format!("INSERT INTO {table} (ip) VALUES ({written})"),
                format!("UPDATE {table} SET ip = {written}"),
                format!("UPDATE {table} SET ip = '139.59.0.1'"),
            ] {
                if let Err(refusal) = session.try_run(&statement) {
                    panic!("{refusal:?} from {statement} with a column of type {address_type}");
                }
            }
        }
        session.copy(&format!("{table} (ip)"), "48.0.0.2\n\\N\n8.8.8.8\n");
        session.run(&format!("DELETE FROM {table} WHERE ip IS NULL"));
        assert_eq!(
            session.rows(&format!(
                "SELECT DISTINCT snapshot_asn FROM {table} WHERE ip IN ('8.8.8.8', '48.0.0.2') ORDER BY 1"
            )),
            ["15169", "NULL"],
            "{table}"
        );
        assert_eq!(session.refused(&format!("TRUNCATE {table}")).code, "42501");
    }
    // Maintenance of the table by its owner needs no privilege either.
    let mut owns = db.session_as(&owner);
    db.run(&format!("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA enrich FROM {owner}; REVOKE USAGE ON SCHEMA enrich FROM {owner}"));
    for (table, _) in &tables {
        for statement in ["ANALYZE", "REINDEX TABLE", "VACUUM"] {
            owns.run(&format!("{statement} {table}"));
        }
    }
    let own_rows: Vec<String> =
        tables.iter().map(|(table, _)| table.replace("pot.plain", "ONLY pot.plain")).collect();
    let counted: Vec<(&str, &str)> = own_rows.iter().map(|table| (table.as_str(), "ip")).collect();
    assert_counts_are_exact(&mut db, &counted);
}

#[test]
fn a_role_that_may_update_the_address_has_the_change_counted() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let honeypot = db.create_role("honeypot");
    db.run(&format!("GRANT INSERT, SELECT, UPDATE, DELETE ON sessions TO {honeypot}"));
    let mut session = db.session_as(&honeypot);
    session.run(&COWRIE.insert(&[("a", None), ("b", Some("1.1.1.1"))]));
    session.run("UPDATE sessions SET ip = '8.8.8.8' WHERE id = 'a'");
    session.run("DELETE FROM sessions WHERE id = 'b'");
    assert_eq!(session.one("SELECT snapshot_asn FROM sessions"), "15169");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// The honeypot's manual grants its internet-facing role all future tables in public.
fn grant_everything_in_future(db: &mut Database<'_>, role: &str) {
    for scope in ["", "IN SCHEMA public"] {
        for kind in ["TABLES", "SEQUENCES", "FUNCTIONS", "TYPES"] {
            for grantee in [role, "PUBLIC"] {
                db.run(&format!("ALTER DEFAULT PRIVILEGES {scope} GRANT ALL ON {kind} TO {grantee}"));
            }
        }
    }
    db.run(&format!("ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {role}, PUBLIC"));
}

/// grantee|object|privilege for all privileges of roles other than the owner on objects of the extension.
const GRANTED: &str = "
    WITH ours AS (
        SELECT d.classid, d.objid
        FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
        WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
          AND e.extname = 'cowrie_enrich'
    ), granted AS (
        SELECT c.oid::regclass::text AS object, c.relowner AS owner, a.*
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE ('pg_class'::regclass, c.oid) IN (SELECT * FROM ours)
        UNION ALL
        SELECT c.oid::regclass || '.' || t.attname, c.relowner, a.*
        FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid, aclexplode(t.attacl) a
        WHERE ('pg_class'::regclass, c.oid) IN (SELECT * FROM ours)
        UNION ALL
        SELECT p.proname, p.proowner, a.*
        FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        WHERE ('pg_proc'::regclass, p.oid) IN (SELECT * FROM ours)
        UNION ALL
        SELECT n.nspname, n.nspowner, a.*
        FROM pg_namespace n, aclexplode(n.nspacl) a
        WHERE ('pg_namespace'::regclass, n.oid) IN (SELECT * FROM ours)
    )
    SELECT coalesce(r.rolname, 'PUBLIC'), object, privilege_type
    FROM granted LEFT JOIN pg_roles r ON r.oid = grantee
    WHERE grantee <> owner
    ORDER BY 1, 2, 3";

#[test]
fn every_object_is_the_owners_alone_whatever_default_privileges_say() {
    // If the extension is created in a subtransaction, its objects have another transaction id than the transaction.
    for (schema, begin, end) in
        [("public", "", ""), ("attribution", "", ""), ("attribution", "BEGIN; SAVEPOINT s", "COMMIT")]
    {
        let mut db = bare_database(shared());
        let honeypot = db.create_role("honeypot");
        grant_everything_in_future(&mut db, &honeypot);
        db.run(begin);
        db.run(&format!(
            "CREATE SCHEMA IF NOT EXISTS {schema}; CREATE EXTENSION cowrie_enrich SCHEMA {schema}"
        ));
        db.run(end);
        let expected: Vec<String> = OFFLINE.iter().map(|f| format!("PUBLIC|{f}|EXECUTE")).collect();
        let mut granted = db.rows(GRANTED);
        granted.dedup();
        assert_eq!(granted, expected, "installed in {schema}");
        // The role's own attempts are refused.
        db.run(&format!("GRANT USAGE ON SCHEMA {schema} TO {honeypot}"));
        let mut session = db.session_as(&honeypot);
        for statement in [
            "SELECT * FROM {}.ip_inventory",
            "INSERT INTO {}.asn_inventory (asn_number) VALUES (1)",
            "SELECT {}.enrich_ip('8.8.8.8')",
            "SELECT {}.reload_mmdb()",
            "SELECT {}.request_enrichment('8.8.8.8', 'cymru')",
            "SELECT {}.ensure_asn_inventory(1)",
            "CALL {}.fold_statistics()",
            "SELECT {}.reset_enrich_stats()",
            "SELECT * FROM {}.mmdb_status()",
        ] {
            let statement = statement.replace("{}", schema);
            assert_eq!(session.refused(&statement).code, "42501", "{statement}");
        }
        assert_eq!(
            session.one(&format!(
                "SELECT {schema}.ip_country('8.8.8.8'), {schema}.ip_asn('8.8.8.8'),
                        {schema}.is_bogon('10.0.0.1')"
            )),
            "US|15169|t"
        );
    }
}

#[test]
fn a_stranger_cannot_attach_or_make_a_trigger_of_ours_write() {
    let mut db = database();
    COWRIE.create(&mut db);
    let stranger = db.create_role("stranger");
    db.run(&format!(
        "GRANT USAGE ON SCHEMA enrich TO {stranger}; GRANT CREATE ON SCHEMA public TO {stranger}"
    ));
    let mut session = db.session_as(&stranger);
    assert_eq!(session.refused("SELECT enrich.attach_session_table('sessions', 'ip')").code, "42501");
    session.run("CREATE TABLE own (id int, ip inet, snapshot_asn bigint)");
    assert_eq!(
        session
            .refused(
                "CREATE TRIGGER t BEFORE INSERT ON own FOR EACH ROW
                 EXECUTE FUNCTION enrich.enrich_session('ip')"
            )
            .code,
        "42501"
    );
}

#[test]
fn paths_are_invisible_to_strangers() {
    let mut db = database();
    let stranger = db.create_role("stranger");
    let mut session = db.session_as(&stranger);
    // Settings of a library are unknown until the library is loaded.
    db.run(&format!("GRANT USAGE ON SCHEMA enrich TO {stranger}"));
    session.run("SELECT enrich.ip_country('8.8.8.8')");
    for setting in ["city_database", "asn_database"] {
        for statement in
            [format!("SHOW cowrie_enrich.{setting}"), format!("SET cowrie_enrich.{setting} = '/etc/passwd'")]
        {
            let refusal = session.refused(&statement);
            assert!(["42501", "55P02"].contains(&refusal.code.as_str()), "{statement}: {refusal:?}");
        }
    }
    assert_eq!(
        session.rows(
            "SELECT name FROM pg_settings
             WHERE name IN ('cowrie_enrich.city_database', 'cowrie_enrich.asn_database')"
        ),
        [""; 0]
    );
    let refusal = session.refused("SET cowrie_enrich.no_such_setting = 1");
    assert_eq!(refusal.code, "42602", "the prefix is reserved: {refusal:?}");
}

/// Objects in the caller's schema that careless code of the extension would find first. A sequence counts calls,
/// because it keeps its value after a rollback.
const HOSTILE: &str = r#"
    CREATE SCHEMA evil;
    GRANT USAGE, CREATE ON SCHEMA evil TO PUBLIC;
    CREATE SEQUENCE evil.visits;
    GRANT ALL ON SEQUENCE evil.visits TO PUBLIC;
    CREATE FUNCTION evil.visited() RETURNS bigint LANGUAGE sql AS $$ SELECT pg_catalog.nextval('evil.visits') $$;
    DO $do$
    DECLARE
        t text;
        op text;
    BEGIN
        FOREACH t IN ARRAY '{inet,text,bigint,integer,jsonb,timestamptz,boolean,name,oid}'::text[] LOOP
            FOREACH op IN ARRAY '{=,<>,<,>,<=,>=}'::text[] LOOP
                EXECUTE format('CREATE OR REPLACE FUNCTION evil.op_%s(a %s, b %s) RETURNS boolean LANGUAGE plpgsql AS
                    $f$ BEGIN PERFORM evil.visited(); RETURN true; END $f$', t, t, t);
                EXECUTE format('CREATE OPERATOR evil.%s (leftarg = %s, rightarg = %s, function = evil.op_%s)', op, t, t, t);
            END LOOP;
        END LOOP;
        FOREACH op IN ARRAY '{->,->>}'::text[] LOOP
            EXECUTE format('CREATE OR REPLACE FUNCTION evil.arrow(a jsonb, b text) RETURNS text LANGUAGE plpgsql AS
                $f$ BEGIN PERFORM evil.visited(); RETURN NULL; END $f$');
            EXECUTE format('CREATE OPERATOR evil.%s (leftarg = jsonb, rightarg = text, function = evil.arrow)', op);
        END LOOP;
    END $do$;
    CREATE FUNCTION evil.path(a jsonb, b text[]) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN PERFORM evil.visited(); RETURN NULL; END $$;
    CREATE OPERATOR evil.#>> (leftarg = jsonb, rightarg = text[], function = evil.path);
    CREATE FUNCTION evil.concat(a jsonb, b jsonb) RETURNS jsonb LANGUAGE plpgsql AS
        $$ BEGIN PERFORM evil.visited(); RETURN NULL; END $$;
    CREATE OPERATOR evil.|| (leftarg = jsonb, rightarg = jsonb, function = evil.concat);
    CREATE FUNCTION evil.plus(a bigint, b bigint) RETURNS bigint LANGUAGE plpgsql AS
        $$ BEGIN PERFORM evil.visited(); RETURN 0; END $$;
    CREATE OPERATOR evil.+ (leftarg = bigint, rightarg = bigint, function = evil.plus);
    CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT evil.visited(); SELECT NULL::timestamptz $$;
    CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT evil.visited(); SELECT NULL::timestamptz $$;
    CREATE FUNCTION evil.host(inet) RETURNS text LANGUAGE sql AS $$ SELECT evil.visited(); SELECT NULL::text $$;
    CREATE FUNCTION evil.upper(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.visited(); SELECT NULL::text $$;
    CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.visited(); SELECT NULL::text $$;
    CREATE FUNCTION evil.is_bogon(inet) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.visited(); SELECT true $$;
    CREATE FUNCTION evil.ip_asn(inet) RETURNS bigint LANGUAGE sql AS $$ SELECT evil.visited(); SELECT 666::bigint $$;
    CREATE FUNCTION evil.ip_country(inet) RETURNS text LANGUAGE sql AS $$ SELECT evil.visited(); SELECT 'ZZ' $$;
    CREATE FUNCTION evil.jsonb_build_object(VARIADIC "any") RETURNS jsonb LANGUAGE internal AS 'jsonb_build_object';
    CREATE TABLE evil.ip_inventory (LIKE enrich.ip_inventory);
    CREATE TABLE evil.asn_inventory (LIKE enrich.asn_inventory);
    CREATE TABLE evil.session_delta (LIKE enrich.session_delta);
    CREATE TABLE evil.network_delta (LIKE enrich.network_delta);
    CREATE TABLE evil.ip_asn_history (LIKE enrich.ip_asn_history);
    CREATE TABLE evil.enrichment_request (LIKE enrich.enrichment_request);
    CREATE TABLE evil.attached_tables (LIKE enrich.attached_tables);
    GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC;
"#;

const SHADOWS: &str = "
    CREATE TEMP TABLE ip_inventory (LIKE evil.ip_inventory);
    CREATE TEMP TABLE asn_inventory (LIKE evil.asn_inventory);
    CREATE TEMP TABLE session_delta (LIKE evil.session_delta);
    CREATE TEMP TABLE pg_class (oid oid, relname text);
    CREATE TEMP TABLE pg_namespace (oid oid, nspname text);";

#[test]
fn nothing_in_the_callers_schema_is_used() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(HOSTILE);
    let attacker = db.create_role("attacker");
    db.run(&format!("GRANT ALL ON sessions TO {attacker}; GRANT USAGE ON SCHEMA enrich TO {attacker}"));
    let handle = db.handle();
    let _ = handle;
    let mut session = db.cluster.session_with(&db.name, &attacker, "evil,pg_catalog,public,enrich");
    session.run(SHADOWS);
    session.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("48.0.0.1"))]));
    session.run(&format!("BEGIN; {}; COMMIT", COWRIE.insert(&[("c", Some("1.1.1.1"))])));
    session.run("UPDATE public.sessions SET ip = '89.160.20.1'");
    session.run(
        "SELECT enrich.ip_country('8.8.8.8'), enrich.ip_asn('8.8.8.8'),
                enrich.is_bogon('10.0.0.1'), enrich.maxmind_lookup('8.8.8.8')",
    );
    assert_eq!(
        session.one(
            "SELECT snapshot_asn, snapshot_country FROM public.sessions WHERE id OPERATOR(pg_catalog.=) 'a'"
        ),
        "15169|US"
    );
    // The owner calls the functions with the attacker's search_path. The attacker's objects are not found either.
    let mut owner = db.cluster.session_with(&db.name, "postgres", "evil,pg_catalog,public,enrich");
    owner.run(
        "SELECT enrich.enrich_ip('139.59.0.1'); SELECT enrich.enrich_ips('{139.59.0.2,46.0.0.1}');
         SELECT enrich.enrich_ip('139.59.0.1', true);
         SELECT enrich.ensure_asn_inventory(64500, 'Example Hosting', 'DE', 'RIPE');
         SELECT enrich.classify_asn(64500, 'Example Hosting');
         SELECT enrich.request_enrichment('8.8.8.8', 'cymru');
         SELECT * FROM enrich.enrich_stats();
         SELECT * FROM enrich.mmdb_status();
         CALL enrich.fold_statistics();
         CREATE TABLE public.t (id int, source_ip inet);
         SELECT enrich.attach_session_table('public.t');
         INSERT INTO public.t VALUES (1, '8.8.8.8');
         SELECT enrich.detach_session_table('public.t');
         UPDATE enrich.ip_inventory SET enrichment = '{\"maxmind\": {\"country\": \"de\"}}'
             WHERE ip_address OPERATOR(pg_catalog.=) '139.59.0.2'",
    );
    assert_eq!(db.one("SELECT is_called FROM evil.visits"), "f", "hostile functions were called");
    for table in [
        "ip_inventory",
        "asn_inventory",
        "session_delta",
        "network_delta",
        "ip_asn_history",
        "enrichment_request",
        "attached_tables",
    ] {
        assert_eq!(db.number(&format!("SELECT count(*) FROM evil.{table}")), 0, "evil.{table} was written");
    }
    for table in ["ip_inventory", "asn_inventory", "session_delta"] {
        assert_eq!(session.number(&format!("SELECT pg_catalog.count(*) FROM pg_temp.{table}")), 0);
    }
    assert_eq!(db.one("SELECT geo_country FROM enrich.ip_inventory WHERE ip_address = '139.59.0.2'"), "DE");
}

#[test]
fn definer_functions_pin_their_search_path() {
    let mut db = database();
    assert_eq!(
        db.rows(
            "SELECT p.proname FROM pg_proc p
             JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
             JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'cowrie_enrich'
             WHERE p.prosecdef AND NOT EXISTS (
                 SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=%')"
        ),
        [""; 0]
    );
}
