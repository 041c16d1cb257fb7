//! Generates a year of a honeypot with a fixed seed: sessions in the analysts' table, their addresses, and the networks
//! of the addresses. The database can be in the state before the extension was installed, or in the state with the
//! extension.

use std::fmt::Write;

use server_tests::database::Database;
use server_tests::random::Random;
use server_tests::{Cluster, Options};

use crate::addresses::{Addresses, Inhabitant};

pub struct Size {
    pub sessions: usize,
    pub addresses: usize,
    pub networks: usize,
}

pub const FULL: Size = Size { sessions: 1_680_000, addresses: 300_000, networks: 20_000 };
pub const HALF: Size = Size { sessions: 840_000, addresses: 150_000, networks: 10_000 };

pub const TABLE: &str = "session_summaries";

/// cowrieprocessor's table. Some sessions have its document about their address.
const SESSIONS: &str = "
    CREATE TABLE session_summaries (
        session_id varchar(64) NOT NULL,
        source_ip inet,
        first_event_at timestamptz,
        last_event_at timestamptz,
        event_count int NOT NULL DEFAULT 0,
        command_count int NOT NULL DEFAULT 0,
        login_attempts int NOT NULL DEFAULT 0,
        file_downloads int NOT NULL DEFAULT 0,
        enrichment jsonb,
        snapshot_asn bigint,
        snapshot_country text,
        snapshot_ip_type text,
        enrichment_at timestamptz
    )";

/// Lines of one COPY: enough for speed, but few enough for memory.
const CHUNK: usize = 50_000;

/// 2024 has 366 days.
const SECONDS: usize = 366 * 24 * 3600;

/// Starts a server with the settings of the other measurements, except that random_page_cost is that of an SSD.
pub fn cluster() -> Cluster {
    Cluster::start(
        &Options::named("bench-history")
            .durable()
            .conf("shared_buffers = 4GB")
            .conf("max_wal_size = 4GB")
            .conf("max_parallel_workers_per_gather = 0")
            .conf("random_page_cost = 1.1")
            .conf("work_mem = 64MB")
            .conf("maintenance_work_mem = 256MB")
            .conf("checkpoint_timeout = 1h"),
    )
}

impl Size {
    pub fn population(&self, addresses: &Addresses) -> Vec<Inhabitant> {
        addresses.population(self.addresses, self.networks)
    }
}

/// Returns the index of the address of each session. New addresses appear throughout the year. Addresses that appear
/// early have the most sessions.
fn visitors(size: &Size) -> impl Iterator<Item = usize> + '_ {
    let mut random = Random::seeded(7);
    let mut seen = 0;
    (0..size.sessions).map(move |session| {
        if session * size.addresses / size.sessions >= seen {
            seen += 1;
            seen - 1
        } else {
            random.skewed_below(seen as u64) as usize
        }
    })
}

/// Stores the sessions of `size`. A third of the sessions have a document. If `with_snapshots` is false, the sessions
/// are in the state before the extension was installed.
pub fn store_sessions(db: &mut Database<'_>, size: &Size, population: &[Inhabitant], with_snapshots: bool) {
    db.run(SESSIONS);
    let mut random = Random::seeded(11);
    let mut text = String::new();
    for (session, visitor) in visitors(size).enumerate() {
        let from = &population[visitor];
        let second = session * SECONDS / size.sessions;
        let (minute, second) = (second / 60, second % 60);
        let commands = random.skewed_below(30);
        let document = if session % 3 == 0 { document(from) } else { "\\N".to_owned() };
        let snapshot = match (with_snapshots, &from.country) {
            (false, _) => "\\N\t\\N\t\\N".to_owned(),
            (true, country) => {
                let ip_type = if visitor % 50 == 0 { "VPN" } else { "\\N" };
                format!("{}\t{}\t{ip_type}", from.asn, country.as_deref().unwrap_or("\\N"))
            }
        };
        writeln!(
            text,
            "{:016x}{session:016x}\t{}\t{time}:{second:02}+00\t{time}:59+00\t{}\t{commands}\t{}\t0\t{document}\t{snapshot}",
            random.number(),
            from.address,
            4 + commands,
            1 + random.below(5),
            time = at_minute(minute),
        )
        .expect("a text can be written to");
        if (session + 1) % CHUNK == 0 || session + 1 == size.sessions {
            db.copy(
                "session_summaries (session_id, source_ip, first_event_at, last_event_at, event_count,
                     command_count, login_attempts, file_downloads, enrichment,
                     snapshot_asn, snapshot_country, snapshot_ip_type)",
                &text,
            );
            text.clear();
        }
    }
    db.run("ALTER TABLE session_summaries ADD PRIMARY KEY (session_id)");
    db.run("VACUUM (ANALYZE) session_summaries");
}

