//! Measures the cost of metrics for an insert, in instructions, with `cowrie_enrich.metrics` on and off.
//!
//! Counts instructions and not time, because noise would hide a difference of one percent in time. Each count is the
//! difference between a run with many inserts and a run with few inserts, on copies of the same data directory. So the
//! start of the server is not included.

use server_tests::Options;
use server_tests::database::cluster_with_world;
use server_tests::world::crowd_member;

use crate::Effort;
use crate::callgrind::{self, KNOWN, MOST_ROUNDS};
use crate::report::{Aim, Report, median};

/// Returns statements that insert this number of sessions.
type Script = fn(u64) -> String;

const SCRIPTS: [(&str, Script, [u64; 2]); 3] = [
    ("sessions one by one, known addresses", known, [300, 1_500]),
    ("sessions one by one, new addresses", new, [300, 1_500]),
    ("sessions in one statement, known addresses", bulk, [2_000, 20_000]),
];

pub fn measure(effort: &Effort, report: &mut Report) {
    if !callgrind::is_installed() {
        eprintln!(
            "metrics: not measured, because valgrind is not installed (Debian: apt-get install valgrind)"
        );
        return;
    }
    eprintln!("metrics: instructions of inserts, under callgrind");
    let cluster = cluster_with_world(&Options::named("bench-metrics"));
    let name = callgrind::prepared_database(&cluster);
    cluster.stop_fast();

    for (what, script, sizes) in SCRIPTS {
        let mut percents = Vec::new();
        let mut absolute = [Vec::new(), Vec::new()];
        for _ in 0..effort.rounds.min(MOST_ROUNDS) {
            let [with, without] = ["on", "off"].map(|metrics| {
                let setting = format!("cowrie_enrich.metrics={metrics}");
                let [few, many] = sizes.map(|size| {
                    callgrind::instructions(&cluster, &name, &["-c", &setting], &script(size), None)
                });
                (many - few) / (sizes[1] - sizes[0]) as f64
            });
            percents.push((with / without - 1.0) * 100.0);
            absolute[0].push(with);
            absolute[1].push(without);
        }
        let [with, without] = absolute.map(|counts| median(&counts));
        report.line(
            &format!("{what}: metrics cost"),
            format!("{with:.0} / {without:.0} instr."),
            percents,
            " %",
            Aim::AtMost(1.0),
            format!("ratio {:.4}", with / without),
        );
    }
}

fn known(sessions: u64) -> String {
    singly(sessions, |n| crowd_member(n * 7 % KNOWN))
}

fn new(sessions: u64) -> String {
    singly(sessions, |n| crowd_member(KNOWN + n))
}

/// Returns one INSERT a line. Each line is a statement and a transaction.
pub fn singly(sessions: u64, address: impl Fn(u64) -> String) -> String {
    let insert = |n| {
        let address = address(n);
        format!(
            "INSERT INTO public.sessions (id, starttime, ip) VALUES ('s{n}', '2024-05-01 12:00', '{address}')\n"
        )
    };
    (0..sessions).map(insert).collect()
}

fn bulk(sessions: u64) -> String {
    format!(
        "INSERT INTO public.sessions (id, starttime, ip) SELECT 's' || n, '2024-05-01 12:00', \
         '23.' || n % 250 || '.0.' || 1 + n % 9 FROM generate_series(1, {sessions}) n\n"
    )
}
