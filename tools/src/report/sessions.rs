//! The sessions of a report: read once, grouped by address and snapshot, and counted here.
//!
//! The server would have to sort the groups again for each number of distinct addresses. So the groups are sorted by
//! address here, and each list is counted in one pass.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use jiff::Timestamp;
use postgres::Transaction;
use postgres::fallible_iterator::FallibleIterator;

use super::Period;
use super::table::SessionTable;

/// Numbers of sessions and of their distinct addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sessions: u64,
    pub addresses: u64,
}

/// A value and its counts. `None` is an unknown value.
#[derive(Clone, Debug)]
pub struct Counted {
    pub value: Option<String>,
    pub counts: Counts,
}

/// A network by the sessions that came from it.
#[derive(Clone, Debug, Default)]
pub struct Network {
    pub asn: Option<i64>,
    pub counts: Counts,
    /// The countries of its sessions, those with the most sessions first.
    pub countries: Vec<String>,
    pub name: Option<String>,
    pub kind: Option<String>,
    pub registry: Option<String>,
}

/// An address that is now in another network or country than at its last session.
#[derive(Clone, Debug)]
pub struct Mover {
    pub address: IpAddr,
    pub sessions: u64,
    pub last_seen: Option<Timestamp>,
    pub asn_then: Option<i64>,
    pub asn_now: Option<i64>,
    pub country_then: Option<String>,
    pub country_now: Option<String>,
    pub name_then: Option<String>,
    pub name_now: Option<String>,
    pub changed_network: bool,
}

/// The addresses that moved.
#[derive(Default)]
pub struct Movers {
    pub changed_network: Counts,
    pub changed_country: Counts,
    pub stable: Counts,
    pub unknown: Counts,
    /// Those with the most sessions.
    pub first: Vec<Mover>,
}

/// All counts of the sessions of a period.
#[derive(Default)]
pub struct Sessions {
    pub total: Counts,
    pub networks_total: u64,
    pub countries_total: u64,
    pub without_address: u64,
    pub without_network: u64,
    pub without_country: u64,
    pub without_time: u64,
    pub first_seen: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    /// All countries, in descending order of sessions.
    pub countries: Vec<Counted>,
    /// The networks with the most sessions.
    pub networks: Vec<Network>,
    pub kinds: Vec<Counted>,
    pub network_kinds: Vec<Counted>,
    pub sensors: Vec<Counted>,
    /// Addresses that GreyNoise has seen scan, the rest, and those without a row in the inventory.
    pub scanners: [Counts; 3],
    pub movers: Movers,
}

/// Sessions with the same address, snapshot and sensor.
struct Group {
    address: Option<IpAddr>,
    asn: Option<i64>,
    country: Name,
    kind: Name,
    sensor: Name,
    sessions: u64,
    last_seen: Option<Timestamp>,
    is_scanner: Option<bool>,
    change: Change,
    asn_now: Option<i64>,
    country_now: Name,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Stable,
    Network,
    Country,
    Unknown,
}

/// A text by its number. Most groups have the same few texts.
type Name = Option<u32>;

#[derive(Default)]
struct Names {
    numbers: HashMap<String, u32>,
    texts: Vec<String>,
}

impl Names {
    fn number(&mut self, text: Option<&str>) -> Name {
        let text = text?;
        if let Some(number) = self.numbers.get(text) {
            return Some(*number);
        }
        let number = u32::try_from(self.texts.len()).ok()?;
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        Some(number)
    }

    fn text(&self, name: Name) -> Option<String> {
        name.map(|number| self.texts[number as usize].clone())
    }
}

