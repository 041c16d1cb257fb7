//! Sites and a central server as docs/many-sites.md sets them up. All SQL is that of the page. Only names, hosts and
//! passwords of the sites differ.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cluster::{Cluster, Options, SUPERUSER};
use crate::database::{bare_database, cluster_with_world, fresh_database};
use crate::documentation::{Block, blocks_of, page, section};
use crate::hosts::COWRIE;
use crate::installation::installation;
use crate::session::Session;

pub const PAGE: &str = "docs/many-sites.md";

/// The site that the statements of the page name.
const EXAMPLE: &str = "berlin";

/// The role of the page with which an analyst reads all sites.
pub const ANALYST: &str = "anna";

/// A site: a server that can be reached over TCP, with an attached table of sessions.
pub struct Site {
    pub name: &'static str,
    pub cluster: Cluster,
    pub database: String,
    host: String,
}

impl Site {
    /// Connects as superuser.
    pub fn session(&self) -> Session {
        self.cluster.session(&self.database)
    }

    fn password(&self) -> String {
        format!("it's of {}", self.name)
    }

    /// Returns SQL of the page for this site.
    pub fn own(&self, sql: &str) -> String {
        with_schema_of_tests(sql).replace(EXAMPLE, self.name)
    }
}

/// Several sites, and the server with the central database.
pub struct Fleet {
    pub sites: Vec<Site>,
    pub central: Cluster,
    pub database: String,
}

/// Returns true if this installation of PostgreSQL has `postgres_fdw`, which not all packages contain.
pub fn has_postgres_fdw() -> bool {
    let is_there = installation().sharedir.join("extension/postgres_fdw.control").exists();
    if !is_there {
        eprintln!("not run: this installation of PostgreSQL has no postgres_fdw");
    }
    is_there
}

/// Returns the blocks of SQL below a heading of the page.
#[track_caller]
pub fn blocks(heading: &str) -> Vec<Block> {
    let page = page(PAGE);
    blocks_of(section(&page, heading))
}

/// Returns the block of the page that contains a text.
#[track_caller]
pub fn block_with(text: &str) -> String {
    let found = blocks_of(&page(PAGE)).into_iter().find(|block| block.sql.contains(text));
    found.unwrap_or_else(|| panic!("{PAGE} has no block with {text}")).sql
}

/// The extension has a shorter schema in databases of tests.
fn with_schema_of_tests(sql: &str) -> String {
    sql.replace("cowrie_enrich.", "enrich.").replace("SCHEMA cowrie_enrich ", "SCHEMA enrich ")
}

/// Returns an address of loopback that no other server of the tests uses, so that all servers can have the same port.
fn own_loopback_address() -> String {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let n = std::process::id().wrapping_mul(16).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
    format!("127.{}.{}.{}", 1 + (n >> 16) % 254, (n >> 8) % 256, 1 + n % 254)
}

/// Runs statements in psql. Returns the rows, with bars between the columns.
#[track_caller]
pub fn psql(cluster: &Cluster, database: &str, role: &str, sql: &str) -> Result<Vec<String>, String> {
    let mut psql = cluster.program("psql");
    let script = cluster.files().join(format!("{database}-{role}.sql"));
    fs::write(&script, sql).expect("the script can be written");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", role, "-d", database, "-f"])
        .arg(&script);
    let output = psql.output().expect("psql runs");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Runs statements that must succeed as superuser in psql.
#[track_caller]
fn set_up(cluster: &Cluster, database: &str, sql: &str) {
    if let Err(error) = psql(cluster, database, SUPERUSER, sql) {
        panic!("{error}\nfrom:\n{sql}");
    }
}

impl Fleet {
    /// Starts the servers, and runs all statements of the page that set up the sites and the central database.
    pub fn start(label: &str, names: &[&'static str]) -> Self {
        let sites: Vec<Site> = names.iter().map(|name| start_site(label, name)).collect();
        let central = cluster_with_world(&Options::named(&format!("{label}-central")));
        let database = bare_database(&central).name.clone();
        let fleet = Self { sites, central, database };
        for block in blocks("2. In the central database") {
            set_up(&fleet.central, &fleet.database, &block.sql);
        }
        let rows: Vec<String> = fleet
            .sites
            .iter()
            .map(|site| format!("('{}', '{}', 5432, '{}', 'disable')", site.name, site.host, site.database))
            .collect();
        for block in blocks("3. The list of sites") {
            if block.sql.starts_with("INSERT INTO site_tables.site ") {
                set_up(
                    &fleet.central,
                    &fleet.database,
                    &format!("INSERT INTO site_tables.site VALUES {}", rows.join(", ")),
                );
            } else if block.sql.contains(EXAMPLE) {
                for site in &fleet.sites {
                    let sql =
                        block.sql.replace("the password at berlin", &site.password().replace('\'', "''"));
                    set_up(&fleet.central, &fleet.database, &sql.replace(EXAMPLE, site.name));
                }
            } else {
                set_up(&fleet.central, &fleet.database, &block.sql);
            }
        }
        fleet
    }

    /// Connects to the central database as superuser.
    pub fn session(&self) -> Session {
        self.central.session(&self.database)
    }

    /// Connects to the central database as an analyst.
    pub fn analyst(&self) -> Session {
        self.central.session_as(&self.database, ANALYST)
    }

    /// Runs SQL of the page in the central database.
    #[track_caller]
    pub fn run(&self, role: &str, sql: &str) -> Vec<String> {
        match psql(&self.central, &self.database, role, sql) {
            Ok(rows) => rows,
            Err(error) => panic!("{error}\nfrom:\n{sql}"),
        }
    }

    #[track_caller]
    pub fn site(&self, name: &str) -> &Site {
        self.sites.iter().find(|site| site.name == name).expect("a site has this name")
    }
}

fn start_site(label: &str, name: &'static str) -> Site {
    let host = own_loopback_address();
    let options = Options::named(&format!("{label}-{name}"))
        .conf(&format!("listen_addresses = '{host}'"))
        .conf("wal_level = logical");
    let cluster = cluster_with_world(&options);
    let rules = "local all all trust\nhost all central_reader 127.0.0.0/8 scram-sha-256\n";
    fs::write(cluster.data_dir().join("pg_hba.conf"), rules).expect("pg_hba.conf can be written");
    cluster.session(SUPERUSER).run("SELECT pg_reload_conf()");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let database = db.name.clone();
    drop(db);
    let site = Site { name, cluster, database, host };
    for block in blocks("1. At each site") {
        set_up(&site.cluster, &site.database, &site.own(&block.sql));
    }
    let password = site.password().replace('\'', "''");
    site.session().run(&format!("ALTER ROLE central_reader PASSWORD '{password}'"));
    site
}
