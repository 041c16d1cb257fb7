//! Measures sums over three sites (docs/many-sites.md) against the same sums over one local table. All servers run on
//! this machine, so the network takes no time.

use std::time::Instant;

use server_tests::many_sites::{Fleet, has_postgres_fdw};

use crate::Effort;
use crate::report::{Aim, Report, median, short};

const NAMES: [&str; 3] = ["berlin", "lima", "oslo"];

/// Addresses of each site. A tenth of them is at all sites.
const ADDRESSES: usize = 100_000;

pub fn measure(effort: &Effort, report: &mut Report) {
    if !has_postgres_fdw() {
        return;
    }
    eprintln!("sites: {} sites with {ADDRESSES} addresses each", NAMES.len());
    let fleet = Fleet::start("bench-sites", &NAMES);
    for (n, name) in NAMES.iter().enumerate() {
        let mut site = fleet.site(name).session();
        site.run(&format!(
            "INSERT INTO enrich.asn_inventory (asn_number, organization_name)
             SELECT g, 'Example Network ' || g FROM generate_series(1, 20000) g;
             INSERT INTO enrich.ip_inventory (ip_address, current_asn, first_seen, last_seen, session_count, enrichment)
             SELECT '11.0.0.0'::inet + CASE WHEN g % 10 = 0 THEN g ELSE g + {n} * 1000000 END, 1 + g % 20000, now(), now(), 1 + g % 7,
                    jsonb_build_object('maxmind', jsonb_build_object('asn', 1 + g % 20000, 'asn_org', 'Example Network ' || g % 20000,
                        'country', chr(65 + g % 26) || chr(65 + g % 7), 'latitude', 52.5, 'longitude', 13.4))
             FROM generate_series(1, {ADDRESSES}) g"
        ));
        site.run("VACUUM (ANALYZE) enrich.ip_inventory");
        site.run("VACUUM (ANALYZE) enrich.asn_inventory");
    }
    let mut centre = fleet.session();
    centre.run("SET ROLE sites_owner");
    centre.run("CREATE TABLE site_tables.local AS SELECT * FROM site_tables.ip_inventory");
    centre.run("VACUUM (ANALYZE) site_tables.local");
    centre.run("SET max_parallel_workers_per_gather = 0");

    let by_country = "SELECT geo_country, count(*), sum(session_count) FROM site_tables.local GROUP BY 1";
    let distinct = "SELECT count(DISTINCT ip_address) FROM site_tables.local";
    let comparisons = [
        (
            "sums by country: three sites / one local table",
            "SELECT * FROM sites.country_activity",
            by_country,
        ),
        (
            "the same in one level, all rows travel / local",
            "SELECT geo_country, count(*), sum(session_count) FROM sites.ip_inventory GROUP BY 1",
            by_country,
        ),
        (
            "distinct addresses, all rows travel / local",
            "SELECT count(DISTINCT ip_address) FROM sites.ip_inventory",
            distinct,
        ),
    ];
    for (what, over_sites, local) in comparisons {
        let mut time = |query: &str| {
            let started = Instant::now();
            centre.rows(query);
            started.elapsed().as_secs_f64() * 1000.0
        };
        let (mut ratios, mut milliseconds) = (Vec::new(), Vec::new());
        // One round is not measured, because it opens the connections and fills the caches.
        for round in 0..=effort.rounds {
            let (here, there) = (time(local), time(over_sites));
            if round > 0 {
                ratios.push(there / here);
                milliseconds.push(there);
            }
        }
        let there = median(&milliseconds);
        let medians = format!("{} ms / {} ms", short(there), short(there / median(&ratios)));
        report.ratio(what, medians, ratios, Aim::None, String::new());
    }
}
