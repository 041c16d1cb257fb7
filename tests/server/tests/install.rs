//! Installs the extension into any schema, dumps and restores it, drops and creates it again.

use server_tests::database::{bare_database, cluster_with_world, copy_from, restored_from};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::Files;
use server_tests::{Database, Options, database, fresh_database, shared};

#[test]
fn it_installs_in_any_schema_and_works_with_an_empty_search_path() {
    for schema in ["public", "attribution", "Quoted Schema", "select", "with.dot", "per%cent"] {
        let mut db = bare_database(shared());
        let quoted = format!("\"{}\"", schema.replace('"', "\"\""));
        db.run("SET search_path = ''");
        db.run(&format!(
            "CREATE SCHEMA IF NOT EXISTS {quoted}; CREATE EXTENSION cowrie_enrich SCHEMA {quoted}"
        ));
        assert_eq!(
            db.one(&format!("SELECT current_asn, geo_country FROM {quoted}.enrich_ip('8.8.8.8')")),
            "15169|US",
            "in {schema}"
        );
        db.run(&format!(
            "CREATE TABLE public.s (id int, source_ip inet);
             SELECT {quoted}.attach_session_table('public.s');
             INSERT INTO public.s VALUES (1, '8.8.8.8'), (2, '1.1.1.1');
             SELECT * FROM {quoted}.enrich_ips('{{8.8.8.8,139.59.0.1}}')"
        ));
        // In a separate transaction, because counts can be folded only after the commit.
        db.run(&format!("CALL {quoted}.fold_statistics()"));
        assert_eq!(
            db.rows(&format!("SELECT ip_address, session_count FROM {quoted}.ip_inventory ORDER BY 1")),
            ["1.1.1.1|1", "8.8.8.8|1", "139.59.0.1|0"],
            "in {schema}"
        );
    }
}

#[test]
fn without_preload_everything_of_sql_works() {
    let cluster = cluster_with_world(&Options::named("install-no-preload").without_preload());
    let mut db = fresh_database(&cluster);
    assert_eq!(db.one("SELECT current_asn, geo_country FROM enrich_ip('8.8.8.8')"), "15169|US");
    COWRIE.create_attached(&mut db);
    // A session that has not loaded the library yet. The trigger loads it.
    db.another().run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("not an ip"))]));
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL");
    db.run("SELECT reload_mmdb(); SELECT * FROM mmdb_status(); SELECT * FROM enrich_stats()");
    db.run("SELECT reset_enrich_stats(); SELECT request_enrichment('8.8.8.8', 'cymru')");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn every_object_has_a_comment() {
    let mut db = database();
    let uncommented = db.rows(
        "SELECT pg_describe_object(d.classid, d.objid, 0)
         FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
         WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
           AND e.extname = 'cowrie_enrich'
           -- Leaves out row types, which only newer versions of PostgreSQL list.
           AND d.classid <> 'pg_type'::regclass
           AND NOT EXISTS (
               SELECT FROM pg_description c
               WHERE c.classoid = d.classid AND c.objoid = d.objid AND c.objsubid = 0
                 AND length(c.description) > 10)
         ORDER BY 1",
    );
    assert_eq!(uncommented, [""; 0], "these have no comment");
}

#[test]
fn it_is_not_relocatable_and_its_tables_are_dumped() {
    let mut db = database();
    assert_eq!(db.one("SELECT extrelocatable FROM pg_extension WHERE extname = 'cowrie_enrich'"), "f");
    let undumped = db.rows(
        "SELECT c.oid::regclass
         FROM pg_class c
         JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
         JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'cowrie_enrich'
         WHERE d.deptype = 'e' AND c.relkind IN ('r', 'p', 'S')
           AND c.oid <> ALL (e.extconfig)",
    );
    assert_eq!(undumped, [""; 0], "these would be lost in a dump");
}

/// Returns the rows that must survive, as text.
fn contents(db: &mut Database<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for (what, query) in [
        ("addresses", "SELECT to_jsonb(i) FROM enrich.ip_inventory i ORDER BY ip_address"),
        ("networks", "SELECT to_jsonb(n) FROM enrich.asn_inventory n ORDER BY asn_number"),
        ("history", "SELECT to_jsonb(h) FROM enrich.ip_asn_history h ORDER BY ip_address, observed_at"),
        ("sessions", "SELECT to_jsonb(s) FROM sessions s ORDER BY id"),
        ("summaries", "SELECT to_jsonb(s) FROM session_summaries s ORDER BY session_id"),
        ("jobs", "SELECT ip_address, provider, priority FROM enrichment_request ORDER BY 1, 2"),
    ] {
        all.extend(db.rows(query).into_iter().map(|row| format!("{what}: {row}")));
    }
    all
}

