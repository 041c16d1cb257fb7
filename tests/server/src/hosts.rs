//! The two hosts: the session tables with which the extension is used. Every rule must hold for both.

use crate::documentation::page;
use crate::session::Session;

pub struct Host {
    pub table: &'static str,
    pub key: &'static str,
    pub address: &'static str,
    pub time: &'static str,
    /// The value for an address that is not known yet. Cowrie's column does not accept null.
    pub no_address: &'static str,
    create: &'static str,
}

/// The honeypot's own table, see cowrie/cowrie `docs/sql/postgres.sql`.
pub const COWRIE: Host = Host {
    table: "sessions",
    key: "id",
    address: "ip",
    time: "starttime",
    no_address: "''",
    create: "
        CREATE TABLE sessions (
            id CHAR(32) PRIMARY KEY,
            starttime TIMESTAMP NOT NULL,
            endtime TIMESTAMP,
            sensor INTEGER NOT NULL,
            ip VARCHAR(61) NOT NULL DEFAULT '',
            termsize VARCHAR(7),
            client INTEGER
        );
        CREATE INDEX ON sessions (starttime, sensor);
        ALTER TABLE sessions ALTER sensor SET DEFAULT 1;",
};

/// The analysts' table, see cowrieprocessor's `session_summaries`, with an address of type inet.
pub const SUMMARIES: Host = Host {
    table: "session_summaries",
    key: "session_id",
    address: "source_ip",
    time: "first_event_at",
    no_address: "NULL",
    create: "
        CREATE TABLE session_summaries (
            session_id VARCHAR(64) PRIMARY KEY,
            source_ip INET,
            first_event_at TIMESTAMPTZ,
            last_event_at TIMESTAMPTZ,
            event_count INTEGER NOT NULL DEFAULT 0,
            command_count INTEGER NOT NULL DEFAULT 0,
            login_attempts INTEGER NOT NULL DEFAULT 0,
            file_downloads INTEGER NOT NULL DEFAULT 0,
            vt_flagged BOOLEAN NOT NULL DEFAULT false,
            risk_score INTEGER,
            matcher VARCHAR(32),
            source_files JSON,
            created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
            updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
        );",
};

/// Returns the statements that create Cowrie's tables other than `sessions`, from the schema that `cowrie-load` prints.
pub fn cowries_other_tables() -> String {
    let schema = page("demo/cowrie-schema.sql");
    let is_of_sessions = |statement: &&str| {
        statement.contains("CREATE TABLE sessions ") || statement.contains("CREATE INDEX ON sessions ")
    };
    schema.split_inclusive(';').filter(|statement| !is_of_sessions(statement)).collect()
}

pub const NOON: &str = "2024-05-01 12:00:00+00";

impl Host {
    pub fn create(&self, session: &mut Session) {
        session.run(self.create);
    }

    pub fn attach(&self, session: &mut Session) {
        session.run(&format!(
            "SELECT enrich.attach_session_table('{}', '{}', '{}')",
            self.table, self.address, self.time
        ));
    }

    pub fn create_attached(&self, session: &mut Session) {
        self.create(session);
        self.attach(session);
    }

    /// Returns `INSERT … VALUES …` for (key, address) pairs, without a semicolon. `None` is an address not known yet.
    pub fn insert(&self, rows: &[(&str, Option<&str>)]) -> String {
        self.insert_at(NOON, rows)
    }

    pub fn insert_at(&self, time: &str, rows: &[(&str, Option<&str>)]) -> String {
        let values: Vec<String> = rows
            .iter()
            .map(|(key, address)| {
                let address = address
                    .map_or_else(|| self.no_address.to_owned(), |a| format!("'{}'", a.replace('\'', "''")));
                format!("('{key}', '{time}', {address})")
            })
            .collect();
        format!(
            "INSERT INTO {} ({}, {}, {}) VALUES {}",
            self.table,
            self.key,
            self.time,
            self.address,
            values.join(", ")
        )
    }

    /// Returns asn|country|type of one session.
    #[track_caller]
    pub fn snapshot(&self, session: &mut Session, key: &str) -> String {
        session.one(&format!(
            "SELECT snapshot_asn, snapshot_country, snapshot_ip_type FROM {} WHERE {} = '{key}'",
            self.table, self.key
        ))
    }
}
