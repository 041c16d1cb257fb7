//! Invariants of reading mmdb files with types of addresses. They must hold for any bytes.
//!
//! Property tests and the target `types_file` of `fuzz/` call `holds`. No call panics or hangs. In a verified file no
//! lookup fails. No lookup names a list that the file does not have.

use super::invariants::{addresses, can_be_shown};
use cowrie_enrich_engine::mmdb::types::{ListSet, TypeDatabase, is_list_name, is_type};
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_test_mmdb::types::TypesFile;
use cowrie_enrich_test_mmdb::{Value, Writer, map, text};

fn compiled() -> TypesFile {
    TypesFile::new()
        .list("tor", "TOR", 1_700_000_000)
        .list("aws", "DATACENTER", 1_690_000_000)
        .entry("tor", "1.2.3.4/32")
        .entry("tor", "2a02::/64")
        .detailed("aws", "1.0.0.0/8", "AWS", "eu-central-1", "EC2")
        .detailed("aws", "2000::/3", "AWS", "us-east-1", "")
}

/// A valid file of each layout.
pub fn sound() -> Vec<Vec<u8>> {
    let yes = || Value::Bool(true);
    let maxmind = map([("is_anonymous", yes()), ("is_anonymous_vpn", yes()), ("provider_name", text("foo"))]);
    let ipinfo =
        map([("hosting", text("true")), ("service", text("bar")), ("tor", text("")), ("vpn", text(""))]);
    let with = |name: &str, record: Value| {
        Writer::new(name, 6).with("1.0.0.0/8", record.clone()).with("2000::/3", record).bytes()
    };
    vec![
        compiled().bytes(),
        with("GeoIP-Anonymous-Plus", maxmind),
        with("ipinfo standard_privacy", ipinfo.clone()),
        with("GeoIP-Residential-Proxy", ipinfo),
    ]
}

/// Returns a file that consists of these bytes, has them as records, or has them as its table of lists.
pub fn file_of(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let with_records = |mut writer: Writer, table: &str| {
        let at = writer.value(&Value::Raw(bytes.to_vec()));
        let inside = (0..bytes.len() as u32).cycle().step_by(7);
        for (octet, offset) in (20..60_u32).zip(inside) {
            writer = writer.with(&format!("{octet}.0.0.0/8"), Value::Pointer(at + offset));
        }
        writer.insert_at("60.0.0.0/8", at);
        let mut metadata = writer.metadata();
        metadata.retain(|(key, _)| key != "description");
        metadata.push(("description".to_owned(), map([("lists", text(table))])));
        writer.bytes_with(metadata)
    };
    match kind % 4 {
        0 => bytes.to_vec(),
        1 => with_records(compiled().writer(), &compiled().table()),
        2 => with_records(Writer::new("GeoIP2-Anonymous-IP", 6), ""),
        _ => compiled().bytes_with_table(&String::from_utf8_lossy(bytes)),
    }
}

pub fn holds(bytes: Vec<u8>) {
    let database = match TypeDatabase::open(bytes) {
        Ok(database) => database,
        Err(error) => return can_be_shown(&error),
    };
    let count = database.lists().len();
    assert!((1..=ListSet::CAPACITY).contains(&count) && database.all().len() == count);
    for list in database.lists() {
        assert!(is_type(&list.kind) && !list.name.is_empty() && !list.name.contains(char::is_control));
        assert!(list.entries.is_none() || is_list_name(&list.name));
        assert!(list.published < 253_402_300_800);
    }
    let verified = database.verify();
    for address in addresses() {
        let mut stated = ListSet::EMPTY;
        let entries = database.entries(address, |entry| {
            assert!(entry.list < count);
            assert!(![entry.provider, entry.region, entry.service].contains(&Some("")));
            stated.insert(entry.list);
        });
        let matches = database.matches(address, database.all());
        match (&verified, &matches, &entries) {
            (Ok(()), matches, entries) => {
                assert_eq!(entries, &Ok(()), "verified, but {address} fails");
                assert_eq!(matches, &Ok(stated), "{address}: types and entries differ");
            }
            (Err(_), Err(error), _) | (Err(_), _, Err(error)) => can_be_shown(error),
            (Err(_), Ok(lists), Ok(())) => assert!(lists.iter().all(|list| list < count)),
        }
        assert_eq!(database.matches(address, ListSet::EMPTY).unwrap_or_default(), ListSet::EMPTY);
        if let Ok(lists) = matches {
            let host = database.any_match(Prefix::host(address), database.all());
            assert_eq!(host, Ok(!lists.is_empty()), "{address}");
        }
        let block = database.any_match(Prefix::block_of(address), database.all());
        match block {
            Ok(any) => {
                assert!(any || matches != Ok(stated) || stated.is_empty(), "{address}: no list of its block")
            }
            Err(error) => {
                assert!(verified.is_err(), "verified, but the block of {address} fails");
                can_be_shown(&error);
            }
        }
    }
    if let Err(error) = verified {
        can_be_shown(&error);
    }
}