#[test]
fn dump_and_restore_lose_nothing_and_double_nothing() {
    for format in ["plain", "custom"] {
        let mut db = database();
        COWRIE.create_attached(&mut db);
        SUMMARIES.create(&mut db);
        db.run(
            "SELECT enrich.attach_session_table('session_summaries', 'source_ip',
                 'first_event_at', true)",
        );
        db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("48.0.0.1")), ("c", Some("not an ip"))]));
        db.run("CALL enrich.fold_statistics()");
        // These are still pending when the dump is made.
        db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1")), ("c", None)]));
        db.run("SELECT enrich.ensure_asn_inventory(15169, 'Google LLC', 'US', 'ARIN')");
        let before = contents(&mut db);
        let known = "SELECT to_jsonb(k) FROM enrich.known_networks k ORDER BY 1::text";
        db.run(
            "INSERT INTO enrich.known_networks (asn_number, label, asn_type)
                 VALUES (64500, 'Example', 'ISP');
             UPDATE enrich.known_networks SET asn_type = 'ISP' WHERE asn_number = 13335",
        );
        let known_before = db.rows(known);

        let mut restored = restored_from(db.cluster, &db.dump(format), format);
        assert_eq!(contents(&mut restored), before, "{format}");
        assert_eq!(restored.rows(known), known_before, "{format}");
        let both = [("sessions", "ip"), ("session_summaries", "source_ip")];
        assert_counts_are_exact(&mut restored, &both);
        // The restored database works: triggers, registration, queue.
        restored.run(&COWRIE.insert(&[("z", Some("139.59.0.1"))]));
        restored.run(&SUMMARIES.insert(&[("z", Some("48.0.0.2"))]));
        assert_eq!(COWRIE.snapshot(&mut restored, "z"), "14061|IN|NULL");
        assert_counts_are_exact(&mut restored, &both);
        restored.run("SELECT enrich.detach_session_table('sessions')");
    }
}

#[test]
fn dropping_needs_cascade_and_leaves_sessions_working() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create(&mut db);
    db.run(
        "SELECT enrich.attach_session_table('session_summaries', 'source_ip',
             'first_event_at', true)",
    );
    let mut other = db.another();
    other.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    assert_eq!(db.refused("DROP EXTENSION cowrie_enrich").code, "2BP01");
    db.run("DROP EXTENSION cowrie_enrich CASCADE");
    for session in [&mut *db, &mut other] {
        let key = format!("{}", session.backend_pid());
        session.run(&COWRIE.insert(&[(key.as_str(), Some("8.8.8.8"))]));
        session.run(&SUMMARIES.insert(&[(key.as_str(), Some("8.8.8.8"))]));
        session.run("UPDATE sessions SET ip = '1.1.1.1'");
        session.run("DELETE FROM session_summaries");
    }
    // Stored snapshots stay.
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL");
}

#[test]
fn dropped_and_made_again_in_one_session_it_works() {
    let mut db = bare_database(shared());
    let mut other = db.another();
    for round in 0..3 {
        db.run("DROP TABLE IF EXISTS sessions; CREATE SCHEMA IF NOT EXISTS enrich");
        db.run("CREATE EXTENSION cowrie_enrich SCHEMA enrich");
        COWRIE.create_attached(&mut db);
        db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("48.0.0.1"))]));
        other.run(&COWRIE.insert(&[("c", Some("1.1.1.1"))]));
        db.run("SELECT enrich.enrich_ip('139.59.0.1')");
        other.run("SELECT count(*) FROM enrich.enrich_ips('{139.59.0.1,139.59.0.2}')");
        assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL", "round {round}");
        assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
        db.run("DROP EXTENSION cowrie_enrich CASCADE");
    }
}

#[test]
fn moved_to_another_schema_name_it_loses_no_session() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let mut other = db.another();
    other.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    db.run("ALTER SCHEMA enrich RENAME TO renamed");
    for (key, session) in [("b", &mut *db), ("c", &mut other)] {
        session.run(&COWRIE.insert(&[(key, Some("1.1.1.1"))]));
    }
    assert_eq!(db.number("SELECT count(*) FROM sessions"), 3);
}

#[test]
fn an_installation_that_is_rolled_back_leaves_nothing() {
    let mut db = bare_database(shared());
    db.run(
        "BEGIN; CREATE EXTENSION cowrie_enrich;
         CREATE TABLE s (id int, source_ip inet);
         SELECT attach_session_table('s');
         INSERT INTO s VALUES (1, '8.8.8.8');
         ROLLBACK",
    );
    assert_eq!(db.number("SELECT count(*) FROM pg_class WHERE relname LIKE '%inventory%'"), 0);
    db.run("CREATE EXTENSION cowrie_enrich");
    assert_eq!(db.one("SELECT current_asn FROM enrich_ip('8.8.8.8')"), "15169");
}