/// Returns the time this number of minutes after `2024-01-01 00:00`.
fn at_minute(minute: usize) -> String {
    const MONTHS: [usize; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut day = minute / (24 * 60);
    let mut month = 0;
    while day >= MONTHS[month] {
        day -= MONTHS[month];
        month += 1;
    }
    format!("2024-{:02}-{:02} {:02}:{:02}", month + 1, day + 1, minute / 60 % 24, minute % 60)
}

/// The Python system's document about an address.
fn document(of: &Inhabitant) -> String {
    let Inhabitant { address, asn, country } = of;
    let country = country.as_deref().unwrap_or("XX");
    let [a, b, c, _] = address.octets();
    format!(
        "{{\"maxmind\": {{\"country\": \"{country}\", \"asn\": {asn}, \"asn_org\": \"Example Network {asn}\", \
         \"latitude\": 52.5, \"longitude\": 13.4, \"cached_at\": \"2024-01-01T00:00:00+00:00\"}}, \
         \"cymru\": {{\"asn\": {asn}, \"asn_org\": \"EXAMPLE-{asn}\", \"country\": \"{country}\", \"registry\": \"ripencc\", \
         \"prefix\": \"{a}.{b}.{c}.0/24\", \"cached_at\": \"2024-01-01T00:00:00+00:00\"}}}}"
    )
}

/// Creates the table `population`, which a hand-written statement joins.
pub fn store_population(db: &mut Database<'_>, population: &[Inhabitant]) {
    db.run(
        "CREATE TABLE population (ip inet PRIMARY KEY, asn bigint NOT NULL, country text, document jsonb NOT NULL)",
    );
    for part in population.chunks(CHUNK) {
        let text: String = part
            .iter()
            .map(|of| {
                let country = of.country.as_deref().unwrap_or("\\N");
                format!("{}\t{}\t{country}\t{}\n", of.address, of.asn, document(of))
            })
            .collect();
        db.copy("population", &text);
    }
    db.run("VACUUM (ANALYZE) population");
}

/// Stores the inventory of addresses as the Python system leaves it: with documents, times and counts, but without
/// networks.
pub fn store_unread_inventory(db: &mut Database<'_>, size: &Size, population: &[Inhabitant]) {
    let mut seen = vec![(0, 0, 0); population.len()];
    for (session, visitor) in visitors(size).enumerate() {
        let (first, last, sessions) = &mut seen[visitor];
        if *sessions == 0 {
            *first = session;
        }
        (*last, *sessions) = (session, *sessions + 1);
    }
    let time = |session| at_minute(session * SECONDS / size.sessions / 60);
    db.run(
        "CREATE TEMP TABLE seen (ip inet, first_seen timestamptz, last_seen timestamptz, sessions bigint)",
    );
    let rows: Vec<_> = population.iter().zip(&seen).collect();
    for part in rows.chunks(CHUNK) {
        let line = |(of, (first, last, sessions)): &(&Inhabitant, &(usize, usize, usize))| {
            format!("{}\t{}+00\t{}+00\t{sessions}\n", of.address, time(*first), time(*last))
        };
        db.copy("seen", &part.iter().map(line).collect::<String>());
    }
    db.run(
        "INSERT INTO enrich.ip_inventory (ip_address, first_seen, last_seen, session_count, enrichment)
         SELECT p.ip, s.first_seen, s.last_seen, s.sessions, p.document
         FROM population p JOIN seen s ON s.ip = p.ip
         ORDER BY s.first_seen;
         TRUNCATE enrich.network_delta",
    );
    db.run("VACUUM (ANALYZE) enrich.ip_inventory");
}

/// Stores the inventories and the history for the stored sessions. One address in twenty has moved to another network
/// since its sessions.
pub fn store_inventories(db: &mut Database<'_>) {
    db.run(
        "INSERT INTO enrich.asn_inventory (asn_number, organization_name, organization_country, asn_type)
             SELECT asn, 'Example Network ' || asn, min(country), 'ISP' FROM population GROUP BY asn;
         CREATE TEMP TABLE moved AS
             SELECT p.ip, (SELECT n.asn FROM population n WHERE n.ip > p.ip AND n.asn <> p.asn ORDER BY n.ip LIMIT 1) AS asn
             FROM population p WHERE hashtext(host(p.ip)) % 20 = 0;
         DELETE FROM moved WHERE asn IS NULL;
         INSERT INTO enrich.ip_inventory (ip_address, current_asn, first_seen, last_seen, session_count, enrichment)
             SELECT p.ip, COALESCE(m.asn, p.asn), s.first_seen, s.last_seen, s.sessions, p.document
             FROM population p
             JOIN (SELECT source_ip, count(*) AS sessions, min(first_event_at) AS first_seen, max(first_event_at) AS last_seen
                   FROM session_summaries GROUP BY source_ip) s ON s.source_ip = p.ip
             LEFT JOIN moved m ON m.ip = p.ip;
         INSERT INTO enrich.ip_asn_history
             SELECT i.ip_address, p.asn, i.first_seen, 'maxmind'
             FROM enrich.ip_inventory i JOIN population p ON p.ip = i.ip_address ORDER BY i.first_seen;
         INSERT INTO enrich.ip_asn_history
             SELECT m.ip, m.asn, timestamptz '2025-01-01' + abs(hashtext(host(m.ip)) % 40000) * interval '1 minute', 'cymru'
             FROM moved m ORDER BY 3;
         UPDATE enrich.asn_inventory n
         SET unique_ip_count = c.addresses, total_session_count = c.sessions, first_seen = c.first_seen, last_seen = c.last_seen
         FROM (SELECT current_asn, count(*) AS addresses, sum(session_count) AS sessions, min(first_seen) AS first_seen,
                      max(last_seen) AS last_seen FROM enrich.ip_inventory GROUP BY current_asn) c
         WHERE c.current_asn = n.asn_number;
         TRUNCATE enrich.network_delta",
    );
    for table in ["asn_inventory", "ip_inventory", "ip_asn_history"] {
        db.run(&format!("VACUUM (ANALYZE) enrich.{table}"));
    }
}
