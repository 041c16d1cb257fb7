//! If an attached table was changed, `attached_tables` has the reason, and the sessions of the table stay counted.

use server_tests::cymru::worker_pid;
use server_tests::database::cluster_with_world;
use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Cluster, Options, Session, database, fresh_database, wait_until};

const BOTH: [&Host; 2] = [&COWRIE, &SUMMARIES];
const RECOUNT: &str = "CALL enrich.refresh_session_counts()";

fn warnings(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("WARNING:  ")).collect()
}

fn counts(session: &mut Session) -> Vec<String> {
    session.rows("SELECT ip_address, session_count FROM enrich.ip_inventory ORDER BY 1")
}

fn corrected(session: &mut Session) -> i64 {
    session.number(
        "SELECT result -> 'addresses_corrected' FROM enrich.procedure_call WHERE procedure = 'refresh_session_counts'",
    )
}

fn cluster_with_worker(name: &str) -> Cluster {
    cluster_with_world(
        &Options::named(name)
            .with_worker()
            .conf("cowrie_enrich.worker_naptime = 100ms")
            .conf("cowrie_enrich.enabled_sources = 'maxmind'"),
    )
}

fn metric(session: &mut Session) -> String {
    session.one(
        "SELECT value FROM enrich.enrich_metrics
         WHERE name = 'enrich_attached_tables_not_intact' AND labels ->> 'database' = current_database()",
    )
}

#[test]
fn a_renamed_address_column_is_warned_of_and_zeroes_no_count() {
    for host in BOTH {
        let mut db = database();
        host.create_attached(&mut db);
        db.run(&host.insert(&[("a", Some("8.8.8.8")), ("b", Some("8.8.8.8")), ("c", Some("1.1.1.1"))]));
        db.run("CALL enrich.fold_statistics()");
        assert_eq!(metric(&mut db), "0");
        db.run(&format!("ALTER TABLE {} RENAME COLUMN {} TO src", host.table, host.address));
        let said = db.notices(RECOUNT);
        assert_eq!(
            warnings(&said),
            [format!(
                "refresh_session_counts: could not count the sessions of public.{}: column {} does not exist",
                host.table, host.address
            )],
            "{said}"
        );
        assert!(
            said.contains("HINT:  No count was lowered, because not all sessions were counted. Undo the change, or call attach_session_table() again"),
            "{said}"
        );
        assert_eq!(counts(&mut db), ["1.1.1.1|1", "8.8.8.8|2"]);
        assert_eq!(corrected(&mut db), 0);
        assert_eq!(db.number("SELECT sum(total_session_count) FROM enrich.asn_inventory"), 3);
        assert_eq!(metric(&mut db), "1");
        // After the table is attached again, a recount raises and lowers its counts.
        db.run(&format!(
            "ALTER TABLE {0} DISABLE TRIGGER ALL;
             DELETE FROM {0} WHERE {1} = 'a';
             ALTER TABLE {0} ENABLE TRIGGER ALL;
             SELECT enrich.attach_session_table('{0}', 'src', '{2}')",
            host.table, host.key, host.time
        ));
        assert_eq!(metric(&mut db), "0");
        let said = db.notices(RECOUNT);
        assert_eq!(warnings(&said), [""; 0], "{said}");
        assert_eq!(counts(&mut db), ["1.1.1.1|1", "8.8.8.8|1"]);
        assert_counts_are_exact(&mut db, &[(host.table, "src")]);
    }
}

/// A table that cannot be read may have sessions of any address. So a recount may raise the count of an address, but
/// not lower it.
#[test]
fn counts_of_other_tables_are_corrected_upwards_alone() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1")), ("c", Some("89.160.20.1"))]));
    db.run("CALL enrich.fold_statistics()");
    db.run(
        "UPDATE enrich.ip_inventory SET session_count = 0 WHERE ip_address = '1.1.1.1';
         UPDATE enrich.ip_inventory SET session_count = 7 WHERE ip_address = '89.160.20.1'",
    );
    db.run("ALTER TABLE sessions RENAME ip TO src");
    db.run(RECOUNT);
    assert_eq!(counts(&mut db), ["1.1.1.1|1", "8.8.8.8|2", "89.160.20.1|7"]);
    assert_eq!(corrected(&mut db), 1);
    db.run("ALTER TABLE sessions RENAME src TO ip");
    db.run(RECOUNT);
    assert_eq!(counts(&mut db), ["1.1.1.1|1", "8.8.8.8|2", "89.160.20.1|1"]);
    assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
}

