//! The counts and inventories of a Citus cluster equal those of a single server, under load and after killed servers. Without
//! Citus, these tests are not run: see `server_tests::citus`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cowrie_enrich_upstreams::{Behaviour, Fault, Routes, Whois};
use server_tests::citus::{CitusCluster, DATABASE, collecting, three_nodes, three_nodes_of_version};
use server_tests::cymru::{member, pointed_at, wait_for_the_queue};
use server_tests::database::{cluster_with_world, fresh_database};
use server_tests::distributed_load::{Load, run};
use server_tests::hosts::COWRIE;
use server_tests::recount::assert_counts_are_exact;
use server_tests::releases::{OLD, catalog, current, differences};
use server_tests::{Options, Session, wait_until};

const TABLES: [(&str, &str); 1] = [("sessions", "ip")];

/// Rows that must be the same on a single server and in a cluster. An address whose sessions were all deleted before the first
/// fold has no row in a cluster, so only addresses with sessions are compared. The time of an answer is left out.
const INVENTORIES: [&str; 5] = [
    "SELECT host(ip_address), session_count, current_asn, geo_country, first_seen, last_seen,
            (enrichment #- '{maxmind,cached_at}' #- '{cymru,cached_at}') - '_meta'
     FROM enrich.ip_inventory WHERE session_count > 0 ORDER BY 1",
    "SELECT current_asn, sum(session_count) FROM enrich.ip_inventory WHERE session_count > 0 GROUP BY 1 ORDER BY 1",
    "SELECT host(h.ip_address), h.asn_number, h.verification_source FROM enrich.ip_asn_history h
     JOIN enrich.ip_inventory i ON i.ip_address = h.ip_address AND i.session_count > 0 ORDER BY 1",
    "SELECT id, starttime, ip, snapshot_asn, snapshot_country, snapshot_ip_type, enrichment #- '{maxmind,cached_at}' #- '{cymru,cached_at}'
     FROM sessions ORDER BY 1",
    "SELECT asn_number, organization_name, rir_registry, asn_type, total_session_count
     FROM enrich.asn_inventory WHERE total_session_count > 0 ORDER BY 1",
];

/// Returns the addresses with sessions that were asked about, and the networks with sessions that were asked about.
fn asked(whois: &Whois, session: &mut Session) -> (BTreeSet<String>, BTreeSet<String>) {
    let of = |session: &mut Session, query: &str| BTreeSet::from_iter(session.rows(query));
    let addresses = of(session, "SELECT host(ip_address) FROM enrich.ip_inventory WHERE session_count > 0");
    let networks = of(session, "SELECT asn_number FROM enrich.asn_inventory WHERE total_session_count > 0");
    let record = whois.record();
    (
        record
            .questions()
            .map(|address| address.to_string())
            .filter(|address| addresses.contains(address))
            .collect(),
        record.networks().map(|asn| asn.to_string()).filter(|asn| networks.contains(asn)).collect(),
    )
}

#[test]
fn inventories_equal_those_of_a_single_server() {
    let (asked_by_cluster, asked_by_single) =
        (Whois::start(Routes::synthetic()), Whois::start(Routes::synthetic()));
    let change = |options: Options| pointed_at(&asked_by_cluster, options);
    let Some(cluster) = three_nodes("citus-oracle", change) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    session.run("SELECT enrich.distribute_inventories()");
    let single =
        cluster_with_world(&pointed_at(&asked_by_single, Options::named("citus-single").with_worker()));
    let mut alone = fresh_database(&single);
    COWRIE.create_attached(&mut alone);
    let mut load = Load::new(22, "o").with_unknown_addresses();
    while load.sessions() < 50_000 {
        let steps = load.transaction();
        run(&mut alone, &steps);
        run(&mut session, &steps);
    }
    for database in [&mut *alone, &mut session] {
        wait_until_complete(database);
        wait_for_the_queue(database);
    }
    alone.run("CALL enrich.fold_statistics()");
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &TABLES);
    for query in INVENTORIES {
        let (expected, found) = (alone.rows(query), session.rows(query));
        let different: Vec<_> = expected.iter().zip(&found).filter(|(a, b)| a != b).take(5).collect();
        assert_eq!((expected.len(), different), (found.len(), vec![]), "{query}");
    }
    let (of_cluster, of_single) =
        (asked(&asked_by_cluster, &mut session), asked(&asked_by_single, &mut alone));
    assert!(of_single.0.len() > 100, "{} addresses were asked about", of_single.0.len());
    assert_eq!(of_cluster, of_single);
    assert_eq!(asked_by_cluster.record().asked_twice(), [] as [std::net::IpAddr; 0]);
}

