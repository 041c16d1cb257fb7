//! The schema of the Python system (cowrieprocessor, schema version 16), rebuilt from its documented columns, and
//! generated data for it. The same seed gives the same data.
//!
//! There are two variants of the schema, because there were two ways to create it: SQL migrations and the ORM's
//! `create_all`. The variants differ in names (`registry`, `rir_registry`), in types (`jsonb`, `json`), in generated
//! columns and in checks.

use crate::random::Random;
use crate::session::Session;
use crate::world;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PythonSchema {
    Migrations,
    Orm,
}

impl PythonSchema {
    pub const ALL: [PythonSchema; 2] = [PythonSchema::Migrations, PythonSchema::Orm];

    fn json(self) -> &'static str {
        match self {
            PythonSchema::Migrations => "jsonb",
            PythonSchema::Orm => "json",
        }
    }

    pub fn registry(self) -> &'static str {
        match self {
            PythonSchema::Migrations => "registry",
            PythonSchema::Orm => "rir_registry",
        }
    }
}

/// Creates the tables of the Python system in a schema of the session's database.
pub fn create(session: &mut Session, schema: &str, schema_kind: PythonSchema) {
    let (json, registry) = (schema_kind.json(), schema_kind.registry());
    let orm = schema_kind == PythonSchema::Orm;
    let either = |of_orm: &'static str, of_migrations: &'static str| if orm { of_orm } else { of_migrations };
    let positive = either("", "CHECK (asn_number > 0)");
    let two_capitals =
        |column: &str| if orm { String::new() } else { format!("CHECK ({column} ~ '^[A-Z]{{2}}$')") };
    let generated = either(
        "ip_types text[] DEFAULT '{}'",
        "geo_country varchar(2) GENERATED ALWAYS AS (upper(COALESCE(
             enrichment -> 'maxmind' ->> 'country', enrichment -> 'cymru' ->> 'country',
             enrichment -> 'dshield' -> 'ip' ->> 'ascountry', 'XX'))) STORED,
         ip_types text[] DEFAULT '{}',
         is_scanner boolean GENERATED ALWAYS AS (COALESCE((enrichment -> 'greynoise' ->> 'noise')::boolean, false)) STORED,
         is_bogon boolean GENERATED ALWAYS AS (COALESCE((enrichment -> 'validation' ->> 'is_bogon')::boolean, false)) STORED",
    );
    let version = either("varchar(10)", "varchar(20)");
    session.run(&format!(
        "CREATE SCHEMA IF NOT EXISTS {schema};
         CREATE TABLE {schema}.asn_inventory (
             asn_number integer PRIMARY KEY {positive},
             organization_name text,
             organization_country varchar(2) {country_check},
             {registry} varchar(10),
             asn_type text,
             is_known_hosting boolean DEFAULT false,
             is_known_vpn boolean DEFAULT false,
             first_seen timestamptz NOT NULL,
             last_seen timestamptz NOT NULL,
             unique_ip_count integer DEFAULT 0,
             total_session_count integer DEFAULT 0,
             enrichment {json} DEFAULT '{{}}',
             enrichment_updated_at timestamptz,
             created_at timestamptz DEFAULT now(),
             updated_at timestamptz DEFAULT now()
         );
         CREATE INDEX ON {schema}.asn_inventory (organization_name);
         CREATE TABLE {schema}.ip_inventory (
             ip_address varchar(45) PRIMARY KEY,
             current_asn integer REFERENCES {schema}.asn_inventory,
             asn_last_verified timestamptz,
             first_seen timestamptz NOT NULL,
             last_seen timestamptz NOT NULL,
             session_count integer DEFAULT 1 CHECK (session_count >= 0),
             enrichment {json} NOT NULL DEFAULT '{{}}',
             enrichment_updated_at timestamptz,
             enrichment_version {version} DEFAULT '2.2',
             {generated},
             created_at timestamptz DEFAULT now(),
             updated_at timestamptz DEFAULT now()
         );
         CREATE INDEX ON {schema}.ip_inventory (current_asn);
         CREATE TABLE {schema}.ip_asn_history (
             ip_address varchar(45),
             asn_number integer,
             observed_at timestamptz,
             verification_source varchar(50),
             PRIMARY KEY (ip_address, asn_number, observed_at)
         );
         CREATE TABLE {schema}.session_summaries (
             session_id varchar(64) PRIMARY KEY,
             source_ip varchar(45) REFERENCES {schema}.ip_inventory,
             first_event_at timestamptz,
             last_event_at timestamptz,
             event_count integer DEFAULT 0,
             command_count integer DEFAULT 0,
             file_downloads integer DEFAULT 0,
             login_attempts integer DEFAULT 0,
             ssh_key_injections integer DEFAULT 0,
             unique_ssh_keys integer DEFAULT 0,
             vt_flagged boolean DEFAULT false,
             dshield_flagged boolean DEFAULT false,
             risk_score integer,
             matcher varchar(32),
             source_files json,
             ssh_key_fingerprint varchar(128),
             password_hash varchar(64),
             command_signature text,
             snapshot_asn integer,
             snapshot_country varchar(2) {snapshot_check},
             snapshot_ip_type text,
             enrichment {json},
             enrichment_at timestamptz,
             created_at timestamptz DEFAULT now(),
             updated_at timestamptz DEFAULT now()
         );
         CREATE INDEX ON {schema}.session_summaries USING brin (first_event_at);
         CREATE INDEX ON {schema}.session_summaries (snapshot_asn);",
        country_check = two_capitals("organization_country"),
        snapshot_check = two_capitals("snapshot_country"),
    ));
}