/// A change that makes a column unusable, the reason that is shown, and whether addresses can still be read.
const CHANGES: [(&str, &str, bool); 10] = [
    ("ALTER TABLE s RENAME ip TO \"The ip\"", "column ip does not exist", false),
    ("ALTER TABLE s DROP ip", "column ip does not exist", false),
    ("ALTER TABLE s ALTER ip TYPE jsonb USING to_jsonb(ip)", "column ip has type jsonb", false),
    (
        "CREATE SCHEMA other; CREATE DOMAIN other.d AS inet; ALTER TABLE s ALTER ip TYPE other.d",
        "column ip has type other.d",
        false,
    ),
    ("ALTER TABLE s RENAME t TO u", "column t does not exist", true),
    ("ALTER TABLE s ALTER t TYPE text", "column t has type text", true),
    ("ALTER TABLE s DROP snapshot_asn", "column snapshot_asn does not exist", true),
    ("ALTER TABLE s ALTER snapshot_asn TYPE integer", "column snapshot_asn has type integer", true),
    ("ALTER TABLE s DROP enrichment", "column enrichment does not exist", true),
    (
        "ALTER TABLE s ALTER enrichment_at TYPE timestamp",
        "column enrichment_at has type timestamp without time zone",
        true,
    ),
];

#[test]
fn every_change_is_named_by_the_view_the_recount_and_the_backfill() {
    for is_partitioned in [false, true] {
        for (change, reason, is_readable) in CHANGES {
            let mut db = database();
            let (partition, parts) = if is_partitioned {
                ("PARTITION BY RANGE (id)", "CREATE TABLE p PARTITION OF s DEFAULT")
            } else {
                ("", "")
            };
            db.run(&format!(
                "CREATE TABLE s (id int, ip inet, t timestamptz) {partition}; {parts};
                 SELECT enrich.attach_session_table('s', 'ip', 't');
                 INSERT INTO s VALUES (1, '8.8.8.8', '2024-05-01'), (2, '1.1.1.1', '2024-05-01')"
            ));
            db.run("CALL enrich.fold_statistics()");
            let before = counts(&mut db);
            // The index depends on the columns.
            db.run(&format!("DROP INDEX s_cowrie_enrich_waiting; {change}"));
            assert_eq!(
                db.one("SELECT is_intact, not_intact_reason FROM enrich.attached_tables"),
                format!("f|{reason}"),
                "{change}"
            );
            let warning = if is_readable {
                "public.s is not intact"
            } else {
                "could not count the sessions of public.s"
            };
            let expected = format!("refresh_session_counts: {warning}: {reason}");
            let said = db.notices(RECOUNT);
            assert_eq!(warnings(&said), [expected], "{change}: {said}");
            assert_eq!(counts(&mut db), before, "{change}");
            let said = db.notices("CALL enrich.backfill_sessions('s', progress => false)");
            let expected = format!("backfill_sessions: {warning}: {reason}");
            assert!(warnings(&said).contains(&expected.as_str()), "{change}: {said}");
            assert_eq!(counts(&mut db), before, "{change}");
            assert_eq!(metric(&mut db), "1", "{change}");
        }
    }
}

