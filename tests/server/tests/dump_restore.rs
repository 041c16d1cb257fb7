//! Dumps of a database in the middle of its work, in every format, restored into a server with a running worker. Every
//! row exists once, the worker resumes the queue, and sessions are counted as before.

use std::path::PathBuf;
use std::process::Command;

use cowrie_enrich_upstreams::{Behaviour, Fault};
use server_tests::contents::{contents, empty_tables};
use server_tests::cymru::{Lab, array, members, wait_for_the_queue, worker_pid};
use server_tests::database::{bare_database, database};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::invariants::{Snapshots, assert_invariants};
use server_tests::recount::assert_counts_are_exact;
use server_tests::releases::differences;
use server_tests::traffic::{TABLES, Traffic, prepare};
use server_tests::{Database, Options, wait_until};

/// Removes leases, as a restore does, so that the databases before and after the restore can be compared.
const WITHOUT_LEASES: &str = "UPDATE enrich.enrichment_job SET leased_by = NULL, due_at = 'epoch'";

/// Returns a database with rows in every table: leased and waiting jobs, pending counts, dead letters, a rule, and rows
/// that the operator added.
fn busy_database(lab: &Lab) -> Database<'_> {
    let mut db = lab.database();
    prepare(&mut db);
    db.run("SELECT enrich.set_session_priority('sessions', 'length(s.id)')");
    db.run("SELECT enrich.set_session_table_options('sessions', true, true)");
    db.run(
        "INSERT INTO enrich.known_networks (asn_number, label, asn_type) VALUES (64500, 'Example', 'ISP');
         UPDATE enrich.known_networks SET asn_type = 'ISP' WHERE asn_number = 13335;
         INSERT INTO enrich.provider_quota VALUES ('greynoise', current_date, 7, 9);
         INSERT INTO enrich.rejected_row (procedure, relation, row_key, reason) VALUES ('import_inventory', 'x', '1', 'y')",
    );
    lab.whois.behave(Behaviour::normal());
    db.run(&format!("SELECT enrich.enrich_ips({})", array(&members(3_000..3_020))));
    wait_for_the_queue(&mut db);
    lab.whois.behave(Fault::Held);
    let traffic = Traffic::new(&lab.cluster, &db.name, 1, 3);
    for _ in 0..60 {
        traffic.step(0);
    }
    drop(traffic.hold());
    db.run(
        "INSERT INTO enrich.dead_letter VALUES
             ('cymru', '60.0.9.9', 'prefix', '60.0.9.0/24', 0, 3, 'tried', now(), now(), NULL),
             ('cymru', NULL, 'asn', '64999', 0, 3, 'tried', now(), now(), 64999);
         UPDATE enrich.asn_inventory
         SET as_name = 'ANY, US', allocated_on = '2000-03-30', lookup_queued_at = now() - interval '1 day'
         WHERE asn_number % 2 = 0",
    );
    let leased = "SELECT count(*) FROM enrich.enrichment_job WHERE leased_by IS NOT NULL";
    wait_until("a batch is under way", || db.number(leased), |jobs| *jobs > 0);
    lab.reconfigure(&["worker_enabled = off"]);
    let workers = "SELECT count(*) FROM enrich.worker_status() WHERE role = 'worker' AND pid IS NOT NULL";
    wait_until("the worker has gone", || db.number(workers), |number| *number == 0);
    db.run(&COWRIE.insert(&[("waits", Some("60.0.77.7")), ("known", Some("8.8.8.8"))]));
    db.run(&SUMMARIES.insert(&[("waits", Some("60.0.77.8")), ("known", Some("8.8.8.8"))]));
    // Adds pending counts of networks, as they exist between two steps of a fold.
    db.run("INSERT INTO enrich.network_delta (asn_number, addresses, sessions) VALUES (15169, 1, 0), (15169, -1, 0)");
    assert_eq!(empty_tables(&mut db), [""; 0], "a dump of nothing proves nothing");
    db
}