impl Sessions {
    /// Reads and counts the sessions of a period. Lists of networks and movers have at most `rows` rows.
    pub fn read(
        transaction: &mut Transaction<'_>,
        table: &SessionTable,
        period: Period,
        rows: usize,
    ) -> Result<Sessions, postgres::Error> {
        let mut sessions = Sessions::default();
        let mut names = Names::default();
        let mut groups = sessions.groups(transaction, table, period, &mut names)?;
        groups.sort_unstable_by_key(|group| group.address);
        let kinds = network_kinds(transaction, table)?;
        sessions.count(&groups, &names, &kinds, rows);
        sessions.name_networks(transaction, table)?;
        Ok(sessions)
    }

    fn groups(
        &mut self,
        transaction: &mut Transaction<'_>,
        table: &SessionTable,
        period: Period,
        names: &mut Names,
    ) -> Result<Vec<Group>, postgres::Error> {
        let (within, parameters) = table.within(&period, 1);
        let sensor = if table.sensors().is_ok() { "s.sensor" } else { "NULL::pg_catalog.text" };
        let (sensor_name, sensors) = match table.sensors() {
            Ok(()) => table.sensor(),
            Err(_) => ("g.sensor", String::new()),
        };
        let (now, inventory) = match table.addresses() {
            Ok(()) => (
                format!(
                    "i.is_scanner, i.current_asn, NULLIF(i.geo_country, 'XX'),
                     {}.attribution_change_between(g.asn, g.country, i.current_asn, i.geo_country)",
                    table.extension
                ),
                format!("LEFT JOIN {}.ip_inventory i ON i.ip_address = g.address", table.extension),
            ),
            Err(_) => ("NULL::boolean, NULL::bigint, NULL::text, NULL::text".to_owned(), String::new()),
        };
        let statement = format!(
            "SELECT g.address, g.asn, NULLIF(g.country, 'XX'), g.kind, {sensor_name}, g.sessions, g.first_seen, g.last_seen,
                    g.without_time, {now}
             FROM (
                 SELECT {address} AS address, r.*
                 FROM (
                     SELECT {raw} AS raw, s.snapshot_asn AS asn, s.snapshot_country::pg_catalog.text AS country,
                            s.snapshot_ip_type::pg_catalog.text AS kind, {sensor} AS sensor, count(*) AS sessions,
                            min({seen}) AS first_seen, max({seen}) AS last_seen, count(*) - count({seen}) AS without_time
                     FROM {table} s
                     WHERE {within}
                     GROUP BY 1, 2, 3, 4, 5) r) g
             {sensors}
             {inventory}",
            address = table.address_of("r.raw"),
            raw = table.address(),
            seen = table.seen(),
            table = table.name,
        );
        let mut rows = transaction.query_raw(&statement, parameters)?;
        let mut groups = Vec::new();
        while let Some(row) = rows.next()? {
            let sessions = count(row.get(5));
            let (first_seen, last_seen): (Option<Timestamp>, Option<Timestamp>) = (row.get(6), row.get(7));
            self.first_seen = [self.first_seen, first_seen].into_iter().flatten().min();
            self.last_seen = [self.last_seen, last_seen].into_iter().flatten().max();
            self.without_time += count(row.get(8));
            groups.push(Group {
                address: row.get(0),
                asn: row.get(1),
                country: names.number(row.get(2)),
                kind: names.number(row.get(3)),
                sensor: names.number(row.get(4)),
                sessions,
                last_seen,
                is_scanner: row.get(9),
                asn_now: row.get(10),
                country_now: names.number(row.get(11)),
                change: match row.get::<_, Option<&str>>(12) {
                    Some("ASN_CHANGED") => Change::Network,
                    Some("COUNTRY_CHANGED") => Change::Country,
                    Some("STABLE") => Change::Stable,
                    _ => Change::Unknown,
                },
            });
        }
        Ok(groups)
    }