/// The numbers of rows.
#[derive(Clone, Copy)]
pub struct Size {
    pub networks: u64,
    pub addresses: u64,
    pub sessions: u64,
}

/// Fills the tables with valid rows.
pub fn fill(session: &mut Session, schema: &str, seed: u64, size: Size) {
    let mut random = Random::seeded(seed);
    let mut networks = String::new();
    for n in 0..size.networks {
        let registry = *random.pick(&["ripencc", "arin", "apnic", "lacnic", "afrinic", "\\N"]);
        let country = *random.pick(&["DE", "US", "CN", "NL", "\\N"]);
        let name = if random.one_in(9) { "\\N".to_owned() } else { format!("Example Telecom {n}") };
        let times = "2025-03-01 00:00:00+00\t2025-11-01 00:00:00+00";
        let (asn, hosting) = (asn_of(n), random.one_in(5));
        networks.push_str(&format!("{asn}\t{name}\t{country}\t{registry}\t{hosting}\t{times}\n"));
    }
    let registry = session.one(&format!(
        "SELECT attname FROM pg_attribute WHERE attrelid = '{schema}.asn_inventory'::regclass AND attname LIKE '%registry'"
    ));
    let columns = format!(
        "asn_number, organization_name, organization_country, {registry}, is_known_hosting, first_seen, last_seen"
    );
    session.copy(&format!("{schema}.asn_inventory ({columns})"), &networks);

    let (mut addresses, mut history) = (String::new(), String::new());
    for n in 0..size.addresses {
        let (address, asn) = (member(n), asn_of(random.skewed_below(size.networks)));
        let day = 1 + random.below(28);
        let at = format!("2025-10-{day:02}T10:20:30.123456+00:00");
        let asn = if random.one_in(20) { None } else { Some(asn) };
        let document = document(&mut random, asn, &at);
        let asn = asn.map_or_else(|| "\\N".to_owned(), |asn| asn.to_string());
        addresses.push_str(&format!(
            "{address}\t{asn}\t{at}\t2025-03-01 00:00:00+00\t{at}\t3\t{document}\t{at}\t{at}\n"
        ));
        if asn != "\\N" && random.one_in(3) {
            history.push_str(&format!("{address}\t{asn}\t{at}\tmaxmind\n"));
        }
    }
    let columns = "ip_address, current_asn, asn_last_verified, first_seen, last_seen, session_count, enrichment, enrichment_updated_at, created_at";
    session.copy(&format!("{schema}.ip_inventory ({columns})"), &addresses);
    session.copy(&format!("{schema}.ip_asn_history"), &history);

    let mut sessions = String::new();
    for n in 0..size.sessions {
        let address =
            if random.one_in(12) { "\\N".to_owned() } else { member(random.skewed_below(size.addresses)) };
        let day = 1 + random.below(28);
        let at = format!("2025-10-{day:02} 10:20:30+00");
        let (asn, country, document) = if random.one_in(4) {
            ("\\N".to_owned(), "\\N", "\\N".to_owned())
        } else {
            let asn = asn_of(random.below(size.networks));
            (asn.to_string(), *random.pick(&["DE", "US", "CN", "XX"]), document(&mut random, Some(asn), &at))
        };
        sessions.push_str(&format!("s{n:08}\t{address}\t{at}\t{at}\t{asn}\t{country}\t{document}\t{at}\n"));
    }
    let columns = "session_id, source_ip, first_event_at, last_event_at, snapshot_asn, snapshot_country, enrichment, enrichment_at";
    session.copy(&format!("{schema}.session_summaries ({columns})"), &sessions);
}

