//! Measures how many instructions eight lists of types of addresses add to an insert. Runs inserts with eight mmdb
//! files of types, and without these files. Counts instructions in the same way as `metrics.rs`.

use cowrie_enrich_test_mmdb::types::TypesFile;
use server_tests::database::cluster_with_world;
use server_tests::world::{CROWD_NETWORKS, crowd_member};
use server_tests::{Options, fresh_database};
use std::time::SystemTime;

use crate::Effort;
use crate::callgrind::{self, KNOWN, MOST_ROUNDS};
use crate::metrics::singly;
use crate::report::{Aim, Report, median};

const KINDS: [&str; 8] =
    ["TOR", "VPN", "PROXY", "RELAY", "DATACENTER", "RESIDENTIAL", "MOBILE", "SCANNER_BENIGN"];

/// Entries of a list, spread over the crowd's networks.
const ENTRIES: u64 = 4_096;

/// Number of sessions in the two runs.
const SIZES: [u64; 2] = [300, 1_500];

pub fn measure(effort: &Effort, report: &mut Report) {
    if !callgrind::is_installed() {
        eprintln!(
            "ip_types: not measured, because valgrind is not installed (Debian: apt-get install valgrind)"
        );
        return;
    }
    eprintln!("ip_types: instructions of inserts, under callgrind");
    let cluster = cluster_with_world(&Options::named("bench-ip-types"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is right").as_secs();
    let paths: Vec<String> = (0_u64..)
        .zip(KINDS)
        .map(|(number, kind)| {
            let list = format!("list{number}");
            // Each list has different networks. Half of the lists contain hosts, as lists of exits do, and half contain
            // /24s, as lists of clouds do.
            let file = (0..ENTRIES).fold(TypesFile::new().list(&list, kind, now), |file, n| {
                let (network, rest) = ((n * 7 + number * 31) % CROWD_NETWORKS, n / CROWD_NETWORKS);
                let prefix = match number % 2 {
                    0 => format!("23.{network}.{rest}.{}/32", n * 13 % 256),
                    _ => format!("23.{network}.{rest}.0/24"),
                };
                file.entry(&list, &prefix)
            });
            let path = cluster.files().join(format!("{list}.mmdb"));
            file.write(&path);
            path.display().to_string()
        })
        .collect();
    cluster.reconfigure(&[format!("cowrie_enrich.ip_type_databases = '{}'", paths.join(","))]);
    let name = callgrind::prepared_database(&cluster);
    let mut db = fresh_database(&cluster);
    db.run("SELECT reload_mmdb()");
    assert_eq!(db.number("SELECT count(*) FROM ip_type_lists() WHERE is_usable"), 8);
    drop(db);
    cluster.stop_fast();

    let known: fn(u64) -> String = |n| crowd_member(n * 7 % KNOWN);
    let new: fn(u64) -> String = |n| crowd_member(KNOWN + n);
    for (what, address) in [("known addresses", known), ("new addresses", new)] {
        let mut percents = Vec::new();
        let mut absolute = [Vec::new(), Vec::new()];
        for _ in 0..effort.rounds.min(MOST_ROUNDS) {
            let with: &[&str] = &[];
            let without: &[&str] = &["-c", "cowrie_enrich.ip_type_databases="];
            let [with, without] = [with, without].map(|settings| {
                let [few, many] = SIZES.map(|size| {
                    callgrind::instructions(&cluster, &name, settings, &singly(size, address), None)
                });
                (many - few) / (SIZES[1] - SIZES[0]) as f64
            });
            percents.push((with / without - 1.0) * 100.0);
            absolute[0].push(with);
            absolute[1].push(without);
        }
        let [with, without] = absolute.map(|counts| median(&counts));
        report.line(
            &format!("sessions one by one, {what}: eight lists cost"),
            format!("{with:.0} / {without:.0} instr."),
            percents,
            " %",
            Aim::AtMost(3.0),
            format!("ratio {:.4}", with / without),
        );
    }
}
