//! Random transactions of one client, which a test runs in a single server and in a Citus cluster.

use crate::cymru::member;
use crate::random::Random;
use crate::session::Session;
use crate::world::crowd_address;

/// The number of addresses from which sessions come.
const ADDRESSES: u64 = 5_000;
/// The number of addresses that no mmdb file has.
const UNKNOWN_ADDRESSES: u64 = 500;

/// One step of a transaction.
pub enum Step {
    Run(String),
    /// Rows for `COPY sessions (id, starttime, ip)`.
    Copy(String),
}

/// Makes random transactions on the table `sessions` of Cowrie. The same seed makes the same transactions.
pub struct Load {
    random: Random,
    /// Distinguishes the ids of this client's sessions.
    prefix: String,
    next: u64,
    /// Whether some sessions come from addresses that no mmdb file has.
    has_unknown: bool,
}

impl Load {
    pub fn new(seed: u64, prefix: &str) -> Self {
        Self { random: Random::seeded(seed), prefix: prefix.to_owned(), next: 0, has_unknown: false }
    }

    /// Some sessions come from addresses that no mmdb file has, so a provider is asked about them.
    pub fn with_unknown_addresses(self) -> Self {
        Self { has_unknown: true, ..self }
    }

    /// Returns the number of sessions that this client has tried to store.
    pub fn sessions(&self) -> u64 {
        self.next
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.prefix)
    }

    fn rows(&mut self, rows: u64) -> Vec<(String, String)> {
        (0..rows)
            .map(|_| {
                self.next += 1;
                (self.id(self.next), self.address())
            })
            .collect()
    }

    fn address(&mut self) -> String {
        if self.has_unknown && self.random.one_in(20) {
            return member(self.random.below(UNKNOWN_ADDRESSES) as usize, 7).to_string();
        }
        crowd_address(&mut self.random, ADDRESSES)
    }

    /// Returns the id of an earlier session. The session may have been rolled back or deleted.
    fn earlier(&mut self) -> String {
        let number = self.random.below(self.next + 1);
        self.id(number)
    }

    fn insert(&mut self, rows: u64) -> String {
        let values: Vec<String> = self
            .rows(rows)
            .iter()
            .map(|(id, ip)| format!("('{id}', '2024-05-01 12:00:00', '{ip}')"))
            .collect();
        format!("INSERT INTO sessions (id, starttime, ip) VALUES {}", values.join(", "))
    }

    fn step(&mut self) -> Step {
        Step::Run(match self.random.below(12) {
            0 => {
                let first = self.next + 1;
                let rows = 1 + self.random.below(200);
                self.next += rows;
                format!(
                    "INSERT INTO sessions (id, starttime, ip)
                     SELECT '{}-' || n, '2024-05-02 12:00:00', '23.' || n % 256 || '.7.' || n % 200 + 1
                     FROM generate_series({first}, {}) n",
                    self.prefix, self.next
                )
            }
            1 => {
                let rows = 1 + self.random.below(200);
                let lines: Vec<String> = self
                    .rows(rows)
                    .iter()
                    .map(|(id, ip)| format!("{id}\t2024-05-03 12:00:00\t{ip}\n"))
                    .collect();
                return Step::Copy(lines.concat());
            }
            2 => {
                let (id, address) = (self.earlier(), self.address());
                format!(
                    "INSERT INTO sessions (id, starttime, ip) VALUES ('{id}', '2024-05-04 12:00:00', '{address}')
                     ON CONFLICT (id) DO UPDATE SET ip = excluded.ip"
                )
            }
            3 => format!(
                "INSERT INTO sessions (id, starttime, ip) VALUES ('{}', '2024-05-04 12:00:00', '8.8.8.8')
                 ON CONFLICT DO NOTHING",
                self.earlier()
            ),
            4 => {
                let (id, address) = (self.earlier(), self.address());
                format!("UPDATE sessions SET ip = '{address}' WHERE id = '{id}'")
            }
            5 => format!("DELETE FROM sessions WHERE id = '{}'", self.earlier()),
            6 => {
                let rows = 1 + self.random.below(500);
                self.insert(rows)
            }
            _ => {
                let rows = 1 + self.random.below(10);
                self.insert(rows)
            }
        })
    }

    /// Returns the steps of a transaction, with `BEGIN` and its end.
    pub fn transaction(&mut self) -> Vec<Step> {
        let run = |text: &str| Step::Run(text.to_owned());
        let mut steps = vec![run("BEGIN")];
        for _ in 0..=self.random.below(3) {
            if self.random.one_in(5) {
                steps.push(run("SAVEPOINT inside"));
                steps.push(self.step());
                steps.push(run(if self.random.one_in(2) { "ROLLBACK TO inside" } else { "RELEASE inside" }));
            } else {
                steps.push(self.step());
            }
        }
        steps.push(run(if self.random.one_in(8) { "ROLLBACK" } else { "COMMIT" }));
        steps
    }
}

/// Runs the steps of a transaction. Panics if a step fails.
#[track_caller]
pub fn run(session: &mut Session, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Run(text) => session.run(text),
            Step::Copy(lines) => session.copy("sessions (id, starttime, ip)", lines),
        }
    }
}