    /// Counts groups that are sorted by address. Groups without an address come first.
    fn count(&mut self, groups: &[Group], names: &Names, kinds: &HashMap<i64, String>, rows: usize) {
        let mut countries = Tally::default();
        let mut networks = Tally::default();
        let mut in_countries: HashMap<(Option<i64>, Name), u64> = HashMap::new();
        let mut types = Tally::default();
        let mut network_kinds = Tally::default();
        let mut sensors = Tally::default();
        let mut movers = Vec::new();
        for of_address in groups.chunk_by(|one, other| one.address == other.address) {
            let address = of_address[0].address;
            for group in of_address {
                let counts = group.sessions;
                self.total.sessions += counts;
                self.without_address += if address.is_none() { counts } else { 0 };
                self.without_network += if group.asn.is_none() { counts } else { 0 };
                self.without_country += if group.country.is_none() { counts } else { 0 };
                countries.add(group.country, counts);
                networks.add(group.asn, counts);
                *in_countries.entry((group.asn, group.country)).or_default() += counts;
                types.add(group.kind, counts);
                network_kinds.add(group.asn.and_then(|asn| kinds.get(&asn)).map(String::as_str), counts);
                sensors.add(group.sensor, counts);
            }
            if let Some(address) = address {
                self.total.addresses += 1;
                self.count_address(address, of_address, &mut movers, names);
            }
            let is_address = address.is_some();
            countries.close(is_address);
            networks.close(is_address);
            types.close(is_address);
            network_kinds.close(is_address);
            sensors.close(is_address);
        }
        let named = |tally: Tally<Name>| {
            let sorted = tally.sorted(|name| names.text(*name)).into_iter();
            sorted.map(|(name, counts)| Counted { value: names.text(name), counts }).collect::<Vec<_>>()
        };
        self.countries = named(countries);
        self.countries_total = self.countries.iter().filter(|country| country.value.is_some()).count() as u64;
        self.kinds = named(types);
        self.sensors = named(sensors);
        self.network_kinds = network_kinds
            .sorted(|kind| kind.map(str::to_owned))
            .into_iter()
            .map(|(kind, counts)| Counted { value: kind.map(str::to_owned), counts })
            .collect();
        let networks = networks.sorted(|asn| *asn);
        self.networks_total = networks.iter().filter(|(asn, _)| asn.is_some()).count() as u64;
        let mut of_networks: HashMap<Option<i64>, Vec<(u64, String)>> = HashMap::new();
        for ((asn, country), sessions) in in_countries {
            if let Some(country) = names.text(country) {
                of_networks.entry(asn).or_default().push((sessions, country));
            }
        }
        self.networks = networks
            .into_iter()
            .filter(|(asn, _)| asn.is_some())
            .take(rows)
            .map(|(asn, counts)| {
                let mut countries = of_networks.remove(&asn).unwrap_or_default();
                countries.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
                let countries = countries.into_iter().map(|(_, country)| country).collect();
                Network { asn, counts, countries, ..Network::default() }
            })
            .collect();
        movers.sort_by(|one: &Mover, other| {
            other.sessions.cmp(&one.sessions).then_with(|| one.address.cmp(&other.address))
        });
        movers.truncate(rows);
        self.movers.first = movers;
    }

    /// Counts an address by its last session, as `campaign_addresses()` does.
    fn count_address(&mut self, address: IpAddr, groups: &[Group], movers: &mut Vec<Mover>, names: &Names) {
        let sessions = groups.iter().map(|group| group.sessions).sum();
        let last = groups.iter().max_by(|one, other| {
            one.last_seen
                .cmp(&other.last_seen)
                .then_with(|| one.sessions.cmp(&other.sessions))
                .then_with(|| (other.asn.is_none(), other.asn).cmp(&(one.asn.is_none(), one.asn)))
        });
        let Some(last) = last else { return };
        let add = |counts: &mut Counts| {
            counts.sessions += sessions;
            counts.addresses += 1;
        };
        add(&mut self.scanners[match last.is_scanner {
            Some(true) => 0,
            Some(false) => 1,
            None => 2,
        }]);
        add(match last.change {
            Change::Stable => &mut self.movers.stable,
            Change::Network => &mut self.movers.changed_network,
            Change::Country => &mut self.movers.changed_country,
            Change::Unknown => &mut self.movers.unknown,
        });
        if last.change == Change::Network || last.change == Change::Country {
            movers.push(Mover {
                address,
                sessions,
                last_seen: last.last_seen,
                asn_then: last.asn,
                asn_now: last.asn_now,
                country_then: names.text(last.country),
                country_now: names.text(last.country_now),
                name_then: None,
                name_now: None,
                changed_network: last.change == Change::Network,
            });
        }
    }