/// A change of triggers, the reported reason, and the statement that makes the table intact again.
const TRIGGERS: [(&str, &str, &str); 11] = [
    (
        "ALTER TABLE s DISABLE TRIGGER USER",
        "trigger zz_cowrie_enrich_count of public.s is disabled",
        "ALTER TABLE s ENABLE TRIGGER USER",
    ),
    (
        "ALTER TABLE s DISABLE TRIGGER zz_cowrie_enrich_snapshot",
        "trigger zz_cowrie_enrich_snapshot of public.s is disabled",
        "ALTER TABLE s ENABLE ALWAYS TRIGGER zz_cowrie_enrich_snapshot",
    ),
    (
        "ALTER TABLE s ENABLE REPLICA TRIGGER zz_cowrie_enrich_truncate",
        "trigger zz_cowrie_enrich_truncate of public.s is disabled",
        "SELECT enrich.attach_session_table('s', 'ip', 't')",
    ),
    (
        "DROP TRIGGER zz_cowrie_enrich_count ON s",
        "public.s has no trigger zz_cowrie_enrich_count",
        "SELECT enrich.attach_session_table('s', 'ip', 't')",
    ),
    (
        "DROP TRIGGER zz_cowrie_enrich_snapshot ON s",
        "public.s has no trigger zz_cowrie_enrich_snapshot",
        "SELECT enrich.attach_session_table('s', 'ip', 't')",
    ),
    (
        "DROP TRIGGER zz_cowrie_enrich_truncate ON s",
        "public.s has no trigger zz_cowrie_enrich_truncate",
        "SELECT enrich.attach_session_table('s', 'ip', 't')",
    ),
    (
        "SELECT enrich.attach_session_table('s', 'ip', 't', add_foreign_key => true);
         DROP TRIGGER \"COWRIE_ENRICH_reference\" ON s",
        "public.s has no trigger \"COWRIE_ENRICH_reference\"",
        "SELECT enrich.attach_session_table('s', 'ip', 't', add_foreign_key => true)",
    ),
    (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE OR REPLACE TRIGGER zz_cowrie_enrich_count AFTER INSERT OR UPDATE OR DELETE ON s
             FOR EACH ROW EXECUTE FUNCTION f();
         CREATE OR REPLACE TRIGGER zz_cowrie_enrich_snapshot BEFORE INSERT OR UPDATE ON s
             FOR EACH ROW EXECUTE FUNCTION f()",
        "trigger zz_cowrie_enrich_count of public.s was replaced",
        ATTACH,
    ),
    (
        "CREATE OR REPLACE TRIGGER zz_cowrie_enrich_snapshot BEFORE INSERT OR UPDATE OF ip ON s
             FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session('ip', 't')",
        "trigger zz_cowrie_enrich_snapshot of public.s was replaced",
        ATTACH,
    ),
    (
        "CREATE OR REPLACE TRIGGER zz_cowrie_enrich_count AFTER INSERT OR UPDATE OR DELETE ON s
             FOR EACH ROW WHEN (false) EXECUTE FUNCTION enrich.enrich_session('ip', 't')",
        "trigger zz_cowrie_enrich_count of public.s was replaced",
        ATTACH,
    ),
    (
        "DROP INDEX s_cowrie_enrich_waiting",
        "public.s lacks the index of sessions with null snapshot columns",
        ATTACH,
    ),
];
const ATTACH: &str = "SELECT enrich.attach_session_table('s', 'ip', 't')";

/// The addresses of the table can still be read, so a recount also counts the sessions that the triggers missed.
#[test]
fn a_trigger_that_does_not_fire_is_named_and_its_sessions_are_recounted() {
    for (change, reason, repair) in TRIGGERS {
        let mut db = database();
        db.run(
            "CREATE TABLE s (id int, ip inet, t timestamptz);
             SELECT enrich.attach_session_table('s', 'ip', 't');
             INSERT INTO s VALUES (1, '8.8.8.8', '2024-05-01')",
        );
        db.run(&format!(
            "CALL enrich.fold_statistics(); {change}; INSERT INTO s VALUES (2, '8.8.8.8', '2024-05-02')"
        ));
        let shown = "SELECT is_intact, is_readable, not_intact_reason FROM enrich.attached_tables";
        // A name is shown without its schema if the reader's search_path has the schema.
        assert_eq!(db.one(shown), format!("f|t|{}", reason.replace("public.", "")), "{change}");
        assert_eq!(metric(&mut db), "1", "{change}");
        let said = db.notices(RECOUNT);
        let expected = format!("refresh_session_counts: public.s is not intact: {reason}");
        assert_eq!(warnings(&said), [expected], "{change}: {said}");
        assert_eq!(counts(&mut db), ["8.8.8.8|2"], "{change}");
        db.run(repair);
        assert_eq!(db.one(shown), "t|t|NULL", "{repair}");
        assert_eq!(metric(&mut db), "0", "{repair}");
    }
}

