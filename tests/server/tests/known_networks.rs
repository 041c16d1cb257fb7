//! Edits of `known_networks` reach networks that exist already: type and both flags, by every kind of statement.

use std::process::Output;
use std::sync::OnceLock;

use server_tests::cymru::worker_pid;
use server_tests::database::{cluster_with_world, server_without_providers};
use server_tests::{Cluster, Database, Options, Session, database, fresh_database, wait_until};

/// A server whose worker works often and uses no provider.
fn with_worker() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    server_without_providers(&CLUSTER, "known-networks-worker")
}

/// Four networks with names of different types, and a list with one of them.
const NETWORKS: &str = "
    INSERT INTO enrich.known_networks (asn_number, label, asn_type, is_hosting, is_vpn)
        VALUES (64777, 'Listed', 'HOSTING', true, false);
    SELECT enrich.ensure_asn_inventory(64777, 'Example University'), enrich.ensure_asn_inventory(64778, 'Example Telecom'),
           enrich.ensure_asn_inventory(64779, 'Example Ministry'), enrich.ensure_asn_inventory(64780)";

const LISTED: &str = "64777|HOSTING|t|f";

fn state(session: &mut Session) -> Vec<String> {
    session.rows(
        "SELECT asn_number, asn_type, is_known_hosting, is_known_vpn FROM enrich.asn_inventory
         WHERE asn_number BETWEEN 64777 AND 64780 ORDER BY 1",
    )
}

fn network(session: &mut Session, asn: i64) -> String {
    session.one(&format!(
        "SELECT asn_type, is_known_hosting, is_known_vpn FROM enrich.asn_inventory WHERE asn_number = {asn}"
    ))
}

fn pending(session: &mut Session) -> i64 {
    session.number("SELECT count(*) FROM enrich.network_reclassification")
}

#[track_caller]
fn wait_until_none_is_pending(session: &mut Session) {
    wait_until("no network is pending", || pending(session), |pending| *pending == 0);
}

fn database_with_worker() -> Database<'static> {
    let mut db = fresh_database(with_worker());
    db.run(NETWORKS);
    worker_pid(&mut db);
    wait_until_none_is_pending(&mut db);
    assert_eq!(state(&mut db)[0], LISTED);
    db
}