/// Runs transactions in several clients until `work` returns. If `may_fail` is true, a client connects again after an error.
fn under_load(cluster: &CitusCluster, clients: u64, may_fail: bool, work: impl FnOnce()) -> Vec<u64> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let running: Vec<_> = (0..clients)
            .map(|client| {
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut load = Load::new(100 + client, &format!("c{client}"));
                    let (mut session, mut committed) = (None::<Session>, 0);
                    while !is_over.load(Ordering::Relaxed) {
                        let Some(open) = &mut session else {
                            session = cluster.nodes[0].try_session(DATABASE).ok();
                            continue;
                        };
                        let steps = load.transaction();
                        if !may_fail {
                            run(open, &steps);
                            committed += 1;
                        } else if steps.iter().try_for_each(|step| try_step(open, step)).is_err() {
                            session = None;
                        } else {
                            committed += 1;
                        }
                    }
                    committed
                })
            })
            .collect();
        work();
        is_over.store(true, Ordering::Relaxed);
        running.into_iter().map(|client| client.join().expect("the client ends")).collect()
    })
}

fn try_step(session: &mut Session, step: &server_tests::distributed_load::Step) -> Result<(), ()> {
    use server_tests::distributed_load::Step;
    match step {
        Step::Run(text) => session.try_run(text).map_err(|_| ()),
        Step::Copy(lines) => {
            session.try_copy("sessions (id, starttime, ip)", lines).map(|_| ()).map_err(|_| ())
        }
    }
}

/// Waits until the clients have stored this many more sessions.
fn wait_for_sessions(cluster: &CitusCluster, more: i64) {
    let stored = || {
        let mut session = cluster.nodes[0].try_session(DATABASE).ok()?;
        let rows = session.try_rows("SELECT count(*) FROM sessions").ok()?;
        rows.first()?.parse::<i64>().ok()
    };
    let before = wait_until("the sessions can be counted", stored, Option::is_some).unwrap_or_default();
    let _ =
        wait_until("the clients store sessions", stored, |count| count.is_some_and(|n| n >= before + more));
}

#[test]
fn clients_never_wait_for_a_deadlock() {
    let Some(cluster) = collecting("citus-clients") else { return };
    let committed = under_load(&cluster, 16, false, || wait_for_sessions(&cluster, 20_000));
    assert!(committed.iter().all(|transactions| *transactions > 0), "{committed:?}");
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut cluster.session(), &TABLES);
    for node in &cluster.nodes {
        assert!(!node.whole_log().contains("deadlock"), "{}", node.log());
    }
}

/// The backend of a client stores the sessions of local shards itself, while Citus copies other sessions to other nodes.
#[test]
fn the_node_of_a_client_can_store_shards() {
    let change = |options: Options| options.conf("cowrie_enrich.enabled_sources = 'maxmind'");
    let Some(cluster) = three_nodes("citus-local", change) else { return };
    cluster
        .session()
        .run(&format!("SELECT citus_set_node_property({}, 'shouldhaveshards', true)", cluster.node(0)));
    cluster.create_attached(&COWRIE);
    cluster.session().run("SELECT enrich.distribute_inventories()");
    let mut expected = 0;
    for (n, node) in cluster.nodes.iter().enumerate() {
        let mut session = node.session(DATABASE);
        // More addresses than a transaction keeps in memory on a single server. Then the same addresses again.
        let address = |k: usize| format!("23.{}.{}.{}", k % 40, k / 40 % 250, k / 10_000 + 1);
        for copy in ["a", "b"] {
            let line = |k| format!("{copy}{n}-{k}\t2024-05-01 12:00:00\t{}\n", address(k));
            session.copy("sessions (id, starttime, ip)", &(0..15_000).map(line).collect::<String>());
            expected += 15_000;
        }
        session.run(&format!(
            "BEGIN;
             INSERT INTO sessions (id, starttime, ip)
             SELECT 's{n}-' || k, '2024-05-01 12:00:00', '23.' || k % 40 || '.251.' || k % 200 + 1 FROM generate_series(1, 2000) k;
             SAVEPOINT before_more;
             INSERT INTO sessions (id, starttime, ip) SELECT 'm' || id, starttime, ip FROM sessions WHERE id LIKE 's{n}-%';
             ROLLBACK TO before_more;
             COMMIT"
        ));
        expected += 2_000;
        let mut load = Load::new(50 + n as u64, &format!("l{n}"));
        for _ in 0..30 {
            run(&mut session, &load.transaction());
        }
    }
    cluster.wait_until_folded();
    let mut session = cluster.session();
    assert_counts_are_exact(&mut session, &TABLES);
    let stored = "SELECT count(*) FROM sessions WHERE id ~ '^[abs][0-9]-'";
    assert_eq!(session.number(stored), expected);
    assert_eq!(
        session.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL AND ip LIKE '23.%'"),
        0
    );
}

