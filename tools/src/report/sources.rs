//! The sources of the data on a page: their vendors, their dates, and the notices that their licences require.

use jiff::Timestamp;
use postgres::Transaction;

use super::table::SessionTable;
use super::{Section, section};

/// A file that the server has loaded.
pub struct LoadedFile {
    pub kind: String,
    pub vendor: Option<String>,
    pub database_type: Option<String>,
    pub built_at: Option<Timestamp>,
    pub error: Option<String>,
}

/// A list of types of addresses.
pub struct TypeList {
    pub list: String,
    pub kind: String,
    pub published_at: Option<Timestamp>,
    pub is_usable: bool,
    pub notice: Option<String>,
}

/// A source of stored data about addresses.
pub struct StoredSource {
    pub source: String,
    /// The vendor of the mmdb files, if the source is an mmdb file.
    pub vendor: Option<String>,
    pub addresses: u64,
    /// The newest data of this source: for mmdb files the time of the build, otherwise the time of the answer.
    pub newest: Option<Timestamp>,
}

pub struct Sources {
    pub files: Section<Vec<LoadedFile>>,
    pub lists: Section<Vec<TypeList>>,
    pub stored: Section<Vec<StoredSource>>,
}

impl Sources {
    pub fn read(transaction: &mut Transaction<'_>, table: &SessionTable) -> Result<Sources, postgres::Error> {
        let extension = &table.extension;
        let files = section(transaction, |transaction| {
            let statement = format!(
                "SELECT kind, vendor, database_type, build_time, last_error FROM {extension}.mmdb_status()
                 WHERE source_path IS NOT NULL ORDER BY kind, file_number"
            );
            Ok(Ok(transaction.query(&statement, &[])?.iter().map(loaded_file).collect()))
        })?;
        let lists = section(transaction, |transaction| {
            let statement = format!(
                "SELECT list, type, published_at, is_usable, notice FROM {extension}.ip_type_lists() ORDER BY list, type"
            );
            Ok(Ok(transaction.query(&statement, &[])?.iter().map(type_list).collect()))
        })?;
        let stored = match table.addresses() {
            Ok(()) => section(transaction, |transaction| stored(transaction, extension).map(Ok))?,
            Err(absent) => Err(absent),
        };
        Ok(Sources { files, lists, stored })
    }

    /// Returns the notices that the page must show, each with a link that it must have.
    pub fn notices(&self) -> Vec<&'static Notice> {
        let files = self.files.iter().flatten().filter_map(|file| file.vendor.as_deref());
        let types = self.files.iter().flatten().filter_map(|file| file.database_type.as_deref());
        let stored = self.stored.iter().flatten().filter_map(|source| source.vendor.as_deref());
        let vendors: Vec<String> = files.chain(types).chain(stored).map(str::to_lowercase).collect();
        let is_named = |notice: &&Notice| {
            notice.vendors.iter().any(|part| vendors.iter().any(|vendor| vendor.contains(part)))
        };
        NOTICES.iter().filter(is_named).collect()
    }
}

/// A notice that the licence of a vendor requires where its data are shown.
pub struct Notice {
    /// Parts of the names of the vendor, in lower case.
    vendors: &'static [&'static str],
    pub text: &'static str,
    pub link: &'static str,
}

/// docs/free-data.md has the same notices.
pub const NOTICES: [Notice; 5] = [
    Notice {
        vendors: &["db-ip", "dbip"],
        text: "IP Geolocation by DB-IP (Creative Commons Attribution 4.0)",
        link: "https://db-ip.com",
    },
    Notice {
        vendors: &["ipinfo"],
        text: "IP address data powered by IPinfo (Creative Commons Attribution-ShareAlike 4.0)",
        link: "https://ipinfo.io",
    },
    Notice {
        vendors: &["maxmind", "geolite", "geoip"],
        text: "This product includes GeoLite2 Data created by MaxMind",
        link: "https://www.maxmind.com/",
    },
    Notice {
        vendors: &["routeviews", "route views", "ip-location-db"],
        text: "Data of Route Views (Creative Commons Attribution 4.0), merged by ip-location-db",
        link: "https://www.routeviews.org",
    },
    Notice {
        vendors: &["nro", "ip-location-db"],
        text: "Data of the NRO (Creative Commons Attribution 4.0), merged by ip-location-db",
        link: "https://www.nro.net",
    },
];

fn loaded_file(row: &postgres::Row) -> LoadedFile {
    LoadedFile {
        kind: row.get(0),
        vendor: row.get(1),
        database_type: row.get(2),
        built_at: row.get(3),
        error: row.get(4),
    }
}

fn type_list(row: &postgres::Row) -> TypeList {
    TypeList {
        list: row.get(0),
        kind: row.get(1),
        published_at: row.get(2),
        is_usable: row.get::<_, Option<bool>>(3).unwrap_or(false),
        notice: row.get(4),
    }
}

/// Reads which sources have answered about the addresses of the inventory. A malformed document counts as no answer.
fn stored(transaction: &mut Transaction<'_>, extension: &str) -> Result<Vec<StoredSource>, postgres::Error> {
    let statement = format!(
        "SELECT k.source, v.vendor, count(*),
                max(CASE WHEN k.source <> 'maxmind' THEN k.answered_at END),
                max(CASE WHEN k.source = 'maxmind' AND k.build ~ '^[0-9]{{1,10}}$'
                    THEN to_timestamp(k.build::bigint) END)
         FROM (
             SELECT d.source, i.enrichment -> d.source ->> d.vendor AS vendor, i.enrichment -> d.source ->> d.build AS build,
                    {extension}.document_time(i.enrichment -> d.source ->> 'cached_at') AS answered_at
             FROM {extension}.ip_inventory i
             CROSS JOIN (VALUES ('maxmind', 'vendor', 'build_epoch'), ('maxmind', 'asn_vendor', 'asn_build_epoch'),
                                ('cymru', '', ''), ('greynoise', '', ''), ('dshield', '', ''), ('spur', '', '')
                        ) d (source, vendor, build)
             WHERE i.enrichment ? d.source AND (d.vendor <> 'asn_vendor' OR i.enrichment -> 'maxmind' ? 'asn_vendor')
         ) k
         CROSS JOIN LATERAL (SELECT left(k.vendor, 200) AS vendor) v
         GROUP BY 1, 2
         ORDER BY 1, 3 DESC, 2
         LIMIT 50"
    );
    let rows = transaction.query(&statement, &[])?;
    Ok(rows
        .iter()
        .map(|row| StoredSource {
            source: row.get(0),
            vendor: row.get(1),
            addresses: row.get::<_, i64>(2).unsigned_abs(),
            newest: row.get::<_, Option<Timestamp>>(3).or(row.get(4)),
        })
        .collect())
}
