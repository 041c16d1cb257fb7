//! An attacker creates objects that PostgreSQL could find instead of the extension's functions, operators or types.
//! The objects are in the schema of the extension, before and after its creation, in the caller's search_path, or in
//! pg_temp.

use server_tests::cymru::{Lab, member};
use server_tests::database::bare_database;
use server_tests::hosts::COWRIE;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Options, Session, hostile, shared, wait_until};

/// Creates a role that may create objects in `schema`, which exists already. Returns a connection of the role.
fn attacker(db: &mut Database<'_>, schema: &str) -> (String, Session) {
    let role = db.own_name("attacker");
    db.run(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; CREATE SCHEMA IF NOT EXISTS {schema};
         GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"
    ));
    hostile::create_trap(db, &role);
    let session = db.session_as(&role);
    (role, session)
}

#[test]
fn an_installation_among_somebodys_lookalikes_is_refused() {
    for lookalike in [
        "CREATE FUNCTION enrich.session_address(varchar) RETURNS inet IMMUTABLE LANGUAGE sql AS 'SELECT NULL::inet'",
        "CREATE FUNCTION enrich.ip_asn(text) RETURNS bigint LANGUAGE sql AS 'SELECT 666::bigint'",
        "CREATE FUNCTION enrich.campaign_networks(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        "CREATE PROCEDURE enrich.fold_statistics(int DEFAULT 1) LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION enrich.ip_country(inet) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
        "CREATE TABLE enrich.ip_inventory (id int)",
        "CREATE VIEW enrich.asn_inventory AS SELECT 1 AS asn_number",
        "CREATE SEQUENCE enrich.session_delta",
        "CREATE TYPE enrich.dead_letter AS (id int)",
    ] {
        let mut db = bare_database(shared());
        let (role, mut session) = attacker(&mut db, "enrich");
        session.run(lookalike);
        let refusal = db.refused("CREATE EXTENSION cowrie_enrich SCHEMA enrich");
        assert!(["42723", "42P07", "42710"].contains(&refusal.code.as_str()), "{lookalike}: {refusal:?}");
        assert_eq!(db.one("SELECT count(*) FROM pg_extension WHERE extname = 'cowrie_enrich'"), "0");
        // After the attacker's objects are dropped, `CREATE EXTENSION` succeeds: the failed call left nothing
        // behind.
        db.run(&format!("DROP OWNED BY {role} CASCADE; CREATE EXTENSION cowrie_enrich SCHEMA enrich"));
    }
}

