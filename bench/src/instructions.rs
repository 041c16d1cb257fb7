//! Compares the instructions of this checkout with those of an earlier commit, for the operations that run most often.
//!
//! Each count is the difference between two runs of a server in single-user mode. The second run executes more
//! operations than the first. So the count does not include the start of the server, the planning of the first
//! statements and the last checkpoint.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use server_tests::database::{cluster_with_world, copy_from};
use server_tests::installation::{Installation, installation, workspace};
use server_tests::world::crowd_member;
use server_tests::{Cluster, Options};

use crate::Effort;
use crate::callgrind::{self, KNOWN, MOST_ROUNDS};
use crate::report::{Aim, Report, median};

/// Session deltas that are pending in the databases for folding.
const FEW_DELTAS: u64 = 256;
const MANY_DELTAS: u64 = KNOWN;

/// Maximum increase of an operation's cost since the earlier commit, in percent.
const MOST_PERCENT: f64 = 2.0;

#[derive(Clone, Copy)]
enum Content {
    /// An attached table without sessions, and an inventory of the known addresses.
    NoSessions,
    FewDeltas,
    ManyDeltas,
}

struct Run {
    content: Content,
    script: String,
}

struct Operation {
    what: &'static str,
    /// The name of the files with callgrind's counts by function.
    file: &'static str,
    /// The number of operations that only the second run executes.
    operations: u64,
    runs: [Run; 2],
}

/// One version of the extension with its server, which is stopped.
struct Version {
    name: &'static str,
    cluster: Cluster,
    /// The databases by `Content`.
    databases: [String; 3],
}

pub fn measure(effort: &Effort, report: &mut Report) {
    let (Some(pg_config), Ok(commit)) = (
        std::env::var_os("COWRIE_ENRICH_BASELINE_PG_CONFIG"),
        std::env::var("COWRIE_ENRICH_BASELINE_COMMIT"),
    ) else {
        panic!("no earlier commit is installed: use bench/run instructions COMMIT");
    };
    assert!(callgrind::is_installed(), "valgrind is not installed (Debian: apt-get install valgrind)");
    static EARLIER: OnceLock<Installation> = OnceLock::new();
    let earlier = EARLIER.get_or_init(|| Installation::of(pg_config.into()));
    eprintln!("instructions: this checkout and {commit}, under callgrind");
    let versions = [Version::prepare("new", installation()), Version::prepare("old", earlier)];
    let profiles = workspace().join("target/instructions");
    std::fs::create_dir_all(&profiles).expect("target can be written");

    for operation in operations() {
        let mut counts = [Vec::new(), Vec::new()];
        let mut percents = Vec::new();
        for round in 0..effort.rounds.min(MOST_ROUNDS) {
            for turn in 0..2 {
                let which = (round + turn) % 2;
                counts[which].push(operation.count(&versions[which], &profiles));
            }
            percents.push((counts[0][round] / counts[1][round] - 1.0) * 100.0);
        }
        let [new, old] = counts.map(|counts| median(&counts));
        report.line(
            &format!("{}: beyond {commit}", operation.what),
            format!("{new:.0} / {old:.0}"),
            percents,
            " %",
            Aim::AtMost(MOST_PERCENT),
            format!("ratio {:.4}", new / old),
        );
    }
    eprintln!("counts by function: callgrind_annotate {}/*", profiles.display());
}

impl Version {
    fn prepare(name: &'static str, installation: &'static Installation) -> Self {
        let options = Options::named(&format!("bench-instructions-{name}")).run_by(installation);
        // Autovacuum is off, so that both versions have the same pages and statistics.
        let cluster = cluster_with_world(&options.conf("autovacuum = off"));
        let no_sessions = callgrind::prepared_database(&cluster);
        let with_deltas = |deltas| {
            let mut db = copy_from(&cluster, &no_sessions);
            db.run(&insert_rows(0, deltas));
            assert_eq!(db.one("SELECT count(*) FROM session_delta"), deltas.to_string());
            db.name.clone()
        };
        let databases = [with_deltas(FEW_DELTAS), with_deltas(MANY_DELTAS)];
        let [few_deltas, many_deltas] = databases;
        cluster.stop_fast();
        Self { name, cluster, databases: [no_sessions, few_deltas, many_deltas] }
    }
}