/// A recount that could not read a table is made again when the table can be read.
#[test]
fn a_recount_that_left_out_a_table_is_repeated() {
    let cluster = cluster_with_worker("not-intact-repeat");
    let mut db = fresh_database(&cluster);
    db.run(
        "CREATE TABLE lost (id int, ip inet); SELECT enrich.attach_session_table('lost', 'ip');
         CREATE TABLE broken (id int, ip inet); SELECT enrich.attach_session_table('broken', 'ip')",
    );
    db.run(
        "INSERT INTO lost VALUES (1, '8.8.8.8'), (2, '8.8.8.8'); INSERT INTO broken VALUES (1, '1.1.1.1')",
    );
    worker_pid(&mut db);
    wait_until("all are counted", || counts(&mut db), |counts| *counts == ["1.1.1.1|1", "8.8.8.8|2"]);
    db.run("ALTER TABLE broken RENAME ip TO gone");
    let mut locker = db.another();
    locker.run("BEGIN; LOCK TABLE enrich.session_delta");
    assert!(db.notices("DELETE FROM lost WHERE id = 1").contains("could not count"));
    locker.run("ROLLBACK");
    let log = || cluster.log();
    wait_until("a recount has left the table out", log, |log| {
        log.contains("a recount could not count the sessions of a table and will be repeated")
    });
    assert_eq!(counts(&mut db), ["1.1.1.1|1", "8.8.8.8|2"]);
    assert_eq!(db.number("SELECT count(*) FROM enrich.recount_request"), 1);
    db.run("ALTER TABLE broken RENAME gone TO ip");
    wait_until("the count is right", || counts(&mut db), |counts| *counts == ["1.1.1.1|1", "8.8.8.8|1"]);
    wait_until(
        "the request is done",
        || db.number("SELECT count(*) FROM enrich.recount_request"),
        |requests| *requests == 0,
    );
}

/// Each partition has separate triggers.
#[test]
fn a_trigger_of_one_partition_that_does_not_fire_is_named() {
    let mut db = database();
    db.run(
        "CREATE TABLE s (id int, ip inet) PARTITION BY RANGE (id);
         CREATE TABLE deep PARTITION OF s FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
         CREATE TABLE leaf PARTITION OF deep DEFAULT;
         SELECT enrich.attach_session_table('s', 'ip');
         CREATE TABLE later PARTITION OF s DEFAULT",
    );
    let shown = "SELECT is_intact, not_intact_reason FROM enrich.attached_tables";
    assert_eq!(db.one(shown), "t|NULL");
    for part in ["leaf", "later"] {
        db.run(&format!("ALTER TABLE {part} DISABLE TRIGGER zz_cowrie_enrich_snapshot"));
        assert_eq!(db.one(shown), format!("f|trigger zz_cowrie_enrich_snapshot of {part} is disabled"));
        db.run(&format!("ALTER TABLE {part} ENABLE TRIGGER zz_cowrie_enrich_snapshot"));
        assert_eq!(db.one(shown), "t|NULL");
    }
}

