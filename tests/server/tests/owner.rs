//! The extension belongs to a role without SUPERUSER. Changes of that role to its tables never become access to the
//! server's memory or the rights of a superuser. Dumps are restored into the same set-up.

use std::process::Command;

use server_tests::contents::contents;
use server_tests::cymru::{Lab, wait_for_the_queue, worker_pid};
use server_tests::database::{bare_database, cluster_with_world, create_extension_as, fresh_database};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::releases::differences;
use server_tests::{Cluster, Database, Options, Session, wait_until};

/// The role that owns the extension on these servers.
const OWNER: &str = "extension_owner";

fn server(name: &str) -> Cluster {
    cluster_with_world(&Options::named(name).owned_by(OWNER))
}

/// Connects as the role that owns the extension. The documented role cannot log in.
fn owner_session(db: &Database<'_>) -> Session {
    db.another().run(&format!("ALTER ROLE {OWNER} LOGIN"));
    db.session_as(OWNER)
}

const OWNERS: &str = "
    SELECT DISTINCT pg_get_userbyid(o.owner), r.rolsuper
    FROM (SELECT c.relowner FROM pg_class c WHERE c.relnamespace = 'enrich'::regnamespace
          UNION ALL SELECT p.proowner FROM pg_proc p WHERE p.pronamespace = 'enrich'::regnamespace
          UNION ALL SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'enrich'
          UNION ALL SELECT e.extowner FROM pg_extension e WHERE e.extname = 'cowrie_enrich') o(owner)
    JOIN pg_roles r ON r.oid = o.owner";

#[test]
fn every_object_belongs_to_a_role_without_attributes() {
    let cluster = server("owner-objects");
    let mut db = fresh_database(&cluster);
    assert_eq!(db.rows(OWNERS), [format!("{OWNER}|f")]);
    assert_eq!(
        db.one(&format!(
            "SELECT rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolcanlogin FROM pg_roles WHERE rolname = '{OWNER}'"
        )),
        "f|f|f|f|f"
    );
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("60.0.0.1"))]));
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL");
    db.run("CALL enrich.fold_statistics()");
    db.run("CALL enrich.refresh_session_counts()");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// Statements by which the extension's owner changes objects so that the extension's C code finds unexpected kinds
/// or types.
const ALTERATIONS: [(&str, &str); 10] = [
    (
        "another type of a column that is appended",
        "ALTER TABLE enrich.session_delta ALTER sessions TYPE text",
    ),
    ("another type by reference", "ALTER TABLE enrich.session_delta ALTER ip_address TYPE bigint USING 7"),
    (
        "columns in another order",
        "ALTER TABLE enrich.session_delta DROP sessions; ALTER TABLE enrich.session_delta ADD sessions bigint",
    ),
    (
        "a view in place of a table",
        "ALTER TABLE enrich.session_delta RENAME TO kept; CREATE VIEW enrich.session_delta AS SELECT * FROM enrich.kept",
    ),
    (
        "a request's provider as a number",
        "ALTER EXTENSION cowrie_enrich DROP VIEW enrich.queue_status; DROP VIEW enrich.queue_status; ALTER TABLE enrich.enrichment_request DROP CONSTRAINT enrichment_request_provider_check; ALTER TABLE enrich.enrichment_request ALTER provider TYPE bigint USING 7",
    ),
    ("a column that is gone", "ALTER TABLE enrich.ip_inventory DROP is_bogon CASCADE"),
    (
        "a document that is a number",
        "ALTER EXTENSION cowrie_enrich DROP VIEW enrich.persistent_addresses; ALTER EXTENSION cowrie_enrich DROP VIEW enrich.address_types; DROP VIEW enrich.address_types; ALTER TABLE enrich.ip_inventory DROP geo_country CASCADE, DROP ip_types CASCADE, DROP is_scanner CASCADE, DROP is_bogon CASCADE; DROP TRIGGER inventory_changed ON enrich.ip_inventory; ALTER TABLE enrich.ip_inventory ALTER enrichment DROP DEFAULT, ALTER enrichment TYPE bigint USING 1234567890123",
    ),
    (
        "another index under the name of the key",
        "ALTER INDEX enrich.ip_inventory_pkey RENAME TO kept; ALTER INDEX enrich.ip_inventory_current_asn_idx RENAME TO ip_inventory_pkey",
    ),
    (
        "an index of another method",
        "ALTER INDEX enrich.ip_inventory_pkey RENAME TO kept; CREATE INDEX ip_inventory_pkey ON enrich.ip_inventory USING hash (ip_address)",
    ),
    (
        "an index of another table",
        "ALTER INDEX enrich.ip_inventory_pkey RENAME TO kept; CREATE INDEX ip_inventory_pkey ON enrich.ip_asn_history (ip_address)",
    ),
];