/// The texts of the files are UTF-8. The database may have another encoding.
#[test]
fn databases_of_other_encodings_store_what_they_can() {
    for (encoding, town) in [
        ("LATIN1", "Linköping"),
        ("LATIN2", "Linköping"),
        ("WIN1252", "Linköping"),
        ("SQL_ASCII", "Linköping"),
        ("EUC_JP", "Linköping"),
        // It has no ö.
        ("WIN1251", "Link?ping"),
    ] {
        let mut db = encoded_database(encoding);
        db.run("CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich");
        COWRIE.create_attached(&mut db);
        for (key, address) in [("a", "89.160.20.1"), ("b", "123.123.123.1"), ("c", "8.8.8.8")] {
            db.run(&COWRIE.insert(&[(key, Some(address))]));
        }
        assert_eq!(COWRIE.snapshot(&mut db, "a"), "29518|SE|NULL", "{encoding}");
        assert_eq!(COWRIE.snapshot(&mut db, "b"), "4808|CN|NULL", "{encoding}");
        assert_eq!(
            db.rows(
                "SELECT ip_city('89.160.20.1'),
                        (SELECT enrichment #>> '{maxmind,city}' FROM sessions WHERE id = 'a'),
                        (SELECT enrichment #>> '{maxmind,city}' FROM ip_inventory
                         WHERE ip_address = '89.160.20.1')"
            ),
            [format!("{town}|{town}|{town}")],
            "{encoding}"
        );
        // LATIN1 does not have 北京. The stored text is still valid, and the session is stored.
        db.run("SELECT ip_city('123.123.123.1'), ip_asn_org('123.123.123.1')");
        db.run("SELECT enrich_ip('123.123.123.2'), maxmind_lookup('123.123.123.1')");
        db.rows("SELECT to_jsonb(s) FROM sessions s");
        db.rows("SELECT to_jsonb(i) FROM ip_inventory i");
        db.rows("SELECT to_jsonb(n) FROM asn_inventory n");
        assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    }
}

fn encoded_database(encoding: &str) -> Database<'static> {
    let name = format!("encoded_{}", encoding.to_lowercase());
    shared().session("postgres").run(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING {encoding} LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    copy_from(shared(), &name)
}

#[test]
fn odd_settings_of_a_session_change_nothing() {
    let mut db = bare_database(shared());
    db.run(
        "SET quote_all_identifiers = on;
         SET DateStyle = 'German';
         SET IntervalStyle = 'sql_standard';
         SET timezone = 'Pacific/Chatham';
         SET bytea_output = 'escape';
         SET extra_float_digits = -15;
         SET row_security = off;
         SET enable_indexscan = off;
         SET enable_bitmapscan = off;
         SET plan_cache_mode = force_generic_plan;
         SET work_mem = '64kB';
         SET default_transaction_isolation = 'serializable'",
    );
    db.run("CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("not an ip")), ("c", Some("1.1.1.1"))]));
    db.run("UPDATE sessions SET ip = '89.160.20.1' WHERE id = 'c'; TRUNCATE sessions");
    db.run(&COWRIE.insert(&[("d", Some("8.8.8.8"))]));
    db.run("SELECT * FROM enrich_ips('{8.8.8.8,139.59.0.1}', true)");
    assert_eq!(
        db.rows("SELECT rel = 'sessions'::regclass, ip_column, time_column FROM attached_tables"),
        ["t|ip|starttime"]
    );
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    db.run("SELECT detach_session_table('sessions')");
}

#[test]
fn it_installs_where_backslashes_escape() {
    let mut db = bare_database(shared());
    db.run("SET standard_conforming_strings = off; SET escape_string_warning = off; CREATE SCHEMA enrich");
    db.run("CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    assert_eq!(db.rows("SELECT rel, ip_column, time_column FROM attached_tables"), ["sessions|ip|starttime"]);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn two_databases_of_one_server_do_not_see_each_other() {
    let (mut one, mut two) = (database(), database());
    COWRIE.create_attached(&mut one);
    COWRIE.create_attached(&mut two);
    one.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    assert_eq!(two.number("SELECT count(*) FROM ip_inventory"), 0);
    assert_counts_are_exact(&mut one, &[("sessions", "ip")]);
    assert_counts_are_exact(&mut two, &[("sessions", "ip")]);
}

#[test]
fn a_standby_answers_every_read_only_call() {
    let cluster = cluster_with_world(&Options::named("install-standby").conf("hot_standby = on"));
    let name = {
        let mut db = fresh_database(&cluster);
        COWRIE.create_attached(&mut db);
        db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
        db.name.clone()
    };
    cluster.stop_fast();
    // The standby has no primary, so it replays its own log and stays read-only.
    std::fs::write(cluster.data_dir().join("standby.signal"), "").expect("it can be written");
    cluster.start_again();
    let mut session = cluster.session(&name);
    assert_eq!(session.one("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(
        session.one(
            "SELECT ip_country('8.8.8.8'), ip_asn('8.8.8.8'), ip_city('8.8.8.8'),
                    ip_asn_org('8.8.8.8'), is_bogon('10.0.0.1'), classify_asn(15169, NULL),
                    maxmind_lookup('8.8.8.8') ->> 'country'"
        ),
        "US|15169|Mountain View|GOOGLE|t|HOSTING|US"
    );
    session.run("SELECT * FROM mmdb_status(); SELECT * FROM enrich_stats()");
    assert_eq!(session.number("SELECT count(*) FROM ip_inventory"), 1);
    for call in ["SELECT enrich_ip('1.1.1.1')", "CALL fold_statistics()"] {
        assert_eq!(session.refused(call).code, "25006", "{call}");
    }
}

#[test]
fn a_call_that_writes_says_so_in_a_read_only_transaction() {
    let mut db = database();
    db.run("SELECT enrich_ip('8.8.8.8'); SET default_transaction_read_only = on");
    assert_eq!(db.one("SELECT current_asn FROM enrich_ip('8.8.8.8')"), "15169");
    for (call, function) in [
        ("SELECT enrich_ip('1.1.1.1')", "enrich_ip()"),
        ("SELECT enrich_ip('8.8.8.8', true)", "enrich_ip()"),
        ("SELECT * FROM enrich_ips('{8.8.8.8,1.1.1.1}')", "enrich_ips()"),
        ("SELECT ensure_asn_inventory(64500)", "ensure_asn_inventory()"),
        ("SELECT request_enrichment('8.8.8.8', 'cymru')", "request_enrichment()"),
        ("SELECT retry_dead_letters()", "retry_dead_letters()"),
        ("SELECT delete_addresses('{8.8.8.8}')", "delete_addresses()"),
        ("CALL fold_statistics()", "fold_statistics()"),
    ] {
        let refusal = db.refused(call);
        assert_eq!(refusal.code, "25006", "{call}");
        assert_eq!(refusal.message, format!("could not run {function} in a read-only transaction"));
        // The hint names another function only if the call looks up an address.
        let names_lookups = refusal.hint.as_deref().expect("a hint").contains("ip_asn()");
        assert_eq!(names_lookups, function.starts_with("enrich_ip"), "{call}");
    }
}

#[test]
fn a_relation_of_the_same_name_is_named_with_a_way_out() {
    let mut installed = database();
    let names = installed.rows(
        "SELECT c.relname FROM pg_depend d
         JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
         JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('r', 'v')
         WHERE e.extname = 'cowrie_enrich' AND d.deptype = 'e'",
    );
    assert!(names.len() > 20, "{names:?}");
    let mut db = bare_database(shared());
    for name in names {
        db.run(&format!("CREATE TABLE public.{name} (id int)"));
        let refusal = db.refused("CREATE EXTENSION cowrie_enrich SCHEMA public");
        assert_eq!(refusal.code, "42P07", "{refusal:?}");
        assert!(refusal.message.contains(&format!("\"{name}\"")), "{refusal:?}");
        assert!(refusal.hint.is_some_and(|hint| hint.contains("a separate schema")), "{name}");
        db.run(&format!("DROP TABLE public.{name}"));
    }
    db.run("CREATE EXTENSION cowrie_enrich SCHEMA public");
}

#[test]
fn a_standby_without_a_private_copy_still_answers() {
    let cluster = cluster_with_world(&Options::named("install-standby-empty"));
    let name = fresh_database(&cluster).name.clone();
    cluster.stop_fast();
    std::fs::write(cluster.data_dir().join("standby.signal"), "").expect("it can be written");
    cluster.start_again();
    let mut session = cluster.session(&name);
    // Loading an mmdb file does not write to the database. So the call must not fail, but null is an accepted
    // result.
    let answer = session.one("SELECT ip_country('8.8.8.8')");
    assert!(["US", "NULL"].contains(&answer.as_str()), "{answer}");
    let _ = Files::below(cluster.files());
}