/// The sessions that were counted have their addresses in the old column.
#[test]
fn an_address_column_in_the_place_of_another_is_left_out() {
    for is_partitioned in [false, true] {
        let mut db = database();
        let (partition, parts) = if is_partitioned {
            ("PARTITION BY RANGE (id)", "CREATE TABLE p PARTITION OF s DEFAULT")
        } else {
            ("", "")
        };
        db.run(&format!(
            "CREATE TABLE s (id int, ip inet) {partition}; {parts};
             SELECT enrich.attach_session_table('s', 'ip');
             INSERT INTO s VALUES (1, '8.8.8.8'), (2, '1.1.1.1')"
        ));
        db.run("CALL enrich.fold_statistics(); ALTER TABLE s RENAME ip TO old; ALTER TABLE s ADD ip inet");
        let reason = "column ip is not the address column with which attach_session_table() was called";
        assert_eq!(
            db.one("SELECT is_intact, is_readable, not_intact_reason FROM enrich.attached_tables"),
            format!("f|f|{reason}")
        );
        let said = db.notices(RECOUNT);
        let expected = format!("refresh_session_counts: could not count the sessions of public.s: {reason}");
        assert_eq!(warnings(&said), [expected], "{said}");
        assert_eq!(counts(&mut db), ["1.1.1.1|1", "8.8.8.8|1"]);
        db.run("SELECT enrich.attach_session_table('s', 'old')");
        assert_eq!(warnings(&db.notices(RECOUNT)), [""; 0]);
        assert_eq!(counts(&mut db), ["1.1.1.1|1", "8.8.8.8|1"]);
    }
}

/// A foreign table can become a partition after the partitioned table was attached. No recount can read its sessions.
#[test]
fn a_partition_that_is_a_foreign_table_is_refused_and_left_out() {
    let mut db = database();
    db.run(
        "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
         CREATE TABLE s (id int, ip inet) PARTITION BY RANGE (id);
         CREATE TABLE near PARTITION OF s FOR VALUES FROM (0) TO (10);
         CREATE FOREIGN TABLE far PARTITION OF s FOR VALUES FROM (10) TO (20) SERVER elsewhere",
    );
    let refusal = db.refused("SELECT enrich.attach_session_table('s', 'ip')");
    assert_eq!(refusal.code, "42809");
    assert_eq!(refusal.message, "partition public.far of public.s is a foreign table");
    db.run(
        "DROP FOREIGN TABLE far; SELECT enrich.attach_session_table('s', 'ip');
         INSERT INTO s VALUES (1, '8.8.8.8');
         CREATE FOREIGN TABLE far PARTITION OF s FOR VALUES FROM (10) TO (20) SERVER elsewhere;
         INSERT INTO enrich.session_delta (ip_address, sessions) VALUES ('1.1.1.1', 1)",
    );
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(counts(&mut db), ["1.1.1.1|1", "8.8.8.8|1"]);
    assert_eq!(
        db.one("SELECT is_intact, is_readable, not_intact_reason FROM enrich.attached_tables"),
        "f|f|partition far is a foreign table"
    );
    let said = db.notices(RECOUNT);
    assert_eq!(
        warnings(&said),
        [
            "refresh_session_counts: could not count the sessions of public.s: partition public.far is a foreign table"
        ],
        "{said}"
    );
    assert_eq!(counts(&mut db), ["1.1.1.1|1", "8.8.8.8|1"]);
}

/// A virtual column has no values in the rows that are stored.
#[test]
fn a_virtual_address_column_is_left_out() {
    let mut db = database();
    if db.number("SELECT current_setting('server_version_num')::int") < 180_000 {
        return;
    }
    db.run(
        "CREATE TABLE s (id int, ip inet); SELECT enrich.attach_session_table('s', 'ip');
         INSERT INTO s VALUES (1, '8.8.8.8'); CALL enrich.fold_statistics()",
    );
    db.run(
        "DROP INDEX s_cowrie_enrich_waiting;
         ALTER TABLE s RENAME ip TO raw; ALTER TABLE s ADD ip inet GENERATED ALWAYS AS (raw) VIRTUAL",
    );
    let said = db.notices(RECOUNT);
    assert_eq!(
        warnings(&said),
        ["refresh_session_counts: could not count the sessions of public.s: column ip is generated"],
        "{said}"
    );
    assert_eq!(counts(&mut db), ["8.8.8.8|1"]);
}