/// Every way to edit the list, and the networks afterwards.
const EDITS: [(&str, [&str; 4]); 12] = [
    (
        "INSERT INTO enrich.known_networks (asn_number, label, asn_type, is_vpn) VALUES (64778, 'VPN', 'HOSTING', true),
             (64999, 'Nobody', 'ISP', false)",
        [LISTED, "64778|HOSTING|f|t", "64779|GOVERNMENT|f|f", "64780|UNKNOWN|f|f"],
    ),
    (
        "UPDATE enrich.known_networks SET asn_type = 'ISP' WHERE asn_number = 64777",
        ["64777|ISP|t|f", "64778|ISP|f|f", "64779|GOVERNMENT|f|f", "64780|UNKNOWN|f|f"],
    ),
    (
        "UPDATE enrich.known_networks SET is_hosting = false, is_vpn = true WHERE asn_number = 64777",
        ["64777|HOSTING|f|t", "64778|ISP|f|f", "64779|GOVERNMENT|f|f", "64780|UNKNOWN|f|f"],
    ),
    (
        "UPDATE enrich.known_networks SET asn_number = 64780 WHERE asn_number = 64777",
        ["64777|EDUCATION|f|f", "64778|ISP|f|f", "64779|GOVERNMENT|f|f", "64780|HOSTING|t|f"],
    ),
    (
        "INSERT INTO enrich.known_networks VALUES (64777, 'Mine', 'ISP', false, true), (64779, 'New', 'ISP', true, false)
             ON CONFLICT (asn_number) DO UPDATE SET asn_type = EXCLUDED.asn_type, is_vpn = EXCLUDED.is_vpn",
        ["64777|ISP|t|t", "64778|ISP|f|f", "64779|ISP|t|f", "64780|UNKNOWN|f|f"],
    ),
    (
        "MERGE INTO enrich.known_networks k USING (VALUES (64777::bigint), (64780)) v(asn) ON k.asn_number = v.asn
             WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (asn_number, label, asn_type) VALUES (v.asn, 'x', 'ISP')",
        ["64777|EDUCATION|f|f", "64778|ISP|f|f", "64779|GOVERNMENT|f|f", "64780|ISP|f|f"],
    ),
    (
        "WITH gone AS (DELETE FROM enrich.known_networks WHERE asn_number = 64777 RETURNING *)
             INSERT INTO enrich.known_networks SELECT 64779, label, asn_type, is_hosting, is_vpn FROM gone",
        ["64777|EDUCATION|f|f", "64778|ISP|f|f", "64779|HOSTING|t|f", "64780|UNKNOWN|f|f"],
    ),
    (
        "DELETE FROM enrich.known_networks WHERE asn_number = 64777",
        ["64777|EDUCATION|f|f", "64778|ISP|f|f", "64779|GOVERNMENT|f|f", "64780|UNKNOWN|f|f"],
    ),
    (
        "TRUNCATE enrich.known_networks",
        ["64777|EDUCATION|f|f", "64778|ISP|f|f", "64779|GOVERNMENT|f|f", "64780|UNKNOWN|f|f"],
    ),
    (
        "BEGIN; UPDATE enrich.known_networks SET asn_type = 'ISP' WHERE asn_number = 64777;
         SAVEPOINT s; DELETE FROM enrich.known_networks WHERE asn_number = 64777; ROLLBACK TO s; COMMIT",
        ["64777|ISP|t|f", "64778|ISP|f|f", "64779|GOVERNMENT|f|f", "64780|UNKNOWN|f|f"],
    ),
    (
        "BEGIN; TRUNCATE enrich.known_networks; ROLLBACK",
        [LISTED, "64778|ISP|f|f", "64779|GOVERNMENT|f|f", "64780|UNKNOWN|f|f"],
    ),
    (
        "UPDATE enrich.known_networks SET label = 'Another name'",
        [LISTED, "64778|ISP|f|f", "64779|GOVERNMENT|f|f", "64780|UNKNOWN|f|f"],
    ),
];

#[test]
fn the_worker_applies_every_kind_of_edit() {
    for (edit, after) in EDITS {
        let mut db = database_with_worker();
        db.run(edit);
        wait_until(edit, || state(&mut db), |now| *now == after);
        wait_until_none_is_pending(&mut db);
    }
    let mut db = database_with_worker();
    db.copy(
        "enrich.known_networks (asn_number, label, asn_type, is_hosting, is_vpn)",
        "64778\tCopied\tHOSTING\tt\tt\n",
    );
    wait_until("the copied row is applied", || network(&mut db, 64778), |now| now == "HOSTING|t|t");
}

#[test]
fn without_a_worker_build_asn_inventory_applies_every_kind_of_edit() {
    for (edit, after) in EDITS {
        let mut db = database();
        db.run(NETWORKS);
        db.run("CALL enrich.build_asn_inventory(progress => false)");
        let before = state(&mut db);
        db.run(edit);
        assert_eq!(state(&mut db), before, "{edit}");
        db.run("CALL enrich.build_asn_inventory(progress => false)");
        assert_eq!(state(&mut db), after, "{edit}");
        let changed = before.iter().zip(after).filter(|(one, other)| one != other).count() as i64;
        let updated =
            "SELECT result -> 'updated' FROM enrich.procedure_call WHERE procedure = 'build_asn_inventory'";
        assert_eq!(db.number(updated), changed, "{edit}");
        // Waits, because a transaction in another database may be older than the edit.
        wait_until(
            "no network is pending",
            || {
                db.run("CALL enrich.build_asn_inventory(progress => false)");
                pending(&mut db)
            },
            |pending| *pending == 0,
        );
        assert_eq!(state(&mut db), after, "{edit}");
    }
}