/// Callers get errors, and errors of sessions are counted. Nothing crashes, and sessions are stored.
#[test]
fn what_the_owner_makes_of_its_tables_is_refused_and_not_read_as_something_else() {
    let cluster = server("owner-types");
    for (what, statements) in ALTERATIONS {
        let mut db = fresh_database(&cluster);
        COWRIE.create_attached(&mut db);
        db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
        db.run("CALL enrich.fold_statistics()");
        owner_session(&db).run(statements);
        // One backend has used the tables before the change, and one has not.
        let mut fresh = db.another();
        for (key, session) in [("b", &mut *db), ("c", &mut fresh)] {
            session.run(&COWRIE.insert(&[(key, Some("8.8.8.8"))]));
            session.run(&COWRIE.insert(&[(&format!("{key}2"), Some("60.1.2.3"))]));
            session.run("DELETE FROM sessions WHERE id = 'a'");
        }
        for call in [
            "SELECT enrich.enrich_ip('8.8.8.8')",
            "SELECT enrich.enrich_ip('8.8.8.8', true)",
            "SELECT enrich.enrich_ips('{8.8.8.8,1.1.1.1}')",
            "SELECT enrich.request_enrichment('60.1.2.3', 'cymru')",
            "SELECT enrich.ensure_asn_inventory(64500, 'Example')",
            "CALL enrich.fold_statistics()",
            "CALL enrich.backfill_sessions('sessions', progress => false)",
            "CALL enrich.refresh_session_counts()",
            "CALL enrich.refresh_stale()",
            "CALL enrich.build_asn_inventory(progress => false)",
        ] {
            let _ = fresh.try_run(call);
        }
        assert_eq!(db.number("SELECT count(*) FROM sessions"), 4, "{what}");
        let log = cluster.whole_log();
        for bad in ["terminated by signal", "PANIC", "server process ("] {
            assert!(!log.contains(bad), "{what}: {}", cluster.log());
        }
    }
}

/// The worker process runs as the bootstrap superuser. PostgreSQL executes the query of a cursor WITH HOLD at
/// commit, and this must not happen as the superuser.
#[test]
fn what_the_owner_puts_on_its_tables_runs_as_the_owner_in_the_worker_to_the_end_of_the_transaction() {
    let lab = Lab::start(
        Options::named("owner-worker")
            .with_worker()
            .owned_by(OWNER)
            .conf("cowrie_enrich.worker_naptime = 100ms")
            .conf("cowrie_enrich.enabled_sources = 'maxmind,cymru'"),
    );
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    worker_pid(&mut db);
    owner_session(&db).run(
        "CREATE TABLE enrich.seen (way text, who name, session name);
         CREATE FUNCTION enrich.note(way text) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO enrich.seen VALUES (way, current_user, session_user);
             RETURN way;
         END $$;
         CREATE FUNCTION enrich.hostile() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM enrich.note(TG_NAME);
             EXECUTE format('DECLARE %I CURSOR WITH HOLD FOR SELECT enrich.note(''cursor of '' || %L)', gen_random_uuid(), TG_NAME);
             RETURN NULL;
         END $$;
         CREATE TRIGGER plain AFTER UPDATE ON enrich.ip_inventory FOR EACH ROW EXECUTE FUNCTION enrich.hostile();
         CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON enrich.ip_inventory DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION enrich.hostile()",
    );
    // A transaction of the worker stores the answer of the provider.
    db.run(&COWRIE.insert(&[("a", Some("60.0.0.7"))]));
    wait_for_the_queue(&mut db);
    wait_until(
        "cursors of both triggers were filled",
        || db.number("SELECT count(DISTINCT way) FROM enrich.seen"),
        |ways| *ways == 4,
    );
    assert_eq!(db.rows("SELECT DISTINCT who FROM enrich.seen"), [OWNER]);
    lab.assert_nothing_crashed();
}

