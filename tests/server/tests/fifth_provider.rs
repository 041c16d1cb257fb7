//! A fifth provider needs one new file and one entry in a list. The file is `tests/toy/toy.rs`. The test adds it to a
//! copy of the sources below `target/toy`, builds the copy, installs it into a separate PostgreSQL and runs it.
//!
//! The results of the build are kept. The first build takes some minutes, later ones take seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cowrie_enrich_upstreams::{CannedAnswer, Hosts, Http, HttpBehaviour, HttpFault, HttpRequest, Service};
use server_tests::cymru::{assert_nothing_crashed, reconfigure};
use server_tests::database::{Database, cluster_with_world, fresh_database};
use server_tests::hosts::COWRIE;
use server_tests::installation::{self, named_major, use_installation, workspace};
use server_tests::{Cluster, Options, wait_until};

const TOY: &str = "tests/toy/toy.rs";
const PROVIDERS: &str = "engine/src/providers";
const LIST: &str = "engine/src/providers/mod.rs";
/// The line that is added to the file of the list.
const DECLARATION: &str = "pub mod toy;\n";
const ENTRY: &str = ", &toy::Toy";

/// Files by their path below the root.
type Tree = BTreeMap<PathBuf, File>;

#[derive(Clone, PartialEq, Eq)]
struct File {
    bytes: Vec<u8>,
    is_executable: bool,
}

#[test]
fn a_fifth_provider_is_one_new_file_and_one_entry_of_one_list() {
    let workshop = workshop();
    let (before, after) = (&workshop.sources, &tree(&workshop.copy));
    let names = |tree: &Tree| tree.keys().cloned().collect::<BTreeSet<_>>();
    let added: Vec<_> = names(after).difference(&names(before)).cloned().collect();
    assert_eq!(added, [Path::new(PROVIDERS).join("toy.rs")]);
    assert!(names(before).is_subset(&names(after)));
    let changed: Vec<_> = before.iter().filter(|(name, file)| after[*name] != **file).collect();
    assert_eq!(changed.iter().map(|(name, _)| name.as_path()).collect::<Vec<_>>(), [Path::new(LIST)]);

    // The file is declared and in the list. All else is unchanged.
    let without = text(after).replacen(DECLARATION, "", 1).replacen(ENTRY, "", 1);
    assert_eq!(without, text(before));
    assert_eq!(text(after).len(), text(before).len() + DECLARATION.len() + ENTRY.len());
}

/// Returns the sources with the toy in the directory of the providers and in their list.
fn with_the_toy(mut tree: Tree) -> Tree {
    let toy = tree.get(Path::new(TOY)).expect("the toy is a file of this checkout").clone();
    tree.insert(Path::new(PROVIDERS).join("toy.rs"), toy);
    let list = text(&tree);
    let (head, rest) = list.split_once("pub const ALL").expect("a list of all providers");
    let (entries, tail) = rest.split_once("];").expect("an end of the list");
    let last = head.rfind("pub mod ").expect("the modules are declared above the list");
    let declared = last + head[last..].find('\n').expect("a declaration is a line") + 1;
    let listed = entries.trim_end().trim_end_matches(',').len();
    let list = [
        &head[..declared],
        DECLARATION,
        &head[declared..],
        "pub const ALL",
        &entries[..listed],
        ENTRY,
        &entries[listed..],
        "];",
        tail,
    ]
    .concat();
    tree.get_mut(Path::new(LIST)).expect("the list is a file").bytes = list.into_bytes();
    tree
}

fn text(tree: &Tree) -> String {
    String::from_utf8(tree[Path::new(LIST)].bytes.clone()).expect("the list is text")
}

/// Returns all files except those that were built.
fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("the directory can be read").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("it is below the root").to_owned();
            if name == Path::new("target") || name == Path::new(".git") {
                continue;
            }
            let metadata = match path.metadata() {
                Ok(metadata) => metadata,
                // A temporary file of an editor.
                Err(problem) if problem.kind() == ErrorKind::NotFound => continue,
                Err(problem) => panic!("could not look at {}: {problem}", path.display()),
            };
            if metadata.is_dir() {
                open.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                let is_executable = metadata.permissions().mode() & 0o111 != 0;
                tree.insert(name, File { bytes, is_executable });
            }
        }
    }
    tree
}