#[test]
fn a_call_inside_a_transaction_block_applies_edits_of_the_same_transaction() {
    let mut db = database();
    db.run(NETWORKS);
    db.run(
        "BEGIN; DELETE FROM enrich.known_networks WHERE asn_number = 64777;
         CALL enrich.build_asn_inventory(progress => false)",
    );
    assert_eq!(network(&mut db, 64777), "EDUCATION|f|f");
    db.run("ROLLBACK");
    assert_eq!(network(&mut db, 64777), "HOSTING|t|f");
}

/// The type of an edited row and the flags from before the edit are never visible together, even before the worker
/// has applied the edit.
#[test]
fn a_name_that_is_set_after_an_edit_brings_type_and_flags_together() {
    let mut db = database();
    db.run(NETWORKS);
    db.run("UPDATE enrich.known_networks SET asn_type = 'ISP', is_hosting = false, is_vpn = true WHERE asn_number = 64777");
    db.run("SELECT enrich.ensure_asn_inventory(64777, 'Renamed', overwrite => true)");
    assert_eq!(network(&mut db, 64777), "ISP|f|t");
    db.run("DELETE FROM enrich.known_networks WHERE asn_number = 64777");
    db.run("SELECT enrich.ensure_asn_inventory(64777, 'Renamed University', overwrite => true)");
    assert_eq!(network(&mut db, 64777), "EDUCATION|f|f");
    // A network that was imported with a flag and was never listed keeps it.
    db.run("UPDATE enrich.asn_inventory SET is_known_vpn = true WHERE asn_number = 64778");
    db.run("SELECT enrich.ensure_asn_inventory(64778, 'Renamed Ministry', overwrite => true)");
    assert_eq!(network(&mut db, 64778), "GOVERNMENT|f|t");
}

/// The commit wakes the worker, which does not sleep until the end of its naptime.
#[test]
fn the_commit_of_an_edit_wakes_the_worker() {
    let cluster = cluster_with_world(
        &Options::named("known-networks-wake")
            .with_worker()
            .conf("cowrie_enrich.worker_naptime = '1h'")
            .conf("cowrie_enrich.enabled_sources = 'maxmind'"),
    );
    let mut db = fresh_database(&cluster);
    db.run(NETWORKS);
    wait_until("the list is applied", || network(&mut db, 64777), |now| now == "HOSTING|t|f");
    let state =
        "SELECT state FROM enrich.worker_status WHERE role = 'worker' AND database = current_database()";
    wait_until("the worker sleeps", || db.rows(state), |states| states == &["sleeping"]);
    db.run("DELETE FROM enrich.known_networks WHERE asn_number = 64777");
    wait_until("the edit is applied", || network(&mut db, 64777), |now| now == "EDUCATION|f|f");
}

/// A row of `network_reclassification` that did not wake the worker, for example a restored row, is found within a
/// naptime.
#[test]
fn pending_networks_are_found_without_being_announced() {
    let mut db = database_with_worker();
    db.run(
        "SET session_replication_role = replica;
         UPDATE enrich.known_networks SET is_vpn = true WHERE asn_number = 64777;
         INSERT INTO enrich.network_reclassification VALUES (64777);
         RESET session_replication_role",
    );
    wait_until("the edit is applied", || network(&mut db, 64777), |now| now == "HOSTING|t|t");
    wait_until_none_is_pending(&mut db);
}

#[test]
fn a_failing_step_and_a_killed_worker_lose_no_edit() {
    let mut db = database_with_worker();
    db.run(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no change here'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON enrich.asn_inventory FOR EACH ROW EXECUTE FUNCTION public.refuse()",
    );
    let errors =
        "SELECT errors FROM enrich.worker_status WHERE role = 'worker' AND database = current_database()";
    let before = db.number(errors);
    db.run("UPDATE enrich.known_networks SET is_vpn = true WHERE asn_number = 64777");
    wait_until("a step has failed", || db.number(errors), |errors| *errors > before);
    let pid = worker_pid(&mut db);
    db.run(&format!("SELECT pg_terminate_backend({pid})"));
    db.run("DROP TRIGGER refuse ON enrich.asn_inventory");
    wait_until("the edit is applied", || network(&mut db, 64777), |now| now == "HOSTING|t|t");
    wait_until_none_is_pending(&mut db);
}