#[test]
fn counts_are_exact_after_servers_were_killed() {
    let Some(cluster) = collecting("citus-kills") else { return };
    under_load(&cluster, 6, true, || {
        for victim in [1, 0, 2] {
            wait_for_sessions(&cluster, 2_000);
            cluster.nodes[victim].kill_postmaster();
            cluster.nodes[victim].start_again();
        }
        wait_for_sessions(&cluster, 2_000);
    });
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut cluster.session(), &TABLES);
}

#[test]
fn counts_are_exact_after_shards_were_moved() {
    let Some(cluster) = collecting("citus-moves") else { return };
    under_load(&cluster, 4, false, || {
        wait_for_sessions(&cluster, 1_000);
        for mode in ["force_logical", "block_writes"] {
            cluster.move_shard(1, 2, mode);
            wait_for_sessions(&cluster, 1_000);
        }
    });
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut cluster.session(), &TABLES);
    assert_eq!(
        cluster
            .session()
            .number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL AND ip LIKE '23.%'"),
        0
    );
}

#[test]
fn the_coordinator_asks_once_and_each_node_completes_its_sessions() {
    let whois = Whois::start(Routes::synthetic());
    let change = |options: Options| pointed_at(&whois, options);
    let Some(cluster) = three_nodes("citus-answers", change) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    session.run("SELECT enrich.distribute_inventories()");
    for n in 0..60 {
        let sessions: Vec<(String, String)> =
            (0..4).map(|copy| (format!("k{n}-{copy}"), member(n, 7).to_string())).collect();
        let rows: Vec<(&str, Option<&str>)> =
            sessions.iter().map(|(key, ip)| (key.as_str(), Some(ip.as_str()))).collect();
        session.run(&COWRIE.insert(&rows));
    }
    wait_until(
        "all sessions are complete",
        || session.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL"),
        |incomplete| *incomplete == 0,
    );
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &TABLES);
    assert_eq!(whois.record().asked_twice(), [] as [std::net::IpAddr; 0]);
    assert_eq!(whois.record().questions_total(), 60);
    assert_eq!(cluster.sum("SELECT count(*) FROM enrich.enrichment_job"), 0);
    wait_until(
        "the members keep no answers",
        || cluster.nodes[1].session(DATABASE).number("SELECT count(*) FROM enrich.ip_inventory"),
        |rows| *rows == 0,
    );
}

/// Changes the version that the catalog of each node has. The library regards the version [`OLD`] as too old.
fn pretend_version(cluster: &CitusCluster, version: &str) {
    for node in &cluster.nodes {
        node.session(DATABASE).run(&format!(
            "UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'cowrie_enrich'"
        ));
    }
}

#[test]
fn counts_are_exact_after_an_update_of_the_extension() {
    let change = |options: Options| options.conf("cowrie_enrich.enabled_sources = 'maxmind'");
    let Some(cluster) = three_nodes_of_version("citus-update", OLD, change) else { return };
    // The objects are old, but the library works with them. This is the state before an update.
    pretend_version(&cluster, current());
    cluster.create_attached(&COWRIE);
    cluster.session().run("SELECT enrich.distribute_inventories()");
    under_load(&cluster, 4, false, || {
        wait_for_sessions(&cluster, 1_000);
        // Each node was restarted with a library that does not work with the old objects.
        pretend_version(&cluster, OLD);
        for node in &cluster.nodes {
            wait_until(
                "the worker waits for the update",
                || {
                    node.session(DATABASE).rows("SELECT state FROM enrich.worker_status() WHERE database = current_database() AND pid IS NOT NULL")
                },
                |states| *states == ["waiting for ALTER EXTENSION UPDATE, or for a newer library"],
            );
        }
        wait_for_sessions(&cluster, 1_000);
        // The nodes have made batches, but the coordinator has not stored them.
        cluster.session().run("BEGIN; SELECT enrich.collect_from_nodes(); ROLLBACK");
        let unconfirmed = cluster.sum("SELECT count(*) FROM enrich.cluster_member WHERE content IS NOT NULL");
        assert_eq!(unconfirmed, 2);
        cluster.session().run("ALTER EXTENSION cowrie_enrich UPDATE");
        wait_for_sessions(&cluster, 1_000);
    });
    let objects: Vec<_> = cluster.nodes.iter().map(|node| catalog(&mut node.session(DATABASE))).collect();
    let version = format!("extension: {}|", current());
    assert!(objects[0].iter().any(|line| line.starts_with(&version)), "{version}");
    for others in &objects[1..] {
        assert_eq!(differences(others, &objects[0]), [""; 0]);
    }
    cluster.wait_until_folded();
    let mut session = cluster.session();
    // The query of docs/citus.md.
    let versions = session.rows(
        "SELECT result FROM run_command_on_all_nodes(
            $$SELECT extversion || ', library ' || enrich.library_version() FROM pg_extension WHERE extname = 'cowrie_enrich'$$)
         JOIN pg_dist_node USING (nodeid)",
    );
    assert_eq!(versions, vec![format!("{0}, library {0}", current()); 3]);
    assert_counts_are_exact(&mut session, &TABLES);
    assert_eq!(session.number("SELECT count(*) FROM enrich.cluster_node WHERE last_error IS NULL"), 2);
}

