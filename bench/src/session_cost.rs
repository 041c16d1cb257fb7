//! Counts what a session costs, in instructions and in bytes of the write-ahead log (WAL): in a table without the extension, and
//! attached. One backend runs the statements in single-user mode, so noise of the machine does not change the numbers.

use server_tests::Options;
use server_tests::database::cluster_with_world;
use server_tests::world::crowd_member;

use crate::Effort;
use crate::callgrind::{self, KNOWN, MOST_ROUNDS};
use crate::report::{Aim, Report, median};

const FEW: u64 = 100;
const MANY: u64 = 600;

/// How sessions are stored.
struct Kind {
    what: &'static str,
    /// Number of sessions in a transaction.
    sessions: u64,
    is_known: bool,
    most_wal: Aim,
}

pub fn measure(effort: &Effort, report: &mut Report) {
    let options = Options::named("bench-session").conf("autovacuum = off").conf("full_page_writes = off");
    let cluster = cluster_with_world(&options);
    let name = callgrind::prepared_database(&cluster);
    let mut session = cluster.session(&name);
    session.run("CREATE TABLE public.bare (LIKE public.sessions INCLUDING ALL)");
    session.run("VACUUM ANALYZE public.bare");
    drop(session);
    cluster.stop_fast();
    let kinds = [
        Kind {
            what: "1 session a transaction, known address",
            sessions: 1,
            is_known: true,
            most_wal: Aim::AtMost(550.0),
        },
        Kind {
            what: "10 sessions a transaction, known addresses",
            sessions: 10,
            is_known: true,
            most_wal: Aim::None,
        },
        Kind {
            what: "1 session a transaction, new address",
            sessions: 1,
            is_known: false,
            most_wal: Aim::None,
        },
    ];
    for kind in kinds {
        let counted = |measured: &dyn Fn(&str) -> f64, table: &str| {
            let [few, many] = [FEW, MANY].map(|transactions| measured(&kind.script(table, transactions)));
            (many - few) / ((MANY - FEW) * kind.sessions) as f64
        };
        let wal = |script: &str| callgrind::wal_position(&cluster, &name, &[], script);
        let [bare, attached] = ["bare", "sessions"].map(|table| counted(&wal, table));
        report.line(
            &format!("WAL of a session: {}", kind.what),
            format!("bare {bare:.0} bytes"),
            vec![attached],
            " bytes",
            kind.most_wal,
            "without full pages".to_owned(),
        );
        if !callgrind::is_installed() {
            continue;
        }
        let instructions = |script: &str| callgrind::instructions(&cluster, &name, &[], script, None);
        let (mut bares, mut attacheds) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds.min(MOST_ROUNDS) {
            bares.push(counted(&instructions, "bare"));
            attacheds.push(counted(&instructions, "sessions"));
        }
        report.line(
            &format!("instructions of a session: {}", kind.what),
            format!("{:.0} / {:.0}", median(&attacheds), median(&bares)),
            attacheds.iter().zip(&bares).map(|(attached, bare)| attached / bare).collect(),
            "",
            Aim::None,
            "attached / bare, parsing and planning included".to_owned(),
        );
    }
}

impl Kind {
    fn script(&self, table: &str, transactions: u64) -> String {
        let transaction = |number: u64| {
            let of_session = |n: u64| {
                let session = number * self.sessions + n;
                let address = crowd_member(if self.is_known { session * 7 % KNOWN } else { KNOWN + session });
                format!(
                    "INSERT INTO public.{table} (id, starttime, ip) VALUES ('s{session}', '2024-05-01 12:00', '{address}')\n"
                )
            };
            let inserts: String = (0..self.sessions).map(of_session).collect();
            if self.sessions == 1 { inserts } else { format!("BEGIN\n{inserts}COMMIT\n") }
        };
        (0..transactions).map(transaction).collect()
    }
}