fn dump(db: &Database<'_>, arguments: &[&str], name: &str) -> PathBuf {
    let file = db.cluster.files().join(name);
    let mut command = db.cluster.program("pg_dump");
    succeeded(command.args(arguments).arg("--file").arg(&file).arg(&db.name));
    file
}

#[track_caller]
fn succeeded(command: &mut Command) {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn restore(into: &Database<'_>, arguments: &[&str], dump: &PathBuf) {
    let mut command = into.cluster.program("pg_restore");
    succeeded(command.args(["--exit-on-error"]).args(arguments).arg("-d").arg(&into.name).arg(dump));
}

/// Restores the data as docs/upgrade.md describes. `known_networks` is restored with its trigger, which replaces a row
/// of the install script by an edited one. All other tables are restored without triggers, otherwise sessions would be
/// counted again.
fn restore_data(into: &Database<'_>, dump: &PathBuf, jobs: &str) {
    restore(into, &["--data-only", "--table", "known_networks"], dump);
    let list = into.cluster.program("pg_restore").arg("--list").arg(dump).output().expect("pg_restore runs");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let rest: Vec<&str> = list.lines().filter(|line| !line.contains(" known_networks ")).collect();
    let file = into.cluster.files().join(format!("{}.list", into.name));
    std::fs::write(&file, rest.join("\n")).expect("own directory");
    let file = file.to_str().expect("a name");
    restore(into, &["--data-only", "--disable-triggers", "--jobs", jobs, "--use-list", file], dump);
}

/// Asserts that the worker, which may have seen the restore, completes the restored work, and that sessions are
/// counted.
#[track_caller]
fn assert_it_goes_on(lab: &Lab, db: &mut Database<'_>, what: &str) {
    db.run("SET search_path = public, enrich");
    lab.whois.behave(Behaviour::normal());
    worker_pid(db);
    wait_for_the_queue(db);
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 2, "{what}");
    assert_eq!(COWRIE.snapshot(db, "known"), "15169|US|NULL", "{what}");
    assert!(!COWRIE.snapshot(db, "waits").starts_with("NULL"), "{what}: it was waiting for its network");
    assert_invariants(db, &mut Snapshots::default());
    db.run(&COWRIE.insert(&[("later", Some("1.1.1.1"))]));
    assert_counts_are_exact(db, &TABLES);
    db.run("DELETE FROM sessions WHERE id = 'later'");
    assert_counts_are_exact(db, &TABLES);
}

fn lab(name: &str) -> Lab {
    Lab::start(
        Options::named(name)
            .with_worker()
            .conf("cowrie_enrich.worker_naptime = 100ms")
            .conf("cowrie_enrich.enabled_sources = 'maxmind,cymru'"),
    )
}

#[test]
fn every_format_is_restored_to_the_same_rows() {
    let lab = lab("dump-formats");
    let mut db = busy_database(&lab);
    let files = [("custom", "1"), ("custom", "4"), ("directory", "4"), ("tar", "1"), ("plain", "1")].map(
        |(format, jobs)| {
            (format, jobs, dump(&db, &["--format", format], &format!("all-{format}-{jobs}.dump")))
        },
    );
    let leases = "SELECT count(*) FROM enrich.enrichment_job WHERE leased_by IS NOT NULL";
    assert!(db.number(leases) > 0, "no lease was dumped");
    db.run(WITHOUT_LEASES);
    let before = contents(&mut db);
    for (format, jobs, file) in files {
        let mut restored = bare_database(&lab.cluster);
        if format == "plain" {
            let mut psql = lab.cluster.program("psql");
            succeeded(
                psql.args(["-qX", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "--single-transaction", "-f"])
                    .arg(&file)
                    .args(["-d", &restored.name]),
            );
        } else {
            restore(&restored, &["--jobs", jobs], &file);
        }
        restored.run("SET search_path = public, enrich");
        // No worker of this server has these leases.
        assert!(format == "plain" || restored.number(leases) == 0, "{format}, {jobs} jobs");
        restored.run(WITHOUT_LEASES);
        assert_eq!(differences(&contents(&mut restored), &before), [""; 0], "{format}, {jobs} jobs");
    }
}