/// Makes the files below a directory equal to those of the tree. Writes only files that differ, because cargo builds
/// a file again if its modification time is new.
fn write(wanted: &Tree, root: &Path) {
    let there = tree(root);
    for name in there.keys().filter(|name| !wanted.contains_key(*name)) {
        fs::remove_file(root.join(name)).expect("a file of this test's own");
    }
    for (name, file) in wanted.iter().filter(|(name, file)| there.get(*name) != Some(file)) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory of this test's own");
        fs::write(&path, &file.bytes).expect("a file of this test's own");
        let mode = if file.is_executable { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a file of this test's own");
    }
}

/// The copy of the sources from which the extension was built, and the original sources at that time. The extension
/// is installed in a separate PostgreSQL, which this process uses.
struct Workshop {
    copy: PathBuf,
    sources: Tree,
}

fn workshop() -> &'static Workshop {
    static WORKSHOP: OnceLock<Workshop> = OnceLock::new();
    WORKSHOP.get_or_init(|| {
        let copy = workspace().join("target/toy");
        fs::create_dir_all(copy.join("target")).expect("target/ can be written");
        let lock = fs::File::create(copy.join("target/lock")).expect("a file of this test's own");
        lock.lock().expect("another process that builds the same ends");
        let sources = tree(&workspace());
        write(&with_the_toy(sources.clone()), &copy);
        let major = named_major().to_string();
        run(&copy, "scripts/private-postgres", &major);
        run(&copy, "scripts/install-extension", &major);
        use_installation(&copy.join("target/postgres").join(major).join("bin/pg_config"));
        Workshop { copy, sources }
    })
}