impl Operation {
    /// Returns the instructions of one operation.
    fn count(&self, version: &Version, profiles: &Path) -> f64 {
        let profile: PathBuf = profiles.join(format!("{}-{}.out", self.file, version.name));
        let [first, second] = [None, Some(&*profile)];
        let [few, many] = [(&self.runs[0], first), (&self.runs[1], second)].map(|(run, profile)| {
            let database = &version.databases[run.content as usize];
            callgrind::instructions(&version.cluster, database, &[], &run.script, profile)
        });
        (many - few) / self.operations as f64
    }
}

fn operations() -> Vec<Operation> {
    let inserts = |file, what, address: fn(u64) -> String| {
        let script = |sessions: u64| (0..sessions).map(|n| insert(&[row(n, &address(n))])).collect();
        operation(file, what, [300, 1_500], script)
    };
    vec![
        inserts("known", "insert of a session, known address", |n| crowd_member(n * 7 % KNOWN)),
        inserts("new", "insert of a session, new address", |n| crowd_member(KNOWN + n)),
        operation("rows", "insert of 1,000 sessions in one statement", [2, 8], |statements| {
            (0..statements).map(|n| insert_rows(n * 1_000, 1_000)).collect()
        }),
        Operation {
            what: "fold, one session delta",
            file: "fold",
            operations: MANY_DELTAS - FEW_DELTAS,
            runs: [Content::FewDeltas, Content::ManyDeltas]
                .map(|content| Run { content, script: "CALL enrich.fold_statistics()\n".to_owned() }),
        },
        lookup("ip_country"),
        lookup("ip_asn"),
        lookup("maxmind_lookup"),
        operation("enrich_new", "enrich_ips, one new address", [200, 2_000], |n| enrich_ips(KNOWN, n)),
        operation("enrich_known", "enrich_ips, one fresh address", [200, 2_000], |n| enrich_ips(0, n)),
    ]
}

fn operation(
    file: &'static str,
    what: &'static str,
    sizes: [u64; 2],
    script: impl Fn(u64) -> String,
) -> Operation {
    let runs = sizes.map(|size| Run { content: Content::NoSessions, script: script(size) });
    Operation { what, file, operations: sizes[1] - sizes[0], runs }
}

/// Returns the operation that looks up an address in the mmdb files. The first run executes the same statement without
/// the function.
fn lookup(function: &'static str) -> Operation {
    const LOOKUPS: u64 = 20_000;
    let script = |expression: &str| {
        format!(
            "SELECT count(enrich.{function}('23.0.0.1'))\nSELECT count({expression}) FROM (SELECT '23.0.0.1'::inet + \
             65536 * (n % 256) AS ip FROM generate_series(1, {LOOKUPS}) n) addresses\n"
        )
    };
    let runs = ["ip".to_owned(), format!("enrich.{function}(ip)")]
        .map(|expression| Run { content: Content::NoSessions, script: script(&expression) });
    Operation { what: function, file: function, operations: LOOKUPS, runs }
}

/// Returns a statement that enriches `addresses` addresses of the crowd, beginning with number `first`.
fn enrich_ips(first: u64, addresses: u64) -> String {
    let addresses: Vec<String> = (first..first + addresses).map(crowd_member).collect();
    format!("SELECT count(*) FROM enrich.enrich_ips('{{{}}}')\n", addresses.join(","))
}

/// Returns a statement that inserts sessions of known addresses, all of them different if there are enough.
fn insert_rows(first: u64, sessions: u64) -> String {
    let rows: Vec<String> = (first..first + sessions).map(|n| row(n, &crowd_member(n % KNOWN))).collect();
    insert(&rows)
}

fn insert(rows: &[String]) -> String {
    format!("INSERT INTO public.sessions (id, starttime, ip) VALUES {}\n", rows.join(", "))
}

fn row(session: u64, address: &str) -> String {
    format!("('s{session}', '2024-05-01 12:00', '{address}')")
}