/// Calls all functions of the extension, with argument types that make each call unambiguous.
fn use_everything(session: &mut Session, table: &str) {
    session.run(&format!(
        "SELECT enrich.attach_session_table('{table}'::pg_catalog.regclass, 'ip'::pg_catalog.name, 'starttime'::pg_catalog.name, false,
             NULL::pg_catalog.bool, NULL::pg_catalog.bool)"
    ));
    for (key, address) in [("a", "8.8.8.8"), ("b", "48.0.0.1"), ("c", "1.1.1.1"), ("d", "not an ip")] {
        session.run(&format!(
            "INSERT INTO {table} (id, starttime, ip) VALUES ('{key}'::pg_catalog.bpchar, '2024-05-01'::pg_catalog.timestamp, '{address}'::pg_catalog.varchar)"
        ));
    }
    for statement in [
        "SELECT enrich.enrich_ip('139.59.0.1'::pg_catalog.inet, false)",
        "SELECT enrich.enrich_ip('139.59.0.1'::pg_catalog.inet, true)",
        "SELECT enrich.enrich_ips('{139.59.0.2,46.0.0.1}'::pg_catalog.inet[], false, NULL::pg_catalog.text[], NULL::pg_catalog.int8)",
        "SELECT enrich.enrich_ips('{139.59.0.3}'::pg_catalog.inet[], false, '{maxmind}'::pg_catalog.text[], 5::pg_catalog.int8)",
        "SELECT enrich.ensure_asn_inventory(64500::pg_catalog.int8, 'Example Hosting'::pg_catalog.text, 'DE'::pg_catalog.text, 'RIPE'::pg_catalog.text, false)",
        "SELECT enrich.classify_asn(64500::pg_catalog.int8, 'Example Hosting'::pg_catalog.text)",
        "SELECT enrich.ip_country('8.8.8.8'::pg_catalog.inet), enrich.maxmind_lookup('8.8.8.8'::pg_catalog.inet)",
        "SELECT enrich.request_enrichment('8.8.8.8'::pg_catalog.inet, 'cymru'::pg_catalog.text, 0::pg_catalog.int4)",
        "SELECT enrich.request_enrichment(15169::pg_catalog.int8, 'cymru'::pg_catalog.text)",
        "SELECT enrich.cancel_requests('dshield'::pg_catalog.text, '8.8.8.8'::pg_catalog.inet)",
        "SELECT enrich.retry_dead_letters(NULL::pg_catalog.text)",
        "SELECT enrich.asn_registry(64500::pg_catalog.int8), enrich.is_bogon_asn(64500::pg_catalog.int8)",
        "SELECT enrich.ip_location('8.8.8.8'::pg_catalog.inet), enrich.ip_registered_country('8.8.8.8'::pg_catalog.inet)",
        "SELECT enrich.attribution_change('8.8.8.8'::pg_catalog.inet, 15169::pg_catalog.int8, 'US'::pg_catalog.text)",
        "SELECT enrich.attribution_change_between(15169::pg_catalog.int8, 'US'::pg_catalog.text, 1::pg_catalog.int8, 'DE'::pg_catalog.text)",
        "SELECT enrich.contains_benign_scanner('8.8.8.0/24'::pg_catalog.cidr)",
        "SELECT enrich.lookup_ips('{8.8.8.8,x,48.0.0.1}'::pg_catalog.text[])",
        "SELECT enrich.mmdb_status(), enrich.enrich_stats(), enrich.asn_inventory_size()",
        "SELECT enrich.enrich_metrics(), enrich.prometheus_metrics(), enrich.status_json()",
        "SELECT * FROM enrich.queue_status, enrich.worker_status, enrich.provider_status, enrich.enrich_metrics",
        "SELECT * FROM enrich.erasure_status()",
        "SELECT * FROM enrich.attached_tables, enrich.default_schedule",
        "SELECT * FROM enrich.moved_addresses",
        "SELECT * FROM enrich.persistent_addresses",
        "SELECT * FROM enrich.network_activity",
        "SELECT * FROM enrich.enrich_progress",
        "SELECT * FROM enrich.unsafe_foreign_keys",
        "CALL enrich.fold_statistics()",
        "CALL enrich.refresh_session_counts()",
        "CALL enrich.build_asn_inventory(1000::pg_catalog.int4, true, true)",
        "CALL enrich.refresh_stale(NULL::pg_catalog.text, 10::pg_catalog.int4)",
        "UPDATE enrich.known_networks SET label = 'Mine' WHERE asn_number OPERATOR(pg_catalog.=) 15169::pg_catalog.int8",
        "INSERT INTO enrich.known_networks (asn_number, label, asn_type) VALUES (13335::pg_catalog.int8, 'Theirs', 'ISP')",
        "UPDATE enrich.ip_inventory SET enrichment = '{\"maxmind\": {\"country\": \"de\"}}' WHERE ip_address OPERATOR(pg_catalog.=) '139.59.0.2'::pg_catalog.inet",
        "DELETE FROM enrich.ip_inventory WHERE ip_address OPERATOR(pg_catalog.=) '46.0.0.1'::pg_catalog.inet",
    ] {
        session.run(statement);
    }
    for statement in [
        "SELECT enrich.campaign_networks('{}'::pg_catalog.regclass, 'true'::pg_catalog.text, 'UTC'::pg_catalog.text)",
        "SELECT enrich.campaign_query('{}'::pg_catalog.regclass, 'true'::pg_catalog.text, 'UTC'::pg_catalog.text)",
        "SELECT enrich.attached_columns('{}'::pg_catalog.regclass)",
        "SELECT enrich.campaign_addresses('{}'::pg_catalog.regclass, 'true'::pg_catalog.text, 'UTC'::pg_catalog.text,
             '2024-01-01'::pg_catalog.timestamptz)",
        "SELECT enrich.session_timeline('{}'::pg_catalog.regclass, '1 day'::pg_catalog.interval, 'ip'::pg_catalog.text,
             'UTC'::pg_catalog.text, NULL::pg_catalog.timestamptz, NULL::pg_catalog.timestamptz,
             'true'::pg_catalog.text, 'UTC'::pg_catalog.text)",
        "SELECT enrich.prefix_activity('{}'::pg_catalog.regclass, NULL::pg_catalog.timestamptz, 'UTC'::pg_catalog.text)",
        "SELECT enrich.address_profile('8.8.8.8'::pg_catalog.inet, '{}'::pg_catalog.regclass, 'Europe/Berlin'::pg_catalog.text)",
        "SELECT enrich.blocklist('{}'::pg_catalog.regclass, '2024-01-01'::pg_catalog.timestamptz, 1::pg_catalog.int4,
             'prefix'::pg_catalog.text, 0.01::pg_catalog.float8, '30 days'::pg_catalog.interval, 'UTC'::pg_catalog.text)",
        "SELECT enrich.session_index_commands('{}'::pg_catalog.regclass, true)",
        "SELECT enrich.index_session_table('{}'::pg_catalog.regclass)",
        "SELECT enrich.set_session_priority('{}'::pg_catalog.regclass, '1'::pg_catalog.text)",
        "CALL enrich.backfill_sessions('{}'::pg_catalog.regclass, 10::pg_catalog.int4, true)",
        "CALL enrich.erase_address('48.0.0.1'::pg_catalog.inet, false)",
        "UPDATE {} SET ip = '89.160.20.1'::pg_catalog.varchar WHERE id OPERATOR(pg_catalog.=) 'c'::pg_catalog.bpchar",
        "DELETE FROM {} WHERE id OPERATOR(pg_catalog.=) 'd'::pg_catalog.bpchar",
    ] {
        session.run(&statement.replace("{}", table));
    }
}

