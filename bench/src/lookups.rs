//! Measures a million lookups: in SQL, outside PostgreSQL, and by a btree of ranges.

use std::net::IpAddr;
use std::time::Instant;

use maxminddb::{LookupResult, PathElement, Reader};
use memmap2::Mmap;
use server_tests::Session;
use server_tests::database::Database;

use crate::Effort;
use crate::addresses::{ASN_PATHS, Addresses, COUNTRY_PATHS, SAMPLE};
use crate::report::{Aim, Report, median, short};

const SCAN: &str = "SELECT count(ip) FROM sample";
const COUNTRY: &str = "SELECT count(enrich.ip_country(ip)) FROM sample";
const ASN: &str = "SELECT count(enrich.ip_asn(ip)) FROM sample";
const COUNTRY_BTREE: &str = "
    SELECT count(c.value) FROM sample s LEFT JOIN LATERAL (
        SELECT CASE WHEN s.ip <= last THEN value END AS value
        FROM country_ranges WHERE first <= s.ip ORDER BY first DESC LIMIT 1) c ON true";
const ASN_BTREE: &str = "
    SELECT count(c.value) FROM sample s LEFT JOIN LATERAL (
        SELECT CASE WHEN s.ip <= last THEN value END AS value
        FROM asn_ranges WHERE first <= s.ip ORDER BY first DESC LIMIT 1) c ON true";

pub fn measure(db: &mut Database<'_>, addresses: &Addresses, effort: &Effort, report: &mut Report) {
    eprintln!("lookups: {SAMPLE} addresses, {} rounds", effort.rounds);
    addresses.store_ranges(db);
    let sample: Vec<IpAddr> = addresses.sample.iter().map(|a| IpAddr::V4(*a)).collect();
    // The plain loop reads a mapped file in pages of 4 kB, as the extension does. A copy of the file in the heap may be
    // in huge pages, which are faster to read. The time for the copy in the heap is printed separately.
    let map = |name: &str, bytes: &[u8]| -> Mmap {
        let path = db.cluster.files().join(name);
        std::fs::write(&path, bytes).expect("a copy can be written");
        let file = std::fs::File::open(&path).expect("the copy can be opened");
        // SAFETY: no other process knows the path of the copy, so none truncates or changes it.
        unsafe { Mmap::map(&file) }.expect("the copy can be mapped")
    };
    let city =
        Reader::from_source(map("raw-city.mmdb", &addresses.city)).expect("the City database is valid");
    let asn = Reader::from_source(map("raw-asn.mmdb", &addresses.asn)).expect("the ASN database is valid");
    let city_in_heap = Reader::from_source(&addresses.city).expect("the City database is valid");

    let statements = [SCAN, COUNTRY, ASN, COUNTRY_BTREE, ASN_BTREE];
    let mut sessions: Vec<Session> = statements.iter().map(|_| db.another()).collect();
    let mut hits = Vec::new();
    for (session, statement) in sessions.iter_mut().zip(statements) {
        hits.push(session.number(statement));
    }
    // All methods must return the same result, or the comparison is not fair.
    let raw_hits = [raw_loop(&city, &sample, &COUNTRY_PATHS).1, raw_loop(&asn, &sample, &ASN_PATHS).1];
    assert_eq!([hits[1], hits[2]], raw_hits, "answers in SQL and outside");
    assert_eq!([hits[3], hits[4]], raw_hits, "answers by ranges and outside");

    let mut seconds = vec![Vec::new(); statements.len()];
    let (mut raw_country, mut raw_asn, mut heap_country) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        for step in 0..=statements.len() {
            let which = (step + round) % (statements.len() + 1);
            if which == statements.len() {
                raw_country.push(raw_loop(&city, &sample, &COUNTRY_PATHS).0);
                raw_asn.push(raw_loop(&asn, &sample, &ASN_PATHS).0);
                heap_country.push(raw_loop(&city_in_heap, &sample, &COUNTRY_PATHS).0);
            } else {
                let started = Instant::now();
                sessions[which].rows(statements[which]);
                seconds[which].push(started.elapsed().as_secs_f64());
            }
        }
    }
    let net = |which: usize| -> Vec<f64> {
        let pairs = seconds[which].iter().zip(&seconds[0]);
        pairs.map(|(time, scan)| time - scan).collect()
    };
    let (country, asn_sql) = (net(1), net(2));
    let compare = |above: &[f64], below: &[f64]| -> (String, Vec<f64>) {
        let each = |seconds: &[f64]| short(median(seconds) * 1e9 / SAMPLE as f64);
        (
            format!("{} / {} ns", each(above), each(below)),
            above.iter().zip(below).map(|(a, b)| a / b).collect(),
        )
    };
    for (what, above, below, aim) in [
        ("ip_country() / maxminddb loop", &country, &raw_country, Aim::AtMost(1.25)),
        ("ip_country() / the loop with the file in the heap", &country, &heap_country, Aim::None),
        ("ip_asn() / maxminddb loop", &asn_sql, &raw_asn, Aim::AtMost(2.0)),
        ("country by btree ranges / ip_country()", &net(3), &country, Aim::None),
        ("ASN by btree ranges / ip_asn()", &net(4), &asn_sql, Aim::None),
    ] {
        let (absolute, rounds) = compare(above, below);
        report.ratio(what, absolute, rounds, aim, "net of the table scan".to_owned());
    }
}

/// Reads all addresses twice. Returns the seconds of the second pass, and the number of addresses with an answer.
fn raw_loop<S: AsRef<[u8]>>(
    reader: &Reader<S>,
    sample: &[IpAddr],
    paths: &[&[PathElement<'_>]],
) -> (f64, i64) {
    let is_text = paths.len() == 2;
    let mut result = (0.0, 0);
    for _ in 0..2 {
        let started = Instant::now();
        let mut hits = 0;
        for address in sample {
            let found = reader.lookup(*address).expect("the lookup works");
            let known = if is_text {
                let text: Option<&str> = first(&found, paths);
                std::hint::black_box(text).is_some()
            } else {
                let number: Option<u32> = first(&found, paths);
                std::hint::black_box(number).is_some()
            };
            hits += i64::from(known);
        }
        result = (started.elapsed().as_secs_f64(), hits);
    }
    result
}

fn first<'a, S: AsRef<[u8]>, T: serde::Deserialize<'a>>(
    found: &LookupResult<'a, S>,
    paths: &[&[PathElement<'_>]],
) -> Option<T> {
    paths.iter().find_map(|path| found.decode_path(path).expect("it can be decoded"))
}
