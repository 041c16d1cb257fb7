//! A Citus cluster of three servers on this machine: a coordinator and two workers.
//!
//! No package registry has Citus, so the tests that need it run only if the environment variable `CITUS_PG_CONFIG` names the
//! `pg_config` of an installation with Citus and with this extension. `scripts/citus-tests` prepares such an installation.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::cluster::{Cluster, Options, SUPERUSER};
use crate::hosts::{COWRIE, Host};
use crate::installation::{installation, use_installation};
use crate::releases::{current, offer_old_version};
use crate::session::Session;
use crate::wait::wait_until;
use crate::world::{self, Files};

/// The database of the cluster. It has the same name on each node.
pub const DATABASE: &str = "honeypots";

/// Settings that Citus and the tests need. The coordinator finishes prepared transactions of lost connections often, because tests
/// kill servers.
const SETTINGS: &[&str] = &[
    "shared_preload_libraries = 'citus, cowrie_enrich'",
    "citus.node_conninfo = 'sslmode=disable'",
    "citus.enable_unsafe_triggers = on",
    "citus.recover_2pc_interval = 2s",
    "citus.enable_statistics_collection = off",
    "wal_level = logical",
    "max_connections = 300",
    "max_prepared_transactions = 300",
    "max_worker_processes = 60",
    "cowrie_enrich.worker_naptime = 500ms",
];

pub struct CitusCluster {
    /// The coordinator comes first.
    pub nodes: Vec<Cluster>,
}

/// Makes this process run the installation with Citus. Returns false, and says so, if there is none.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let Some(pg_config) = std::env::var_os("CITUS_PG_CONFIG") else { return false };
        use_installation(&PathBuf::from(pg_config));
        for extension in ["citus", "cowrie_enrich"] {
            let control = installation().sharedir.join(format!("extension/{extension}.control"));
            assert!(
                control.exists(),
                "the installation of CITUS_PG_CONFIG lacks {extension}: run scripts/citus-tests"
            );
        }
        offer_old_version();
        true
    })
}

/// Starts a cluster whose nodes have the extension in the schema `enrich`. Returns `None`, and says so, without Citus.
pub fn three_nodes(name: &str, change: impl Fn(Options) -> Options) -> Option<CitusCluster> {
    three_nodes_of_version(name, current(), change)
}

/// Starts a cluster like [`three_nodes`], whose nodes have this version of the extension.
pub fn three_nodes_of_version(
    name: &str,
    version: &str,
    change: impl Fn(Options) -> Options,
) -> Option<CitusCluster> {
    if !is_available() {
        eprintln!("not run: CITUS_PG_CONFIG is not set");
        return None;
    }
    let start = |n: usize| {
        let mut options = Options::named(&format!("{name}-{n}")).with_worker();
        for line in SETTINGS {
            options = options.conf(line);
        }
        let node = Cluster::start(&change(options));
        node.reconfigure(&[format!("citus.local_hostname = '{}'", node.socket_dir().display())]);
        let files = Files::below(node.files());
        world::city_database().write(&files.city);
        world::asn_database().write(&files.asn);
        node.reconfigure(&files.settings());
        node.session(SUPERUSER).run(&format!("CREATE DATABASE {DATABASE}"));
        node.session(DATABASE).run("CREATE EXTENSION citus");
        node
    };
    let cluster = CitusCluster { nodes: (0..3).map(start).collect() };
    let mut session = cluster.session();
    session.run(&format!("SELECT citus_set_coordinator_host({})", cluster.node(0)));
    for n in 1..cluster.nodes.len() {
        session.run(&format!("SELECT citus_add_node({})", cluster.node(n)));
    }
    session.run("CREATE SCHEMA enrich");
    session.run(&format!("CREATE EXTENSION cowrie_enrich SCHEMA enrich VERSION '{version}'"));
    for node in &cluster.nodes {
        node.session(DATABASE).run("SELECT enrich.reload_mmdb()");
    }
    Some(cluster)
}

/// Starts a cluster with the distributed table `sessions`, whose counts the coordinator collects.
pub fn collecting(name: &str) -> Option<CitusCluster> {
    let cluster = three_nodes(name, |options| options.conf("cowrie_enrich.enabled_sources = 'maxmind'"))?;
    cluster.create_attached(&COWRIE);
    cluster.session().run("SELECT enrich.distribute_inventories()");
    Some(cluster)
}

impl CitusCluster {
    /// Connects to the coordinator as superuser.
    pub fn session(&self) -> Session {
        self.nodes[0].session(DATABASE)
    }

    /// Returns the name and the port of a node, as arguments of Citus's functions.
    pub fn node(&self, n: usize) -> String {
        format!("'{}', 5432", self.nodes[n].socket_dir().display())
    }

    /// Moves one shard of the table `sessions` from a node to another node. Returns its number.
    pub fn move_shard(&self, from: usize, to: usize, mode: &str) -> i64 {
        let mut session = self.session();
        let shard = session.number(&format!(
            "SELECT min(shardid) FROM citus_shards WHERE table_name = 'sessions'::regclass AND nodename = '{}'",
            self.nodes[from].socket_dir().display()
        ));
        session.run(&format!(
            "SELECT citus_move_shard_placement({shard}, {}, {}, shard_transfer_mode => '{mode}')",
            self.node(from),
            self.node(to)
        ));
        shard
    }

    /// Makes the session table of a host, attaches it, and distributes it by its key.
    pub fn create_attached(&self, host: &Host) {
        let mut session = self.session();
        host.create(&mut session);
        host.attach(&mut session);
        session.run(&format!("SELECT create_distributed_table('{}', '{}')", host.table, host.key));
    }

    /// Returns the sum of a number over all nodes, the coordinator included.
    pub fn sum(&self, query: &str) -> i64 {
        self.nodes.iter().map(|node| node.session(DATABASE).number(query)).sum()
    }

    /// Waits until all counts of all nodes are in the inventories of the coordinator.
    #[track_caller]
    pub fn wait_until_folded(&self) {
        let pending = || {
            let mut session = self.session();
            let _ = session.try_run("CALL enrich.fold_statistics()");
            self.sum(
                "SELECT (SELECT count(*) FROM enrich.session_delta)
                      + (SELECT count(*) FROM enrich.cluster_member WHERE content IS NOT NULL)
                      + (SELECT count(*) FROM pg_prepared_xacts)",
            )
        };
        let _ = wait_until("all counts are folded", pending, |pending| *pending == 0);
    }
}
