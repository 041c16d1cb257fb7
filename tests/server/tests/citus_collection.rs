//! Nodes of a Citus cluster that are down, locked or suspended: the other counts are still collected, and the metrics show the
//! failure. Without Citus, these tests are not run: see `server_tests::citus`.

use server_tests::citus::{CitusCluster, DATABASE, collecting};
use server_tests::hosts::COWRIE;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Session, wait_until};

const TABLES: [(&str, &str); 1] = [("sessions", "ip")];

/// Returns the value of a metric of the coordinator.
fn value(session: &mut Session, name: &str) -> f64 {
    let value = session.one(&format!(
        "SELECT value FROM enrich.enrich_metrics WHERE name = '{name}' AND labels ->> 'database' = current_database()"
    ));
    value.parse().unwrap_or_else(|_| panic!("{name} is {value}"))
}

const FAILED: &str = "enrich_citus_nodes_failed";
const FAILURES: &str = "enrich_citus_collection_failures_total";
const COLLECTED: &str = "enrich_citus_counts_collected_total";
const AGE: &str = "enrich_citus_collection_oldest_age_seconds";

fn wait_for_failed_nodes(session: &mut Session, nodes: f64) {
    wait_until("the metric shows the failed nodes", || value(session, FAILED), |failed| *failed == nodes);
}

/// Stores sessions, each with a new address, in shards of one node. Waits for each session until the coordinator has counted it.
fn store_and_count(cluster: &CitusCluster, node: usize, prefix: &str, sessions: usize) {
    let mut session = cluster.session();
    let keys = session.rows(&format!(
        "SELECT '{prefix}' || n FROM generate_series(1, 1000) n
         JOIN citus_shards s ON s.shardid = get_shard_id_for_distribution_column('sessions', '{prefix}' || n)
         WHERE s.nodename = '{}' ORDER BY n LIMIT {sessions}",
        cluster.nodes[node].socket_dir().display()
    ));
    assert_eq!(keys.len(), sessions);
    let counted = "SELECT coalesce(sum(session_count), 0)::bigint FROM enrich.ip_inventory";
    for (n, key) in keys.iter().enumerate() {
        let before = session.number(counted);
        session.run(&COWRIE.insert(&[(key, Some(&format!("23.0.{node}.{}", n + 1)))]));
        wait_until("the session is counted", || session.number(counted), |count| *count == before + 1);
    }
}

#[test]
fn the_metrics_show_a_node_that_is_down() {
    let Some(cluster) = collecting("citus-down") else { return };
    let mut session = cluster.session();
    store_and_count(&cluster, 2, "before", 3);
    assert_eq!((value(&mut session, COLLECTED), value(&mut session, FAILED)), (3.0, 0.0));
    cluster.nodes[2].stop_fast();
    wait_for_failed_nodes(&mut session, 1.0);
    wait_until("the failures are counted", || value(&mut session, FAILURES), |failures| *failures > 1.0);
    store_and_count(&cluster, 1, "meanwhile", 3);
    let age = value(&mut session, AGE);
    let older = wait_until("the age grows", || value(&mut session, AGE), |older| *older > age + 1.0);
    cluster.nodes[2].start_again();
    wait_for_failed_nodes(&mut session, 0.0);
    wait_until("the age is small again", || value(&mut session, AGE), |age| *age < older);
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &TABLES);

    // A removed node is not reported as failed.
    let node = cluster.node(2);
    session.run(&format!("SELECT citus_drain_node({node}, shard_transfer_mode => 'block_writes')"));
    cluster.wait_until_folded();
    session.run(&format!("SELECT citus_remove_node({node})"));
    wait_until(
        "the coordinator notices that the node was removed",
        || session.number("SELECT count(*) FROM enrich.cluster_node WHERE citus_node IS NULL"),
        |removed| *removed == 1,
    );
    session.run("UPDATE enrich.cluster_node SET collected_at = '2000-01-01' WHERE citus_node IS NULL");
    assert!(value(&mut session, AGE) < 1e6);
}

#[test]
fn a_lock_on_a_node_ends_the_attempt() {
    let Some(cluster) = collecting("citus-locked") else { return };
    let mut session = cluster.session();
    let mut locker = cluster.nodes[2].session(DATABASE);
    locker.run("BEGIN; LOCK TABLE enrich.cluster_member");
    wait_for_failed_nodes(&mut session, 1.0);
    let reason = session.one("SELECT last_error FROM enrich.cluster_node WHERE last_error IS NOT NULL");
    assert!(reason.contains("lock timeout"), "{reason}");
    store_and_count(&cluster, 1, "meanwhile", 3);
    locker.run("COMMIT");
    wait_for_failed_nodes(&mut session, 0.0);
}

#[test]
fn a_suspended_node_does_not_stop_the_collection() {
    let Some(cluster) = collecting("citus-suspended") else { return };
    let mut session = cluster.session();
    store_and_count(&cluster, 2, "before", 3);
    // While another session has locked the table, no collection is under way. So the node is not suspended in the middle of an
    // answer.
    let mut locker = cluster.session();
    locker.run("BEGIN; LOCK TABLE enrich.cluster_node");
    let suspended = cluster.nodes[2].suspend();
    locker.run("COMMIT");
    wait_for_failed_nodes(&mut session, 1.0);
    let reason = session.one("SELECT last_error FROM enrich.cluster_node WHERE last_error IS NOT NULL");
    assert!(reason.contains("cannot connect"), "{reason}");
    // If each collection waited for the node, each of these sessions would need at least one further attempt.
    let before = value(&mut session, FAILURES);
    store_and_count(&cluster, 1, "meanwhile", 6);
    let attempts = value(&mut session, FAILURES) - before;
    assert!(attempts < 6.0, "{attempts} attempts");
    drop(suspended);
    wait_for_failed_nodes(&mut session, 0.0);
    store_and_count(&cluster, 2, "after", 3);
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &TABLES);
}

#[test]
fn a_collection_that_takes_too_long_is_cancelled() {
    let Some(cluster) = collecting("citus-slow") else { return };
    let mut session = cluster.session();
    let mut node = cluster.nodes[2].session(DATABASE);
    // Otherwise Citus allows DDL on the coordinator only.
    node.run("SET citus.enable_ddl_propagation = off");
    node.run(
        "CREATE FUNCTION public.sleep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(3600); RETURN NEW; END$$;
         CREATE TRIGGER sleep BEFORE UPDATE ON enrich.cluster_member FOR EACH ROW EXECUTE FUNCTION public.sleep()",
    );
    let cancelled = || {
        session.number(
            "SELECT value::bigint FROM enrich.enrich_metrics WHERE name = 'enrich_worker_step_errors_total'
             AND labels @> jsonb_build_object('database', current_database(), 'step', 'collect')",
        )
    };
    wait_until("the collection is cancelled", cancelled, |errors| *errors > 0);
    assert!(cluster.nodes[0].whole_log().contains("canceling statement due to statement timeout"));
    wait_until(
        "the statement on the node is cancelled too",
        || {
            node.number(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%send_counts%' AND wait_event = 'PgSleep'",
            )
        },
        |running| *running == 0,
    );
    node.run("DROP TRIGGER sleep ON enrich.cluster_member");
    store_and_count(&cluster, 2, "after", 3);
    assert_counts_are_exact(&mut session, &TABLES);
}