/// Waits until the worker has processed all edits that are committed now.
#[track_caller]
fn wait_for_a_pass(db: &mut Database<'_>) {
    db.run(
        "INSERT INTO enrich.known_networks (asn_number, label, asn_type, is_vpn) VALUES (64780, 'Mark', 'ISP', true)
             ON CONFLICT (asn_number) DO UPDATE SET is_vpn = NOT known_networks.is_vpn",
    );
    let wanted = db.one("SELECT is_vpn FROM enrich.known_networks WHERE asn_number = 64780");
    let flag = "SELECT is_known_vpn FROM enrich.asn_inventory WHERE asn_number = 64780";
    wait_until("the worker has made a pass", || db.one(flag), |now| *now == wanted);
}

#[test]
fn a_network_that_another_transaction_holds_waits_alone() {
    let mut db = database_with_worker();
    let mut other = db.another();
    other.run("BEGIN; SELECT FROM enrich.asn_inventory WHERE asn_number = 64777 FOR UPDATE");
    db.run("UPDATE enrich.known_networks SET is_vpn = true WHERE asn_number = 64777");
    wait_for_a_pass(&mut db);
    assert_eq!(network(&mut db, 64777), "HOSTING|t|f");
    let metric = "SELECT value FROM enrich.enrich_metrics
                  WHERE name = 'enrich_reclassifications_pending' AND labels ->> 'database' = current_database()";
    // The marker network is pending too, because the other transaction is older than both edits.
    wait_until("both networks are pending", || db.one(metric), |pending| pending == "2");
    // In another database the view shows the value that the worker has counted.
    let of_db = metric.replace("current_database()", &format!("'{}'", db.name));
    let mut elsewhere = fresh_database(with_worker());
    wait_until("the worker has counted it", || elsewhere.rows(&of_db), |pending| *pending == ["2"]);
    other.run("COMMIT");
    wait_until("the edit is applied", || network(&mut db, 64777), |now| now == "HOSTING|t|t");
    wait_until_none_is_pending(&mut db);
    wait_until("the worker has counted again", || elsewhere.rows(&of_db), |pending| *pending == ["0"]);
}

/// A transaction reads `known_networks` before an edit and writes networks. It commits after the worker has
/// processed the edit.
#[test]
fn networks_written_by_an_older_list_follow_the_edit() {
    for begin in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM enrich.known_networks LIMIT 1"]
    {
        for is_written_before in [true, false] {
            let mut db = database_with_worker();
            let mut other = db.another();
            // Creates a network, and gives an existing network a new name.
            let write = "SELECT enrich.ensure_asn_inventory(64790, 'New University'), enrich.ensure_asn_inventory(64778, 'Old Ministry', overwrite => true)";
            other.run(begin);
            if is_written_before {
                other.run(write);
            }
            db.run(
                "INSERT INTO enrich.known_networks (asn_number, label, asn_type, is_hosting)
                     VALUES (64790, 'x', 'HOSTING', true), (64778, 'y', 'HOSTING', true)",
            );
            wait_for_a_pass(&mut db);
            if !is_written_before {
                let written = other.try_run(write);
                if begin.contains("REPEATABLE") {
                    // The worker has changed the existing network meanwhile.
                    assert_eq!(written.map_err(|refusal| refusal.code), Err("40001".to_owned()));
                    other.run("ROLLBACK");
                    other.run(begin);
                    other.run("SELECT enrich.ensure_asn_inventory(64790, 'New University')");
                }
            }
            other.run("COMMIT");
            for asn in [64790, 64778] {
                wait_until("the edit is applied", || network(&mut db, asn), |now| now == "HOSTING|t|f");
            }
            wait_until_none_is_pending(&mut db);
            for asn in [64790, 64778] {
                assert_eq!(network(&mut db, asn), "HOSTING|t|f", "{begin}, before: {is_written_before}");
            }
        }
    }
}