/// Stores sessions with new addresses that no mmdb file has. Returns the number of addresses.
fn store_unknown(session: &mut Session, blocks: std::ops::Range<usize>) -> i64 {
    let keys: Vec<(String, String)> = blocks.map(|n| (format!("u{n}"), member(n, 7).to_string())).collect();
    let rows: Vec<(&str, Option<&str>)> =
        keys.iter().map(|(key, ip)| (key.as_str(), Some(ip.as_str()))).collect();
    session.run(&COWRIE.insert(&rows));
    rows.len() as i64
}

#[track_caller]
fn wait_until_complete(session: &mut Session) {
    wait_until(
        "all sessions are complete",
        || session.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL"),
        |incomplete| *incomplete == 0,
    );
}

#[test]
fn sessions_are_completed_after_their_shards_were_moved() {
    let whois = Whois::start(Routes::synthetic());
    whois.behave(Fault::Held);
    let Some(cluster) = three_nodes("citus-waiting", |options| pointed_at(&whois, options)) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    session.run("SELECT enrich.distribute_inventories()");
    let addresses = store_unknown(&mut session, 0..640);
    let registered = || cluster.sum("SELECT count(*) FROM enrich.session_completion");
    wait_until("the nodes register their sessions", registered, |rows| *rows == addresses);
    // The sessions stay incomplete, because the provider has not answered yet. The coordinator is a node with shards too.
    session.run(&format!("SELECT citus_set_node_property({}, 'shouldhaveshards', true)", cluster.node(0)));
    for (to, mode) in [(2, "force_logical"), (2, "block_writes"), (0, "block_writes")] {
        let shard = cluster.move_shard(1, to, mode);
        let moved = session.number(&format!(
            "SELECT count(*) FROM sessions WHERE get_shard_id_for_distribution_column('sessions', id) = {shard}"
        ));
        assert!(moved > 0);
        wait_until(
            "the node registers the sessions of the shard",
            || {
                cluster.nodes[to].session(DATABASE).number(&format!(
                    "SELECT count(*) FROM enrich.session_completion WHERE rel::text LIKE '%sessions\\_{shard}'"
                ))
            },
            |rows| *rows == moved,
        );
    }
    // A server is killed before its worker can know the new shard.
    cluster.move_shard(1, 2, "block_writes");
    cluster.nodes[2].kill_postmaster();
    cluster.nodes[2].start_again();
    let mut session = cluster.session();
    assert_eq!(session.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL"), addresses);
    whois.behave(Behaviour::normal());
    wait_until_complete(&mut session);
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &TABLES);
    let left = || cluster.sum("SELECT count(*) FROM enrich.session_completion");
    wait_until("no node waits for a session", left, |rows| *rows == 0);
}

#[test]
fn sessions_from_before_the_table_was_attached_are_completed() {
    let whois = Whois::start(Routes::synthetic());
    let Some(cluster) = three_nodes("citus-earlier", |options| pointed_at(&whois, options)) else { return };
    let mut session = cluster.session();
    COWRIE.create(&mut session);
    session.run("SELECT create_distributed_table('sessions', 'id')");
    store_unknown(&mut session, 0..200);
    COWRIE.attach(&mut session);
    session.run("SELECT enrich.distribute_inventories()");
    session.run("CALL enrich.recount_distributed_sessions()");
    wait_until_complete(&mut session);
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &TABLES);
}

#[test]
fn a_large_shard_is_registered_in_several_transactions() {
    let whois = Whois::start(Routes::synthetic());
    whois.behave(Fault::Held);
    let Some(cluster) = three_nodes("citus-large", |options| pointed_at(&whois, options)) else { return };
    let mut session = cluster.session();
    COWRIE.create(&mut session);
    session.run("SELECT create_distributed_table('sessions', 'id', shard_count => 2)");
    // Each shard has more sessions than one transaction reads.
    session.run(
        "INSERT INTO sessions (id, starttime, ip)
         SELECT 'l' || n, '2024-05-01 12:00:00', 60 + n % 20 || '.' || n / 20 % 250 || '.' || n / 5000 || '.7'
         FROM generate_series(1, 30000) n",
    );
    COWRIE.attach(&mut session);
    session.run("SELECT enrich.distribute_inventories()");
    let registered = || cluster.sum("SELECT count(*) FROM enrich.session_completion");
    wait_until("all sessions are registered", registered, |rows| *rows == 30_000);
}