fn succeeded(command: &mut Command) {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// As docs/upgrade.md describes: the set-up first, then the dump without the schema that the set-up has created.
#[test]
fn a_dump_is_restored_into_the_same_set_up() {
    let cluster = server("owner-restore");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    SUMMARIES.create(&mut db);
    db.run(
        "SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', add_foreign_key => true);
         DROP ROLE IF EXISTS restore_analyst; CREATE ROLE restore_analyst;
         GRANT USAGE ON SCHEMA enrich TO restore_analyst; GRANT SELECT ON enrich.ip_inventory TO restore_analyst",
    );
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("60.0.0.1"))]));
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]));
    db.run("SELECT enrich.enrich_ip('139.59.0.1'); UPDATE enrich.known_networks SET label = 'Mine' WHERE asn_number = 15169");
    let before = contents(&mut db);
    for (format, jobs) in [("custom", "1"), ("directory", "2"), ("plain", "1")] {
        let dump = cluster.files().join(format!("owner-{format}.dump"));
        succeeded(cluster.program("pg_dump").args(["--format", format, "--file"]).arg(&dump).arg(&db.name));
        let mut restored = bare_database(&cluster);
        create_extension_as(&mut restored, OWNER);
        if format == "plain" {
            let script = std::fs::read_to_string(&dump).expect("own directory");
            std::fs::write(&dump, script.replace("CREATE SCHEMA enrich;", "")).expect("own directory");
            succeeded(
                cluster
                    .program("psql")
                    .args(["-qX", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "--single-transaction", "-f"])
                    .arg(&dump)
                    .args(["-d", &restored.name]),
            );
        } else {
            let list = cluster.program("pg_restore").arg("--list").arg(&dump).output().expect("it runs");
            let list = String::from_utf8_lossy(&list.stdout).into_owned();
            let kept: Vec<&str> = list.lines().filter(|line| !line.contains(" SCHEMA - enrich ")).collect();
            assert_eq!(kept.len() + 1, list.lines().count(), "{list}");
            let file = cluster.files().join("owner.list");
            std::fs::write(&file, kept.join("\n")).expect("own directory");
            succeeded(
                cluster
                    .program("pg_restore")
                    .args(["--exit-on-error", "--jobs", jobs, "--use-list"])
                    .arg(&file)
                    .args(["-d", &restored.name])
                    .arg(&dump),
            );
        }
        restored.run("SET search_path = public, enrich");
        assert_eq!(differences(&contents(&mut restored), &before), [""; 0], "{format}");
        assert_eq!(restored.rows(OWNERS), [format!("{OWNER}|f")], "{format}");
        assert_eq!(
            restored.one("SELECT has_table_privilege('restore_analyst', 'enrich.ip_inventory', 'SELECT')"),
            "t"
        );
        restored.run(&COWRIE.insert(&[("later", Some("1.1.1.1"))]));
        restored.run(&SUMMARIES.insert(&[("later", Some("9.9.9.9"))]));
        assert_counts_are_exact(&mut restored, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
        assert_eq!(restored.rows("SELECT * FROM enrich.unsafe_foreign_keys"), [""; 0]);
    }
}

/// After `pg_upgrade`, or after an update by a superuser, some objects have another owner than the extension.
#[test]
fn whoever_owns_the_extension_the_worker_acts_as_the_owner_of_the_inventory() {
    let lab = Lab::start(
        Options::named("owner-mixed")
            .with_worker()
            .owned_by(OWNER)
            .conf("cowrie_enrich.worker_naptime = 100ms"),
    );
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    db.run(
        "UPDATE pg_extension SET extowner = 'postgres'::regrole WHERE extname = 'cowrie_enrich';
         ALTER FUNCTION enrich.enrich_session() OWNER TO postgres;
         ALTER FUNCTION enrich.enrich_ip(inet, boolean) OWNER TO postgres;
         CREATE TABLE enrich.seen (who name); GRANT INSERT ON enrich.seen TO PUBLIC;
         CREATE FUNCTION enrich.note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO enrich.seen VALUES (current_user); RETURN NULL; END $$;
         GRANT EXECUTE ON FUNCTION enrich.note() TO PUBLIC;
         CREATE TRIGGER note AFTER INSERT OR UPDATE ON enrich.ip_inventory FOR EACH ROW EXECUTE FUNCTION enrich.note()",
    );
    db.run(&COWRIE.insert(&[("a", Some("60.0.0.7"))]));
    db.run("SELECT enrich.enrich_ip('1.1.1.1')");
    wait_for_the_queue(&mut db);
    wait_until("the answer is there", || COWRIE.snapshot(&mut db, "a"), |it| !it.starts_with("NULL"));
    assert_eq!(db.rows("SELECT DISTINCT who FROM enrich.seen"), [OWNER]);
}
