//! Sessions that Citus distributes over three servers. Without Citus, these tests are not run: see `server_tests::citus`.

use cowrie_enrich_upstreams::{Routes, Whois};
use server_tests::citus::{CitusCluster, DATABASE, three_nodes};
use server_tests::cymru::{member, pointed_at};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Session, wait_until};

/// Returns statements that store this many sessions, each with a new address of the crowd.
fn insert_select(table: &str, first: u64, sessions: u64) -> String {
    format!(
        "INSERT INTO {table} (id, starttime, ip)
         SELECT 's' || n, '2024-05-01 12:00:00', '23.' || n % 256 || '.' || n / 65280 % 256 || '.' || n / 256 % 255 + 1
         FROM generate_series({first}, {}) n",
        first + sessions - 1
    )
}

#[test]
fn connections_of_one_transaction_do_not_wait_for_each_other() {
    let Some(cluster) = three_nodes("citus-many", |options| options) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    // The shards of each node get sessions of the same new networks, on several connections.
    session.run("SET citus.max_adaptive_executor_pool_size = 8");
    session.run(&insert_select("sessions", 1, 20_000));
    session.run(&format!(
        "BEGIN; {}; {}; COMMIT",
        insert_select("sessions", 20_001, 500),
        insert_select("sessions", 20_501, 500)
    ));
    assert_eq!(session.number("SELECT enrich.distribute_inventories()"), 2);
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
    assert_eq!(session.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL"), 0);
    assert_eq!(session.number("SELECT count(*) FROM enrich.ip_inventory"), 21_000);
    wait_until(
        "no node keeps an inventory of its own",
        || cluster.nodes[1].session("honeypots").number("SELECT count(*) FROM enrich.ip_inventory"),
        |rows| *rows == 0,
    );
}

#[test]
fn counts_go_back_to_the_nodes() {
    let Some(cluster) = three_nodes("citus-back", |options| options) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    session.run("SELECT enrich.distribute_inventories()");
    session.run(&insert_select("sessions", 1, 1_000));
    session.run("SET default_transaction_isolation = 'repeatable read'");
    session.run("CALL enrich.undistribute_inventories()");
    session.run("RESET default_transaction_isolation");
    session.run(&insert_select("sessions", 1_001, 1_000));
    let sessions = || cluster.sum("SELECT coalesce(sum(session_count), 0)::bigint FROM enrich.ip_inventory");
    wait_until("each node has folded", sessions, |sessions| *sessions == 2_000);
    // The inventories move to the coordinator again.
    session.run("SELECT enrich.distribute_inventories()");
    session.run("DELETE FROM sessions WHERE id LIKE 's1%'");
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
}

/// Asserts that a call on the coordinator is refused with a hint.
#[track_caller]
fn assert_refused(cluster: &CitusCluster, statement: &str, code: &str) {
    let refusal = cluster.session().refused(statement);
    assert_eq!(refusal.code, code, "{statement}: {refusal:?}");
    assert!(refusal.hint.is_some(), "{statement}: {refusal:?}");
}

#[test]
fn what_does_not_work_is_refused() {
    let Some(cluster) = three_nodes("citus-refused", |options| options) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    SUMMARIES.create(&mut session);
    session.run("SELECT create_reference_table('session_summaries')");
    assert_refused(&cluster, "SELECT enrich.attach_session_table('session_summaries', 'source_ip')", "0A000");
    assert_refused(
        &cluster,
        "SET citus.enable_unsafe_triggers = off; SELECT enrich.attach_session_table('sessions', 'ip', 'starttime')",
        "55000",
    );
    assert_refused(
        &cluster,
        "SELECT enrich.attach_session_table('sessions', 'ip', trust_input => true)",
        "0A000",
    );
    assert_refused(
        &cluster,
        "SELECT enrich.attach_session_table('sessions', 'ip', run_triggers => true)",
        "0A000",
    );
    for call in [
        "CALL enrich.backfill_sessions('sessions')",
        "CALL enrich.add_session_foreign_key('sessions')",
        "CALL enrich.erase_address('8.8.8.8')",
        "CALL enrich.expire_addresses('1 year')",
        "SELECT enrich.set_session_priority('sessions', '1')",
        "SELECT enrich.set_session_table_options('sessions', true, true)",
    ] {
        assert_refused(&cluster, call, "0A000");
    }
    session.run("SELECT enrich.distribute_inventories()");
    assert_refused(&cluster, "CALL enrich.refresh_session_counts()", "0A000");
    cluster.wait_until_folded();
    let mut member = cluster.nodes[1].session("honeypots");
    for statement in [
        "CALL enrich.fold_statistics()",
        "CALL enrich.refresh_session_counts()",
        "CALL enrich.refresh_stale()",
        "SELECT * FROM enrich.enrich_ip('8.8.8.8')",
        "SELECT * FROM enrich.enrich_ips('{8.8.8.8}')",
        "SELECT * FROM enrich.ensure_asn_inventory(64999)",
        "SELECT * FROM enrich.cymru_lookup('{8.8.8.8}')",
    ] {
        let refusal = member.refused(statement);
        assert_eq!(
            (refusal.code.as_str(), refusal.hint.is_some()),
            ("0A000", true),
            "{statement}: {refusal:?}"
        );
    }
    assert_eq!(member.refused("SELECT enrich.distribute_inventories()").code, "55000");
}

#[test]
fn analysts_see_the_sessions_of_all_nodes() {
    let Some(cluster) = three_nodes("citus-analysis", |options| options) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    session.run("SELECT enrich.distribute_inventories()");
    session.run(&insert_select("sessions", 1, 1_000));
    cluster.wait_until_folded();
    for query in [
        "SELECT sum(sessions)::bigint FROM enrich.campaign_networks('sessions')",
        "SELECT sum(sessions)::bigint FROM enrich.campaign_addresses('sessions')",
        "SELECT sum(sessions)::bigint FROM enrich.session_timeline('sessions', interval '1 day')",
        "SELECT sum(sessions)::bigint FROM enrich.prefix_activity('sessions')",
        "SELECT sum(total_session_count)::bigint FROM enrich.asn_inventory",
        "SELECT count(*) FROM enrich.ip_inventory",
    ] {
        assert_eq!(session.number(query), 1_000, "{query}");
    }
    assert_eq!(session.number("SELECT count(*) FROM enrich.blocklist('sessions', NULL)"), 1_000);
    session.run("TRUNCATE sessions");
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
}

#[test]
fn a_recount_corrects_the_counts_of_a_cluster() {
    let Some(cluster) = three_nodes("citus-recount", |options| options) else { return };
    let mut session = cluster.session();
    COWRIE.create(&mut session);
    session.run("SELECT create_distributed_table('sessions', 'id')");
    session.run(&insert_select("sessions", 1, 500));
    COWRIE.attach(&mut session);
    session.run("SELECT enrich.distribute_inventories()");
    session.run(&insert_select("sessions", 501, 500));
    session.run("DELETE FROM sessions WHERE id LIKE 's10%'");
    session.run("CALL enrich.recount_distributed_sessions()");
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
    // Citus creates no TRUNCATE triggers on shards that exist.
    session.run("TRUNCATE sessions");
    session.run("CALL enrich.recount_distributed_sessions()");
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
}

#[test]
fn a_node_can_be_added_and_drained() {
    let Some(cluster) = three_nodes("citus-nodes", |options| options) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    session.run("SELECT enrich.distribute_inventories()");
    session.run(&insert_select("sessions", 1, 500));
    let node = cluster.node(2);
    session.run(&format!("SELECT citus_drain_node({node}, shard_transfer_mode => 'block_writes')"));
    session.run(&insert_select("sessions", 501, 500));
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
    session.run(&format!("SELECT citus_remove_node({node})"));
    session.run(&insert_select("sessions", 1_001, 500));
    session.run(&format!("SELECT citus_add_node({node})"));
    session.run("SELECT rebalance_table_shards('sessions', shard_transfer_mode => 'block_writes')");
    session.run(&insert_select("sessions", 1_501, 500));
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
    assert_eq!(session.number("SELECT count(*) FROM enrich.cluster_node WHERE last_error IS NULL"), 2);
}

/// The extension belongs to a role without SUPERUSER, and the worker connects to the nodes as this role.
#[test]
fn a_role_that_cannot_connect_to_the_nodes_is_named() {
    let whois = Whois::start(Routes::synthetic());
    let Some(cluster) = three_nodes("citus-role", |options| pointed_at(&whois, options)) else { return };
    let mut session = cluster.session();
    session.run("DROP EXTENSION cowrie_enrich");
    session.run("CREATE ROLE keeper SUPERUSER LOGIN");
    cluster.nodes[0].session_as(DATABASE, "keeper").run("CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    session.run("ALTER SCHEMA enrich OWNER TO keeper");
    session.run("ALTER ROLE keeper NOSUPERUSER NOLOGIN");
    cluster.create_attached(&COWRIE);
    let problems = |session: &mut Session| {
        let refusal = session.refused("SELECT enrich.distribute_inventories()");
        assert_eq!(refusal.code, "55000", "{refusal:?}");
        refusal.detail.unwrap_or_default()
    };
    let name = |n: usize| format!("Node {}:5432 ", cluster.nodes[n].socket_dir().display());
    let no_login = "has role keeper without LOGIN; the worker of the coordinator connects as this role, so run ALTER ROLE keeper LOGIN.";
    assert_eq!(problems(&mut session), format!("{}{no_login}\n{}{no_login}", name(1), name(2)));

    session.run("ALTER ROLE keeper LOGIN");
    let rules = cluster.nodes[1].data_dir().join("pg_hba.conf");
    let permissive = std::fs::read_to_string(&rules).expect("the rules are readable");
    std::fs::write(&rules, format!("local all keeper reject\n{permissive}")).expect("the rules are writable");
    cluster.nodes[1].reconfigure(&[]);
    let is_let_in = || cluster.nodes[1].try_session_set(DATABASE, "keeper", &[]).is_ok();
    wait_until("the node refuses the role", is_let_in, |is_let_in| !is_let_in);
    let found = problems(&mut session);
    assert!(found.starts_with(&format!("{}cannot be used by the worker of the coordinator: cannot connect as role keeper; if the node runs, check", name(1))), "{found}");
    assert!(!found.contains(&name(2)), "{found}");
    std::fs::write(&rules, permissive).expect("the rules are writable");
    cluster.nodes[1].reconfigure(&[]);
    wait_until("the node accepts the role", is_let_in, |is_let_in| *is_let_in);

    session.run("SELECT enrich.distribute_inventories()");
    session.run(&insert_select("sessions", 1, 100));
    session.run(&COWRIE.insert(&[("unknown", Some(&member(1, 7).to_string()))]));
    wait_until(
        "the session gets its network from the provider",
        || session.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL"),
        |incomplete| *incomplete == 0,
    );
    cluster.wait_until_folded();
    session.run("ALTER ROLE keeper NOLOGIN");
    session.run(&insert_select("sessions", 101, 100));
    let no_login = "cannot connect as role keeper, which has no LOGIN; run ALTER ROLE keeper LOGIN";
    let errors = || cluster.session().rows("SELECT last_error FROM enrich.cluster_node");
    wait_until("the table has the reason", errors, |errors| *errors == [no_login; 2]);
    let naptimes = || {
        cluster.session().number(
            "SELECT value::bigint FROM enrich.enrich_metrics() WHERE name = 'enrich_worker_naptimes_total'",
        )
    };
    let before = naptimes();
    wait_until("the worker tries several times", naptimes, |now| *now >= before + 4);
    let log = cluster.nodes[0].whole_log();
    assert_eq!(log.matches("could not collect the counts of node").count(), 2, "{}", cluster.nodes[0].log());
    session.run("ALTER ROLE keeper LOGIN");
    wait_until("the worker collects again", errors, |errors| *errors == ["NULL"; 2]);
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
    for node in &cluster.nodes {
        assert!(!node.whole_log().contains("permission denied"), "{}", node.log());
    }
}

#[test]
fn snapshots_stay_when_a_table_with_sessions_is_distributed() {
    let Some(cluster) = three_nodes("citus-old", |options| options) else { return };
    let mut session = cluster.session();
    COWRIE.create(&mut session);
    COWRIE.attach(&mut session);
    session.run(&insert_select("sessions", 1, 500));
    session.run("CALL enrich.fold_statistics()");
    session.run(
        "ALTER TABLE sessions DISABLE TRIGGER zz_cowrie_enrich_snapshot;
         UPDATE sessions SET snapshot_country = 'BR', enrichment_at = '2024-01-01';
         ALTER TABLE sessions ENABLE TRIGGER zz_cowrie_enrich_snapshot",
    );
    session.run("SELECT create_distributed_table_concurrently('sessions', 'id')");
    session.run("SELECT enrich.distribute_inventories()");
    // The old table is still there, as a shard that Citus drops later.
    assert_eq!(session.rows("SELECT rel FROM enrich.attached_tables"), ["sessions"]);
    session.run("CALL enrich.recount_distributed_sessions()");
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
    let old = "SELECT count(*) FROM sessions WHERE snapshot_country = 'BR' AND enrichment_at = '2024-01-01'";
    assert_eq!(session.number(old), 500);
    session.run(&insert_select("sessions", 501, 100));
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
}

#[test]
fn removing_the_local_rows_of_a_distributed_table_subtracts_nothing() {
    let Some(cluster) = three_nodes("citus-shell", |options| options) else { return };
    let mut session = cluster.session();
    COWRIE.create(&mut session);
    session.run(&insert_select("sessions", 1, 100));
    COWRIE.attach(&mut session);
    session.run(&insert_select("sessions", 101, 100));
    session.run("SELECT create_distributed_table('sessions', 'id')");
    session.run("SELECT enrich.distribute_inventories()");
    session.run("CALL enrich.recount_distributed_sessions()");
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
    session.run("SELECT truncate_local_data_after_distributing_table('sessions')");
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
    assert_eq!(session.number("SELECT sum(session_count)::bigint FROM enrich.ip_inventory"), 200);
    let warned = "sessions are removed from the table that Citus has distributed";
    assert!(cluster.nodes[0].whole_log().contains(warned), "{}", cluster.nodes[0].log());
}

/// Citus creates the triggers of a moved or split shard as the owner of the table.
#[test]
fn an_owner_who_cannot_create_the_triggers_is_named() {
    let Some(cluster) = three_nodes("citus-owner", |options| options) else { return };
    let mut session = cluster.session();
    session.run("CREATE ROLE \"the host\" LOGIN");
    cluster.create_attached(&COWRIE);
    for node in &cluster.nodes {
        // The owner must also be able to create tables in the schema of the table.
        node.session(DATABASE)
            .run("SET citus.enable_ddl_propagation = off; GRANT CREATE ON SCHEMA public TO \"the host\"");
    }
    session.run("ALTER TABLE sessions OWNER TO \"the host\"");
    let refusal = session.refused("SELECT enrich.distribute_inventories()");
    assert_eq!(refusal.code, "55000");
    let detail = refusal.detail.expect("it says what is missing");
    let grants = "SELECT run_command_on_all_nodes('GRANT USAGE ON SCHEMA enrich TO \"the host\"'); \
                  SELECT run_command_on_all_nodes('GRANT EXECUTE ON FUNCTION enrich.enrich_session(), enrich.forget_sessions() TO \"the host\"')";
    assert_eq!(detail.matches(grants).count(), 2, "{detail}");
    for grant in grants.split("; ") {
        session.run(grant);
    }
    session.run("SELECT enrich.distribute_inventories()");
    session.run(&insert_select("sessions", 1, 500));
    session.run(&format!("SELECT citus_set_node_property({}, 'shouldhaveshards', true)", cluster.node(0)));
    for (from, to, mode) in [(1, 2, "block_writes"), (2, 1, "force_logical"), (1, 0, "force_logical")] {
        cluster.move_shard(from, to, mode);
    }
    // A shard is split in two. Citus drops the old shard later.
    session.run(&format!(
        "SELECT citus_split_shard_by_split_points(s.shardid,
                    ARRAY[((p.shardminvalue::bigint + p.shardmaxvalue::bigint) / 2)::text],
                    ARRAY[n.nodeid, n.nodeid], 'force_logical')
         FROM (SELECT min(shardid) AS shardid FROM citus_shards WHERE nodename = {0}) s
         JOIN pg_dist_shard p USING (shardid)
         JOIN pg_dist_node n ON n.nodename = {0}",
        cluster.node(0).split(',').next().expect("a name")
    ));
    session.run(&insert_select("sessions", 501, 500));
    assert_eq!(session.rows("SELECT rel FROM enrich.attached_tables"), ["sessions"]);
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
}

#[test]
fn a_truncate_after_the_table_was_detached_subtracts_nothing() {
    let Some(cluster) = three_nodes("citus-detach", |options| options) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    SUMMARIES.create_attached(&mut session);
    session.run("SELECT create_distributed_table('session_summaries', 'session_id')");
    session.run("SELECT enrich.distribute_inventories()");
    session.run("SELECT enrich.detach_session_table('session_summaries')");
    // A trigger of the owner, which has nothing to do with the counts.
    session.run(
        "CREATE FUNCTION changes_nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    );
    session.run(
        "CREATE TRIGGER owners AFTER INSERT ON session_summaries FOR EACH ROW EXECUTE FUNCTION changes_nothing()",
    );
    session.run(&insert_select("sessions", 1, 100));
    session.run(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at) SELECT id, ip::inet, starttime FROM sessions",
    );
    session.run("TRUNCATE session_summaries");
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
    assert_eq!(session.number("SELECT sum(session_count)::bigint FROM enrich.ip_inventory"), 100);
    // The triggers of a table that is still attached do subtract.
    session.run("TRUNCATE sessions");
    cluster.wait_until_folded();
    assert_eq!(session.number("SELECT sum(session_count)::bigint FROM enrich.ip_inventory"), 0);
}

/// The coordinator confirms a batch, and the member then forgets it. So both must remember the batch after a crash.
#[test]
fn a_crash_loses_no_count_if_commits_are_asynchronous() {
    let change = |options: server_tests::Options| {
        options
            .durable()
            .conf("synchronous_commit = off")
            .conf("wal_writer_delay = 10s")
            .conf("cowrie_enrich.worker_enabled = off")
    };
    let Some(cluster) = three_nodes("citus-async", change) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    session.run("SELECT enrich.distribute_inventories()");
    for killed in 0..2 {
        let mut session = cluster.session();
        session.run(&insert_select("sessions", 1 + killed * 1_000, 500));
        for node in &cluster.nodes {
            node.session(DATABASE).run("SELECT pg_switch_wal()");
        }
        // The second call confirms the batches of the first.
        for _ in 0..2 {
            session.run("SELECT enrich.collect_from_nodes()");
        }
        drop(session);
        let node = &cluster.nodes[killed as usize];
        node.kill_postmaster();
        node.start_again();
        let mut session = cluster.session();
        session.run(&insert_select("sessions", 501 + killed * 1_000, 500));
        cluster.wait_until_folded();
        assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
    }
}

/// The recount waits for writers. If it then read an old state of the inventories, it would correct what is right.
#[test]
fn a_recount_sees_what_was_committed_while_it_waited() {
    let Some(cluster) = three_nodes("citus-waits", |options| options) else { return };
    cluster.create_attached(&COWRIE);
    let mut session = cluster.session();
    session.run("SELECT enrich.distribute_inventories()");
    let (mut first, mut second) = (cluster.session(), cluster.session());
    first.run(&format!("BEGIN; {}", insert_select("sessions", 1, 50)));
    second.run(&format!("BEGIN; {}", insert_select("sessions", 51, 1)));
    std::thread::scope(|scope| {
        let mut recounting = cluster.session();
        let recount = scope.spawn(move || {
            recounting.run("SET default_transaction_isolation = 'repeatable read'");
            recounting.run("CALL enrich.recount_distributed_sessions()");
        });
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'sessions'::regclass";
        wait_until("the recount waits", || session.number(waiting), |waiting| *waiting > 0);
        first.run("COMMIT");
        let counted = "SELECT coalesce(sum(session_count), 0)::bigint FROM enrich.ip_inventory";
        let collected = || {
            let _ = session.try_run(
                "SET lock_timeout = '1s'; SELECT enrich.collect_from_nodes(); CALL enrich.fold_statistics()",
            );
            let unconfirmed = "SELECT count(*) FROM enrich.cluster_member WHERE content IS NOT NULL";
            (session.number(counted), cluster.sum(unconfirmed))
        };
        wait_until("the sessions are counted", collected, |counted| *counted == (50, 0));
        second.run("COMMIT");
        recount.join().expect("the recount succeeds");
    });
    cluster.wait_until_folded();
    assert_counts_are_exact(&mut session, &[("sessions", "ip")]);
}

#[test]
fn a_node_or_a_table_that_is_not_ready_is_named() {
    let Some(cluster) = three_nodes("citus-ready", |options| options) else { return };
    let mut session = cluster.session();
    cluster.create_attached(&COWRIE);
    SUMMARIES.create_attached(&mut session);
    session.run("SELECT create_reference_table('session_summaries')");
    let detail = |session: &mut Session| {
        let refusal = session.refused("SELECT enrich.distribute_inventories()");
        assert_eq!(refusal.code, "55000");
        refusal.detail.expect("it says what is missing")
    };
    assert!(detail(&mut session).contains("session_summaries is a reference table"));
    session.run("SELECT enrich.detach_session_table('session_summaries')");
    // The table has one shard.
    session.run("CREATE TABLE single (id bigint PRIMARY KEY, ip inet)");
    session.run("SELECT enrich.attach_session_table('single', 'ip', trust_input => true)");
    session.run("SELECT create_distributed_table('single', NULL)");
    assert!(detail(&mut session).contains("single has options that shards do not use"));
    session.run(
        "SELECT enrich.set_session_table_options('single', run_triggers => false, trust_input => false)",
    );
    cluster.nodes[2].stop_fast();
    cluster.nodes[2].configure(&["shared_preload_libraries = 'citus'".to_owned()]);
    cluster.nodes[2].start_again();
    assert!(detail(&mut session).contains("does not preload the library"));
}