/// Forces an order that parallel jobs produce by chance.
#[test]
fn addresses_that_are_restored_before_their_networks_find_them() {
    let lab = lab("dump-order");
    let mut db = busy_database(&lab);
    let file = dump(&db, &["--format", "custom"], "order.dump");
    db.run(WITHOUT_LEASES);
    let before = contents(&mut db);
    let list = lab.cluster.program("pg_restore").arg("--list").arg(&file).output().expect("pg_restore runs");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let (networks, rest): (Vec<&str>, Vec<&str>) =
        list.lines().partition(|line| line.contains("TABLE DATA enrich asn_inventory "));
    assert_eq!(networks.len(), 1, "{list}");
    let first =
        rest.iter().position(|line| line.contains("TABLE DATA enrich ip_inventory ")).expect("addresses");
    let reordered = [&rest[..=first], &networks[..], &rest[first + 1..]].concat().join("\n");
    let order = lab.cluster.files().join("order.list");
    std::fs::write(&order, reordered).expect("own directory");
    let mut restored = bare_database(&lab.cluster);
    restore(&restored, &["--use-list", order.to_str().expect("a name")], &file);
    restored.run("SET search_path = public, enrich");
    restored.run(WITHOUT_LEASES);
    assert_eq!(differences(&contents(&mut restored), &before), [""; 0]);
    assert_invariants(&mut restored, &mut Snapshots::default());
    // A role that sets application_name to pg_restore and is not a superuser gets the error of the foreign key.
    restored.run(
        "CREATE ROLE dump_stranger; GRANT USAGE ON SCHEMA enrich TO dump_stranger;
         GRANT INSERT ON enrich.ip_inventory TO dump_stranger;
         SET application_name = 'pg_restore'; SET SESSION AUTHORIZATION dump_stranger",
    );
    let refusal = restored
        .refused("INSERT INTO enrich.ip_inventory (ip_address, current_asn) VALUES ('203.0.114.1', 64999)");
    assert_eq!(refusal.code, "23503", "{refusal:?}");
}

/// A restore begins with the extension, so the worker starts then.
#[test]
fn a_restore_beside_a_working_worker_collides_with_nothing_of_its() {
    let lab = lab("dump-worker");
    let db = busy_database(&lab);
    let file = dump(&db, &["--format", "directory"], "beside.dump");
    lab.reconfigure(&["worker_enabled = on"]);
    for jobs in ["1", "4"] {
        lab.whois.behave(Behaviour::normal());
        let mut restored = bare_database(&lab.cluster);
        restore(&restored, &["--jobs", jobs], &file);
        assert_it_goes_on(&lab, &mut restored, &format!("{jobs} jobs"));
    }
}

/// Parallel jobs of pg_restore connect after its first connection has ended. So a round of the worker can begin between the two.
#[test]
fn a_round_that_began_before_the_restore_folds_nothing() {
    let lab = lab("dump-round");
    let mut db = lab.database();
    let mut blocker = db.another();
    blocker.run("BEGIN; LOCK TABLE enrich.enrichment_job IN ACCESS EXCLUSIVE MODE");
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("first", Some("8.8.8.8"))]));
    worker_pid(&mut db);
    let waiting =
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'enrich.enrichment_job'::regclass";
    wait_until("the worker is in the middle of a round", || db.number(waiting), |waiting| *waiting > 0);
    let mut restoring = db.another();
    restoring.run("SET application_name = 'pg_restore'");
    // The row of the address would be restored later.
    restoring.run("INSERT INTO enrich.session_delta (ip_address, sessions) VALUES ('23.1.0.1', -1)");
    blocker.run("COMMIT");
    let state =
        "SELECT state FROM enrich.worker_status() WHERE database = current_database() AND role = 'worker'";
    wait_until("the worker waits", || db.rows(state), |states| *states == ["waiting for pg_restore to end"]);
    assert_eq!(db.number("SELECT count(*) FROM enrich.session_delta WHERE sessions < 0"), 1);
}