    /// Reads names, types and registries of the listed networks.
    fn name_networks(
        &mut self,
        transaction: &mut Transaction<'_>,
        table: &SessionTable,
    ) -> Result<(), postgres::Error> {
        if table.networks().is_err() {
            return Ok(());
        }
        let wanted: HashSet<i64> = (self.networks.iter().filter_map(|network| network.asn))
            .chain(self.movers.first.iter().flat_map(|mover| [mover.asn_then, mover.asn_now]).flatten())
            .collect();
        let wanted: Vec<i64> = wanted.into_iter().collect();
        let rows = transaction.query(
            &format!(
                "SELECT asn_number, left(organization_name, 20000), asn_type, rir_registry
                 FROM {}.asn_inventory WHERE asn_number = ANY ($1)",
                table.extension
            ),
            &[&wanted],
        )?;
        let known: HashMap<i64, (Option<String>, Option<String>, Option<String>)> =
            rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3)))).collect();
        for network in &mut self.networks {
            if let Some(known) = network.asn.and_then(|asn| known.get(&asn)) {
                (network.name, network.kind, network.registry) = known.clone();
            }
        }
        let name = |asn: Option<i64>| known.get(&asn?)?.0.clone();
        for mover in &mut self.movers.first {
            mover.name_then = name(mover.asn_then);
            mover.name_now = name(mover.asn_now);
        }
        Ok(())
    }
}

/// Returns the type of each network.
fn network_kinds(
    transaction: &mut Transaction<'_>,
    table: &SessionTable,
) -> Result<HashMap<i64, String>, postgres::Error> {
    if table.networks().is_err() {
        return Ok(HashMap::new());
    }
    let statement = format!(
        "SELECT asn_number, asn_type FROM {}.asn_inventory WHERE asn_type <> 'UNKNOWN'",
        table.extension
    );
    Ok(transaction.query(&statement, &[])?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// PostgreSQL counts in bigint, and a number of rows is not negative.
fn count(number: i64) -> u64 {
    number.unsigned_abs()
}

/// Counts the sessions and addresses of each value. The groups of an address are added one after another.
struct Tally<K> {
    counts: HashMap<K, Counts>,
    of_address: Vec<K>,
}

impl<K> Default for Tally<K> {
    fn default() -> Tally<K> {
        Tally { counts: HashMap::new(), of_address: Vec::new() }
    }
}

impl<K: std::hash::Hash + Eq + Copy> Tally<K> {
    fn add(&mut self, value: K, sessions: u64) {
        self.counts.entry(value).or_default().sessions += sessions;
        if !self.of_address.contains(&value) {
            self.of_address.push(value);
        }
    }

    /// Ends the groups of an address. Sessions without an address have no address to count.
    fn close(&mut self, is_address: bool) {
        for value in self.of_address.drain(..) {
            if is_address {
                self.counts.entry(value).or_default().addresses += 1;
            }
        }
    }

    /// Returns the values in descending order of sessions, and the unknown value last.
    fn sorted<T: Ord>(self, name: impl Fn(&K) -> Option<T>) -> Vec<(K, Counts)> {
        let mut all: Vec<(K, Counts)> = self.counts.into_iter().collect();
        all.sort_by_cached_key(|(value, counts)| {
            let name = name(value);
            (name.is_none(), std::cmp::Reverse(counts.sessions), name)
        });
        all
    }
}