/// A snapshot from before the edit creates the network after the worker has found none.
#[test]
fn an_edit_stays_pending_while_a_snapshot_may_not_see_it() {
    let mut db = database_with_worker();
    let mut other = db.another();
    other.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM enrich.known_networks LIMIT 1");
    db.run("INSERT INTO enrich.known_networks (asn_number, label, asn_type, is_hosting) VALUES (64790, 'x', 'HOSTING', true)");
    wait_for_a_pass(&mut db);
    wait_for_a_pass(&mut db);
    assert_eq!(db.number("SELECT count(*) FROM enrich.network_reclassification WHERE asn_number = 64790"), 1);
    other.run("SELECT enrich.ensure_asn_inventory(64790, 'New University')");
    assert_eq!(network(&mut other, 64790), "EDUCATION|f|f");
    wait_for_a_pass(&mut db);
    other.run("COMMIT");
    wait_until("the edit is applied", || network(&mut db, 64790), |now| now == "HOSTING|t|f");
    wait_until_none_is_pending(&mut db);
}

/// Many batches, each a transaction.
#[test]
fn thousands_of_networks_follow_one_edit() {
    let mut db = database_with_worker();
    db.run(
        "SELECT count(enrich.ensure_asn_inventory(100000 + n, 'Network ' || n)) FROM generate_series(1, 3500) n;
         INSERT INTO enrich.known_networks (asn_number, label, asn_type, is_vpn)
             SELECT 100000 + n, 'x', 'HOSTING', true FROM generate_series(1, 5000) n",
    );
    let reached = "SELECT count(*) FROM enrich.asn_inventory WHERE asn_number > 100000 AND asn_type = 'HOSTING' AND is_known_vpn";
    wait_until("all networks are reached", || db.number(reached), |number| *number == 3_500);
    wait_until_none_is_pending(&mut db);
    let transactions =
        "SELECT count(DISTINCT xmin::text) FROM enrich.asn_inventory WHERE asn_number > 100000";
    assert!(db.number(transactions) >= 4, "{}", db.number(transactions));
}

/// The grant of docs/security.md is enough.
#[test]
fn a_role_that_may_only_edit_the_list_reaches_networks() {
    let mut db = database_with_worker();
    let role = db.create_role("operator");
    db.run(&format!(
        "GRANT USAGE ON SCHEMA enrich TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON enrich.known_networks TO {role}"
    ));
    let mut theirs = db.session_as(&role);
    theirs.run("UPDATE enrich.known_networks SET is_vpn = true WHERE asn_number = 64777");
    assert_eq!(theirs.refused("SELECT FROM enrich.network_reclassification").code, "42501");
    wait_until("the edit is applied", || network(&mut db, 64777), |now| now == "HOSTING|t|t");
}

/// `known_networks` of one database is restored into another database that already has the networks.
#[test]
fn a_restored_list_reaches_networks() {
    let mut from = database();
    from.run(
        "INSERT INTO enrich.known_networks (asn_number, label, asn_type, is_vpn) VALUES (64778, 'Dumped', 'HOSTING', true);
         UPDATE enrich.known_networks SET asn_type = 'ISP' WHERE asn_number = 13335",
    );
    let dump = from.dump("custom");
    let mut db = database_with_worker();
    db.run("SELECT enrich.ensure_asn_inventory(13335, 'Cloudflare')");
    assert_eq!(network(&mut db, 13335), "HOSTING|t|f");
    let output: Output = db
        .cluster
        .program("pg_restore")
        .args(["--exit-on-error", "--data-only", "--table", "known_networks", "-d", &db.name])
        .arg(&dump)
        .output()
        .expect("pg_restore runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_until("the added row is applied", || network(&mut db, 64778), |now| now == "HOSTING|f|t");
    wait_until("the edited row is applied", || network(&mut db, 13335), |now| now == "ISP|t|f");
    wait_until_none_is_pending(&mut db);
}