/// Forces a case that the worker of the restored database causes by chance.
#[test]
fn a_quota_that_is_restored_is_added_to_what_was_spent_meanwhile() {
    let lab = lab("dump-quota");
    let mut db = busy_database(&lab);
    let spent = |requests: u32, cluster_spent: u32| {
        format!(
            "DELETE FROM enrich.provider_quota;
             INSERT INTO enrich.provider_quota VALUES ('spur', '2024-05-01', {requests}, {cluster_spent})"
        )
    };
    db.run(&spent(7, 30));
    let file = dump(&db, &["--format", "custom"], "quota.dump");
    let mut restored = bare_database(&lab.cluster);
    restore(&restored, &["--schema-only"], &file);
    restored.run(&spent(2, 33));
    restore(&restored, &["--data-only", "--table", "provider_quota"], &file);
    let now = "SELECT requests, cluster_spent FROM enrich.provider_quota WHERE provider = 'spur'";
    assert_eq!(restored.rows(now), ["9|33"]);
}

/// Restores first the schema and then the data. The first run uses two dumps, the second run one dump in two steps.
#[test]
fn schema_and_data_are_restored_one_after_the_other() {
    let lab = lab("dump-parts");
    let mut db = busy_database(&lab);
    let before = contents(&mut db);
    let (schema, data) = (
        dump(&db, &["--format", "custom", "--schema-only"], "schema.dump"),
        dump(&db, &["--format", "custom", "--data-only", "--disable-triggers"], "data.dump"),
    );
    let whole = dump(&db, &["--format", "directory"], "whole.dump");
    for (first, second, jobs) in [(&schema, &data, "1"), (&whole, &whole, "1"), (&whole, &whole, "4")] {
        let mut restored = bare_database(&lab.cluster);
        restore(&restored, &["--schema-only"], first);
        restored.run("SET search_path = public, enrich");
        let nothing: Vec<_> = contents(&mut restored);
        assert!(nothing.iter().all(|row| row.starts_with("enrich.known_networks")), "{nothing:?}");
        restore_data(&restored, second, jobs);
        assert_eq!(differences(&contents(&mut restored), &before), [""; 0], "{jobs} jobs");
        assert_invariants(&mut restored, &mut Snapshots::default());
    }
    let mut restored = bare_database(&lab.cluster);
    restore(&restored, &["--schema-only"], &schema);
    restore_data(&restored, &data, "1");
    // The documentation says to enable the worker only after both steps.
    lab.reconfigure(&["worker_enabled = on"]);
    assert_it_goes_on(&lab, &mut restored, "in two parts");
}

/// Another database may have another table with the OID of a dropped one.
#[test]
fn a_dump_leaves_out_options_and_rules_of_dropped_tables() {
    let mut db = database();
    db.run("CREATE TABLE kept (ip inet); CREATE TABLE dropped (ip inet)");
    for table in ["kept", "dropped"] {
        db.run(&format!(
            "SELECT enrich.attach_session_table('{table}', 'ip', run_triggers => true);
             SELECT enrich.set_session_priority('{table}', '1');
             INSERT INTO {table} VALUES ('8.8.8.8')"
        ));
    }
    db.run(
        "INSERT INTO enrich.session_completion (ip_address, rel)
         SELECT '9.9.9.9', unnest('{kept,dropped}'::regclass[])",
    );
    let oid = db.one("SELECT 'dropped'::regclass::oid");
    db.run("DROP TABLE dropped");
    let text = std::fs::read_to_string(dump(&db, &["--format", "plain"], "dropped.sql")).expect("a dump");
    let rows_of =
        |name: &str| text.lines().filter(|line| line.split('\t').any(|field| field == name)).count();
    assert_eq!((rows_of("public.kept"), rows_of(&oid)), (3, 0));
}