/// Runs a script of the copy, with no path of the original in its environment.
fn run(copy: &Path, script: &str, major: &str) {
    let mut command = installation::script(copy, script);
    if std::env::var_os("PG_CONFIG").is_none_or(|path| path.is_empty()) {
        command.env("PG_MAJOR", major);
    }
    // If the server's user cannot enter this directory, the copy of PostgreSQL is made below `TMP_BASE`.
    let postgres = workspace().join("target/postgres");
    command.env("TMP_BASE", postgres.canonicalize().unwrap_or(postgres));
    // A release build that takes seconds, with the same settings for all crates.
    command.env_remove("QUICK_BUILD");
    for (setting, value) in [
        ("OPT_LEVEL", "0"),
        ("LTO", "off"),
        ("CODEGEN_UNITS", "256"),
        ("DEBUG", "false"),
        ("INCREMENTAL", "true"),
    ] {
        command.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    let output = command.env("QUIET", "1").output().expect("the script runs");
    assert!(
        output.status.success(),
        "{script} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A toy shop that knows every second address, and a server that sends requests to it.
struct Lab {
    // Dropped first, because it sends requests to the other.
    cluster: Cluster,
    shop: Http,
}

impl Lab {
    fn start(name: &str, settings: &[&str]) -> Lab {
        workshop();
        let shop = Http::start(Service::GreyNoise, Hosts::empty());
        shop.behave(HttpFault::Custom(Arc::new(toys)));
        let options = Options::named(name)
            .with_worker()
            .conf("cowrie_enrich.worker_naptime = 200ms")
            .conf("cowrie_enrich.enabled_sources = 'maxmind,toy'")
            .conf(&format!("cowrie_enrich.toy_url = '{}'", shop.url()));
        let options =
            settings.iter().fold(options, |options, line| options.conf(&format!("cowrie_enrich.{line}")));
        Lab { cluster: cluster_with_world(&options), shop }
    }

    fn asked(&self) -> Vec<IpAddr> {
        self.shop.requests().iter().filter_map(|request| request.ip).collect()
    }
}

fn knows(ip: IpAddr) -> bool {
    ip.to_string().bytes().last().is_some_and(|digit| digit % 2 == 0)
}

fn toys(request: &HttpRequest) -> CannedAnswer {
    toys_at(request.ip.expect("it is asked about addresses"))
}

fn toys_at(ip: IpAddr) -> CannedAnswer {
    let (status, more) = if knows(ip) { (200, r#","toys":["ball","kite"]"#) } else { (404, "") };
    CannedAnswer { status, headers: Vec::new(), body: format!(r#"{{"ip":"{ip}"{more}}}"#).into_bytes() }
}

fn request(db: &mut Database<'_>, hosts: std::ops::Range<u8>) -> Vec<IpAddr> {
    db.run(&format!(
        "SELECT enrich_ip(ip), request_enrichment(ip, 'toy')
         FROM (SELECT '48.0.0.0'::inet + n AS ip FROM generate_series({}, {}) AS n) addresses",
        hosts.start,
        hosts.end - 1
    ));
    hosts.map(|host| IpAddr::from([48, 0, 0, host])).collect()
}

fn wait_for_the_queue(db: &mut Database<'_>) {
    let left = "SELECT requested + jobs FROM queue_status WHERE provider = 'toy'";
    wait_until("the queue of the toy shop is empty", || db.number(left), |left| *left == 0);
}

#[test]
fn it_is_known_wherever_providers_are() {
    let lab = Lab::start("toy-known", &[]);
    let mut db = fresh_database(&lab.cluster);
    for list in ["providers()", "queue_status", "provider_status"] {
        let listed = db.rows(&format!("SELECT provider FROM {list}"));
        assert!(listed.len() > 1 && listed.contains(&"toy".to_owned()), "{list}: {listed:?}");
    }
    assert_eq!(db.rows("SELECT title FROM providers() WHERE provider = 'toy'"), ["The toy shop"]);
    assert_eq!(
        db.rows(
            "SELECT name, boot_val, unit, context FROM pg_settings WHERE name LIKE 'cowrie_enrich.toy%' ORDER BY 1"
        ),
        [
            "cowrie_enrich.toy_absent_ttl|172800|s|sighup",
            "cowrie_enrich.toy_daily_quota|0|NULL|sighup",
            "cowrie_enrich.toy_max_parallel|2|NULL|sighup",
            "cowrie_enrich.toy_rate|5|NULL|sighup",
            "cowrie_enrich.toy_timeout|20000|ms|sighup",
            "cowrie_enrich.toy_ttl|604800|s|sighup",
            "cowrie_enrich.toy_url|https://toys.example/v1|NULL|sighup",
        ]
    );
    assert_eq!(
        db.one("SELECT may_be_asked('toy', '48.0.0.1'), may_be_asked('toy', '2a00::1'), lookup_key_of('toy', '48.0.0.1')"),
        "t|f|(host,48.0.0.1)"
    );
    db.refused("SELECT request_enrichment('2a00::1', 'toy')");
    db.run("CREATE ROLE stranger");
    db.run("SET ROLE stranger");
    db.refused("SHOW cowrie_enrich.toy_url");
    assert_nothing_crashed(&lab.cluster);
}

#[test]
fn it_is_asked_and_what_it_says_is_kept() {
    let lab = Lab::start("toy-kept", &["toy_rate = 0", "retry_base = 20ms", "max_attempts = 2"]);
    let mut db = fresh_database(&lab.cluster);
    // The answer is always about another address.
    let foreign = HttpFault::Custom(Arc::new(|_: &HttpRequest| toys_at(IpAddr::from([48, 0, 0, 8]))));
    lab.shop.behave_for(IpAddr::from([48, 0, 0, 9]), foreign);

    // Storing a session is enough to cause a request.
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[
        ("known", Some("48.0.0.2")),
        ("unknown", Some("48.0.0.3")),
        ("six", Some("2a00::1")),
    ]));
    db.run("SELECT enrich_ip('48.0.0.9')");
    wait_for_the_queue(&mut db);
    let kept = "SELECT host(ip_address), enrichment #> '{toy,toys}', enrichment #> '{toy}' ? 'cached_at',
            enrichment #>> '{_meta,toy,state}', enrichment #> '{_meta,toy}' ? 'asked_at',
            enrichment #> '{_meta,toy}' ? 'retry_after'
        FROM ip_inventory WHERE family(ip_address) = 4 ORDER BY ip_address";
    assert_eq!(
        db.rows(kept),
        [
            r#"48.0.0.2|["ball", "kite"]|t|value|t|f"#,
            "48.0.0.3|NULL|NULL|absent|t|t",
            "48.0.0.9|NULL|NULL|failed|t|f",
        ]
    );
    assert_eq!(db.rows("SELECT provider, host(ip_address) FROM dead_letter"), ["toy|48.0.0.9"]);
    let mut asked = lab.asked();
    asked.sort_unstable();
    assert_eq!(asked, [2, 3, 9, 9].map(|host| IpAddr::from([48, 0, 0, host])));
    // The worker increases its counters after it has committed.
    wait_until(
        "the worker has counted",
        || {
            db.one(
                "SELECT requests, answers, absent, foreign_rows, dead_letters FROM provider_status WHERE provider = 'toy'",
            )
        },
        |counts| counts == "4|1|1|2|1",
    );

    // A fresh answer is not requested again.
    db.run("SELECT enrich_ips('{48.0.0.2,48.0.0.3}', true)");
    db.run("SELECT request_enrichment('48.0.0.2', 'toy'), request_enrichment('48.0.0.3', 'toy')");
    wait_for_the_queue(&mut db);
    assert_eq!(lab.asked().len(), 4);
    assert_nothing_crashed(&lab.cluster);
}

#[test]
fn its_rate_and_its_parallelism_are_kept() {
    let lab = Lab::start("toy-limits", &["toy_rate = 20", "toy_max_parallel = 3"]);
    let mut db = fresh_database(&lab.cluster);
    let addresses = request(&mut db, 10..50);
    wait_for_the_queue(&mut db);
    assert_eq!(lab.asked().len(), addresses.len());
    let most = lab.shop.most_within(Duration::from_secs(1));
    assert!(most <= 20, "{most} within a second");

    reconfigure(&lab.cluster, &["toy_rate = 0"]);
    lab.shop.forget();
    lab.shop.behave(HttpFault::Held);
    let addresses = request(&mut db, 50..90);
    wait_until("as many are asked at once as may be", || lab.shop.in_progress(), |some| *some == 3);
    lab.shop.behave(HttpBehaviour::from(HttpFault::Custom(Arc::new(toys))).delayed(Duration::from_millis(5)));
    wait_for_the_queue(&mut db);
    assert_eq!(lab.asked().len(), addresses.len());
    assert_eq!(lab.shop.most_at_once(), 3);
    assert_nothing_crashed(&lab.cluster);
}

#[test]
fn its_daily_quota_is_kept_and_written_down() {
    let lab = Lab::start("toy-quota", &["toy_rate = 0"]);
    let mut db = fresh_database(&lab.cluster);
    request(&mut db, 10..12);
    wait_for_the_queue(&mut db);
    assert_eq!(db.number("SELECT count(*) FROM provider_quota"), 0);

    reconfigure(&lab.cluster, &["toy_daily_quota = 5"]);
    request(&mut db, 20..32);
    // The requests that were sent before the quota was set count too, because they were sent on the same day.
    let spent = "SELECT requests, cluster_spent, day BETWEEN (now() AT TIME ZONE 'UTC')::date - 1 AND (now() AT TIME ZONE 'UTC')::date
        FROM provider_quota WHERE provider = 'toy'";
    wait_until("the quota is spent", || db.rows(spent), |rows| *rows == ["3|5|t"]);
    // The rest waits until tomorrow.
    let left = "SELECT requested, jobs FROM queue_status WHERE provider = 'toy'";
    wait_until("what was asked is written down", || db.one(left), |left| left == "0|9");
    assert_eq!(lab.asked().len(), 2 + 3);
    assert_eq!(
        db.one(
            "SELECT quota, quota_left, quota_resets_at > now() FROM provider_status WHERE provider = 'toy'"
        ),
        "5|0|t"
    );
    assert_nothing_crashed(&lab.cluster);
}

#[test]
fn enabled_sources_switches_it() {
    let lab = Lab::start("toy-switch", &["toy_rate = 0", "enabled_sources = 'maxmind'"]);
    let mut db = fresh_database(&lab.cluster);
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("before", Some("48.0.0.2"))]));
    assert_eq!(db.one("SELECT requested, jobs FROM queue_status WHERE provider = 'toy'"), "0|0");
    db.run("SELECT request_enrichment('48.0.0.4', 'toy')");
    let jobs = "SELECT jobs FROM queue_status WHERE provider = 'toy'";
    wait_until("the request has become a job", || db.number(jobs), |count| *count == 1);
    assert_eq!(
        db.one("SELECT blocked_reason FROM provider_status WHERE provider = 'toy'"),
        "the provider is not in cowrie_enrich.enabled_sources"
    );

    reconfigure(&lab.cluster, &["enabled_sources = 'maxmind,toy'"]);
    db.run(&COWRIE.insert(&[("while", Some("48.0.0.6"))]));
    wait_for_the_queue(&mut db);
    let mut asked = lab.asked();
    asked.sort_unstable();
    assert_eq!(asked, [4, 6].map(|host| IpAddr::from([48, 0, 0, host])));

    reconfigure(&lab.cluster, &["enabled_sources = 'maxmind'"]);
    db.run(&COWRIE.insert(&[("after", Some("48.0.0.8"))]));
    assert_eq!(db.one("SELECT requested, jobs FROM queue_status WHERE provider = 'toy'"), "0|0");
    assert_eq!(lab.asked().len(), 2);
    assert_nothing_crashed(&lab.cluster);
}