#[test]
fn operators_that_were_in_the_schema_before_are_not_used() {
    let mut db = bare_database(shared());
    let (_, mut session) = attacker(&mut db, "enrich");
    hostile::create_operators(&mut session, "enrich");
    assert_eq!(session.one("SELECT 1::bigint OPERATOR(enrich.=) 'x'::name"), "t");
    assert!(hostile::is_armed(&mut session));
    db.run("CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    // No object refers to such an operator, even if this test does not evaluate the object.
    assert_eq!(
        db.rows(
            "SELECT pg_describe_object(d.classid, d.objid, d.objsubid), o.oid::regoperator
             FROM pg_depend d JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND d.refobjid = o.oid
             WHERE o.oprnamespace = 'enrich'::regnamespace AND d.classid <> 'pg_operator'::regclass"
        ),
        [""; 0]
    );
    COWRIE.create(&mut db);
    let mut caller = db.cluster.session_with(&db.name, "postgres", "pg_catalog,public");
    use_everything(&mut caller, "public.sessions");
    assert!(!hostile::is_sprung(&mut db), "an operator of the attacker's was used");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn functions_that_would_fit_better_are_not_called_by_ours_nor_by_the_worker() {
    let lab = Lab::start(Options::named("hostile-schemas").with_worker());
    let mut db = lab.database();
    let (_, mut session) = attacker(&mut db, "enrich");
    let made = hostile::create_overloads(&mut session, "enrich");
    assert!(made > 50, "{made} functions were made");
    session.run("SELECT enrich.ip_asn('8.8.8.8'::varchar)");
    assert!(hostile::is_armed(&mut session));
    COWRIE.create(&mut db);
    use_everything(&mut db, "public.sessions");
    // The address is not in the mmdb files. So the worker sends a request, stores the answer, completes the session
    // and evaluates priorities.
    db.run(&format!(
        "INSERT INTO sessions (id, starttime, ip) VALUES ('w', '2024-05-01', '{}')",
        member(7, 7)
    ));
    wait_until(
        "the worker has completed the session",
        || db.one("SELECT snapshot_asn IS NOT NULL FROM sessions WHERE id = 'w'"),
        |completed| completed == "t",
    );
    assert!(!hostile::is_sprung(&mut db), "a function of the attacker's was called:\n{}", lab.cluster.log());
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    lab.assert_nothing_crashed();
}

#[test]
fn nothing_in_the_callers_path_or_in_pg_temp_is_used() {
    let mut db = server_tests::database();
    let (_, mut session) = attacker(&mut db, "evil");
    hostile::create_operators(&mut session, "evil");
    COWRIE.create(&mut db);
    let mut caller = db.cluster.session_with(&db.name, "postgres", "pg_temp,evil,pg_catalog,public,enrich");
    hostile::create_temporary_shadows(&mut caller);
    use_everything(&mut caller, "public.sessions");
    assert!(!hostile::is_sprung(&mut db), "something of the attacker's was used");
    // The operator can be found.
    assert_eq!(caller.one("SELECT 1::bigint = 'x'::name"), "t");
    assert!(hostile::is_sprung(&mut db), "the trap does not work");
    for table in ["ip_inventory", "asn_inventory", "session_delta"] {
        assert_eq!(caller.one(&format!("SELECT pg_catalog.count(*) FROM pg_temp.{table}")), "0");
    }
}