#[test]
fn an_inheritance_child_that_is_not_attached_is_named() {
    let mut db = database();
    db.run(
        "CREATE TABLE s (ip inet); SELECT enrich.attach_session_table('s', 'ip');
         CREATE TABLE child () INHERITS (s); INSERT INTO s VALUES ('8.8.8.8')",
    );
    db.run("CALL enrich.fold_statistics()");
    let said = db.notices(RECOUNT);
    assert_eq!(
        warnings(&said),
        [
            "refresh_session_counts: public.s is not intact: inheritance child public.child is not an attached session table"
        ],
        "{said}"
    );
    assert_eq!(counts(&mut db), ["8.8.8.8|1"]);
}

/// The trigger for TRUNCATE cannot read the addresses of the removed sessions. So these sessions stay counted until
/// the table is attached again and recounted.
#[test]
fn truncate_of_a_table_that_cannot_be_read_is_a_counted_error() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    db.run("CALL enrich.fold_statistics(); ALTER TABLE sessions RENAME ip TO src");
    let errors = "SELECT value FROM enrich.enrich_metrics WHERE name = 'enrich_errors_total'";
    let mut other = db.another();
    let before = other.number(errors);
    other.run("TRUNCATE sessions");
    wait_until("the error is counted", || other.number(errors), |now| *now > before);
    db.run(RECOUNT);
    assert_eq!(counts(&mut db), ["8.8.8.8|1"]);
    db.run("SELECT enrich.attach_session_table('sessions', 'src', 'starttime')");
    db.run(RECOUNT);
    assert_eq!(counts(&mut db), ["8.8.8.8|0"]);
}

/// Renaming a column does not wake the worker, but the worker still counts the tables that are not intact.
#[test]
fn the_worker_publishes_the_number_of_tables() {
    let cluster = cluster_with_worker("not-intact-worker");
    let (mut db, mut other) = (fresh_database(&cluster), fresh_database(&cluster));
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    worker_pid(&mut db);
    let published = format!(
        "SELECT value FROM enrich.enrich_metrics
         WHERE name = 'enrich_attached_tables_not_intact' AND labels ->> 'database' = '{}'",
        db.name
    );
    wait_until("the worker has counted", || other.rows(&published), |tables| *tables == ["0"]);
    db.run("ALTER TABLE sessions RENAME ip TO src");
    // The worker counts tables after each fold, and otherwise once a minute.
    db.run("INSERT INTO enrich.session_delta VALUES ('8.8.8.8', 0)");
    wait_until("the worker has counted the table", || other.rows(&published), |tables| *tables == ["1"]);
    db.run("ALTER TABLE sessions RENAME src TO ip; INSERT INTO enrich.session_delta VALUES ('8.8.8.8', 0)");
    wait_until("the worker has counted again", || other.rows(&published), |tables| *tables == ["0"]);
}

/// Without the address column, the procedure cannot find out which sessions are orphans.
#[test]
fn a_foreign_key_of_a_table_that_cannot_be_read_is_not_said_to_have_no_orphans() {
    let mut db = database();
    db.run(
        "CREATE TABLE s (id int, ip inet); INSERT INTO s VALUES (1, '10.0.0.0/8');
         SELECT enrich.attach_session_table('s', 'ip', NULL, true)",
    );
    db.run("ALTER TABLE s RENAME ip TO src");
    let said = db.notices("CALL enrich.backfill_sessions('s', progress => false)");
    let expected = "could not compare sessions of \"s\" with ip_inventory, so the foreign key stays NOT VALID: column ip does not exist";
    assert!(warnings(&said).contains(&expected), "{said}");
    assert!(!said.contains("the addresses of 0 sessions"), "{said}");
}

#[test]
fn an_import_warns_of_a_table_that_was_attached_before() {
    let mut db = database();
    db.run("CREATE SCHEMA old; SET search_path = old");
    SUMMARIES.create_attached(&mut db);
    db.run("ALTER TABLE session_summaries RENAME snapshot_ip_type TO former; SET search_path = public");
    let said = db.notices("CALL enrich.import_inventory('old')");
    assert_eq!(
        warnings(&said),
        [
            "old.session_summaries is already an attached session table, but is not intact: column snapshot_ip_type does not exist"
        ],
        "{said}"
    );
}