fn asn_of(network: u64) -> u64 {
    300_000 + 7 * network
}

/// Returns the address of this number. Some are IPv6 addresses.
pub fn member(number: u64) -> String {
    if number % 10 == 9 {
        format!("2001:470:{:x}::{number:x}", number % 50)
    } else {
        world::crowd_member(number)
    }
}

/// Returns a document as the cascade of the Python system wrote it, for a line of COPY.
fn document(random: &mut Random, asn: Option<u64>, at: &str) -> String {
    let mut parts = Vec::new();
    if let Some(asn) = asn {
        parts.push(format!(
            r#""maxmind": {{"country": "DE", "city": "Berlin", "latitude": 52.5200, "asn": {asn}, "asn_org": "Example", "cached_at": "{at}"}}"#
        ));
    }
    if random.one_in(4) {
        parts.push(format!(
            r#""cymru": {{"asn": {}, "registry": "ripencc", "country": "NL", "prefix": "23.0.0.0/16", "cached_at": "{at}"}}"#,
            asn.unwrap_or(64_500)
        ));
    }
    if random.one_in(2) {
        parts.push(format!(
            r#""greynoise": {{"noise": {}, "riot": false, "cached_at": "{at}"}}"#,
            random.one_in(2)
        ));
    }
    if random.one_in(9) {
        // Writes a list, because the Python system stores SPUR's answer as a list of 18 fields.
        parts.push(r#""spur": ["23.0.0.1", "", "VPN"]"#.to_owned());
    }
    format!("{{{}}}", parts.join(", "))
}

/// Returns checksums of the valid networks and addresses in a schema. The schema belongs to the Python system or, after
/// an import, to the extension.
pub fn checksums(session: &mut Session, schema: &str) -> Vec<String> {
    let ours = schema == "enrich";
    let address = if ours { "host(ip_address)" } else { "ip_address::text" };
    [
        format!("SELECT count(*), md5(string_agg(asn_number || coalesce(organization_name, '-'), ',' ORDER BY asn_number)) FROM {schema}.asn_inventory"),
        format!(
            "SELECT count(*), md5(string_agg({address} || ' ' || coalesce(current_asn::text, '-') || ' ' || last_seen || (enrichment::jsonb - '_meta')::text, ','
                 ORDER BY {address} COLLATE \"C\")) FROM {schema}.ip_inventory"
        ),
    ]
    .iter()
    .map(|query| session.one(query))
    .collect()
}

/// Returns a checksum of the sessions with their snapshots, for any types of the columns.
pub fn sessions_checksum(session: &mut Session, schema: &str) -> String {
    session.one(&format!(
        "SELECT count(*), md5(string_agg(concat_ws('|', session_id, source_ip, first_event_at, snapshot_asn, snapshot_country,
             enrichment_at, enrichment::text::jsonb), ',' ORDER BY session_id COLLATE \"C\")) FROM {schema}.session_summaries"
    ))
}
