//! Counts the sessions, addresses and networks of each value in the memory of this program.
//!
//! The server reads each table once, joins it with the sessions and sends the rows without sorting them. Distinct numbers of many
//! values need several sorts of all rows on the server, which take far longer. If the values need more memory than the caller
//! allows, [`Counting::add`] returns an error, and the server must count.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::Timestamp;

/// The memory that the values need is larger than the caller allows.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

/// A value with its exact numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedValue {
    pub value: String,
    pub sessions: u64,
    pub addresses: u64,
    pub networks: u64,
    pub first_seen: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
}

/// A session as the server sends it with each of its values.
#[derive(Clone, Copy, Default)]
pub struct SessionRow<'a> {
    /// A number that only this session has. The numbers are small, because they are places in a list.
    pub number: usize,
    /// The address as stored. Several texts can mean the same address.
    pub address: Option<&'a str>,
    pub network: Option<i64>,
    pub seen: Option<Timestamp>,
}

/// Values of one or more columns, and the sessions that have them.
pub struct Counting {
    columns: Vec<Column>,
    addresses: Numbers,
    networks: HashMap<i64, u32>,
    sessions: Vec<Option<Session>>,
    /// An estimate of the memory in use, and its limit.
    bytes: usize,
    most_bytes: usize,
}

#[derive(Default)]
struct Column {
    values: Numbers,
    /// The number of a value in the upper half, and the number of a session in the lower half.
    pairs: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Session {
    address: Option<u32>,
    network: Option<u32>,
    seen: Option<Timestamp>,
}

/// Texts, which are numbered in the order in which they come.
#[derive(Default)]
struct Numbers(HashMap<Box<str>, u32>);

/// Memory of a text beside its bytes: the entry of the map, a free slot of the map, and the overhead of the allocator.
const TEXT_BYTES: usize = 80;

impl Numbers {
    /// Returns the number of the text, and the memory that a new text takes.
    fn number(&mut self, text: &str) -> Result<(u32, usize), TooLarge> {
        if let Some(number) = self.0.get(text) {
            return Ok((*number, 0));
        }
        let number = u32::try_from(self.0.len()).map_err(|_| TooLarge)?;
        self.0.insert(text.into(), number);
        Ok((number, text.len() + TEXT_BYTES))
    }

    fn texts(&self) -> Vec<&str> {
        let mut texts = vec![""; self.0.len()];
        for (text, number) in &self.0 {
            texts[*number as usize] = text;
        }
        texts
    }
}

impl Counting {
    /// Starts to count the values of this number of columns. The memory in use stays near `most_bytes`.
    pub fn new(columns: usize, most_bytes: usize) -> Counting {
        Counting {
            columns: (0..columns).map(|_| Column::default()).collect(),
            addresses: Numbers::default(),
            networks: HashMap::new(),
            sessions: Vec::new(),
            bytes: 0,
            most_bytes,
        }
    }

    /// Adds a row: a session, and its value in each column. A value that is null is not counted.
    pub fn add<'a>(
        &mut self,
        session: SessionRow<'_>,
        values: impl Iterator<Item = Option<&'a str>>,
    ) -> Result<(), TooLarge> {
        let number = u32::try_from(session.number).map_err(|_| TooLarge)?;
        self.add_session(session)?;
        for (column, value) in self.columns.iter_mut().zip(values) {
            let Some(value) = value else { continue };
            let (value, bytes) = column.values.number(value)?;
            column.pairs.push(u64::from(value) << 32 | u64::from(number));
            self.bytes += bytes + size_of::<u64>();
        }
        if self.bytes > self.most_bytes { Err(TooLarge) } else { Ok(()) }
    }

    fn add_session(&mut self, row: SessionRow<'_>) -> Result<(), TooLarge> {
        let missing = (row.number + 1).saturating_sub(self.sessions.len());
        if missing > 0 {
            self.bytes += missing * size_of::<Option<Session>>();
            if self.bytes > self.most_bytes {
                return Err(TooLarge);
            }
            self.sessions.resize(row.number + 1, None);
        } else if self.sessions[row.number].is_some() {
            return Ok(());
        }
        let address = match row.address {
            Some(text) => {
                let (address, bytes) = self.addresses.number(text)?;
                self.bytes += bytes;
                Some(address)
            }
            None => None,
        };
        let network = match row.network {
            Some(asn) => {
                let next = u32::try_from(self.networks.len()).map_err(|_| TooLarge)?;
                Some(*self.networks.entry(asn).or_insert(next))
            }
            None => None,
        };
        self.sessions[row.number] = Some(Session { address, network, seen: row.seen });
        Ok(())
    }

    /// Returns the texts of the addresses. The caller says which addresses they mean.
    pub fn address_texts(&self) -> Vec<&str> {
        self.addresses.texts()
    }

    /// Returns the first values of each column, in descending order of networks, addresses and sessions, and then in the order of
    /// their bytes. `addresses` has the address of each text of [`Counting::address_texts`], or `None` if the text is not an address.
    pub fn first(mut self, addresses: &[Option<IpAddr>], rows: usize) -> Vec<Vec<CountedValue>> {
        let mut numbers = HashMap::new();
        let addresses: Vec<Option<u32>> = addresses
            .iter()
            .map(|address| {
                address.map(|address| {
                    let next = numbers.len() as u32;
                    *numbers.entry(address).or_insert(next)
                })
            })
            .collect();
        for session in self.sessions.iter_mut().flatten() {
            session.address =
                session.address.and_then(|text| addresses.get(text as usize).copied().flatten());
        }
        let sessions = self.sessions;
        self.columns.into_iter().map(|column| column.first(&sessions, rows)).collect()
    }
}

impl Column {
    fn first(mut self, sessions: &[Option<Session>], rows: usize) -> Vec<CountedValue> {
        // A session can try a value more than once.
        self.pairs.sort_unstable();
        self.pairs.dedup();
        let texts = self.values.texts();
        let (mut of_addresses, mut of_networks) = (Vec::new(), Vec::new());
        let mut counted: Vec<(&str, Counts)> = self
            .pairs
            .chunk_by(|one, other| one >> 32 == other >> 32)
            .map(|pairs| {
                of_addresses.clear();
                of_networks.clear();
                let mut counts = Counts { sessions: pairs.len() as u64, ..Counts::default() };
                for session in pairs.iter().filter_map(|pair| sessions[*pair as u32 as usize]) {
                    of_addresses.extend(session.address);
                    of_networks.extend(session.network);
                    counts.first_seen = [counts.first_seen, session.seen].into_iter().flatten().min();
                    counts.last_seen = counts.last_seen.max(session.seen);
                }
                counts.addresses = distinct(&mut of_addresses);
                counts.networks = distinct(&mut of_networks);
                (texts[(pairs[0] >> 32) as usize], counts)
            })
            .collect();
        counted.sort_unstable_by(|(one, of_one), (other, of_other)| {
            let key = |counts: &Counts| (counts.networks, counts.addresses, counts.sessions);
            key(of_other).cmp(&key(of_one)).then_with(|| one.cmp(other))
        });
        counted.truncate(rows);
        counted
            .into_iter()
            .map(|(value, counts)| CountedValue {
                value: value.to_owned(),
                sessions: counts.sessions,
                addresses: counts.addresses,
                networks: counts.networks,
                first_seen: counts.first_seen,
                last_seen: counts.last_seen,
            })
            .collect()
    }
}

#[derive(Default)]
struct Counts {
    sessions: u64,
    addresses: u64,
    networks: u64,
    first_seen: Option<Timestamp>,
    last_seen: Option<Timestamp>,
}

fn distinct(numbers: &mut Vec<u32>) -> u64 {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.len() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const MUCH: usize = 1 << 30;

    /// An address, a network and a time in seconds, each possibly unknown.
    type Place = (Option<u8>, Option<i64>, Option<i64>);

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// Odd texts mean the same address as the even text before them. The text 9 is not an address.
    fn address(text: u8) -> Option<IpAddr> {
        (text != 9).then(|| IpAddr::from([192, 0, 2, text / 2]))
    }

    fn counted(places: &[Place], rows: &[(usize, Option<String>)], first: usize) -> Vec<CountedValue> {
        let mut counting = Counting::new(1, MUCH);
        for (number, value) in rows {
            let (of_address, network, seen) = places[*number];
            let text = of_address.map(|text| text.to_string());
            let session =
                SessionRow { number: *number, address: text.as_deref(), network, seen: seen.map(time) };
            counting.add(session, std::iter::once(value.as_deref())).unwrap();
        }
        let addresses: Vec<_> =
            counting.address_texts().iter().map(|text| address(text.parse().unwrap())).collect();
        counting.first(&addresses, first).remove(0)
    }

    /// Counts each value by itself.
    fn recounted(places: &[Place], rows: &[(usize, Option<String>)], first: usize) -> Vec<CountedValue> {
        let mut sessions: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (number, value) in rows {
            if let Some(value) = value {
                sessions.entry(value).or_default().insert(*number);
            }
        }
        let mut all: Vec<CountedValue> = sessions
            .into_iter()
            .map(|(value, sessions)| {
                let places = || sessions.iter().map(|number| places[*number]);
                CountedValue {
                    value: value.to_owned(),
                    sessions: sessions.len() as u64,
                    addresses: places().filter_map(|(text, ..)| address(text?)).collect::<BTreeSet<_>>().len()
                        as u64,
                    networks: places().filter_map(|(_, network, _)| network).collect::<BTreeSet<_>>().len()
                        as u64,
                    first_seen: places().filter_map(|(.., seen)| seen).min().map(time),
                    last_seen: places().filter_map(|(.., seen)| seen).max().map(time),
                }
            })
            .collect();
        // The sort is stable, so equal numbers stay in the order of the values.
        all.sort_by_key(|one| std::cmp::Reverse((one.networks, one.addresses, one.sessions)));
        all.truncate(first);
        all
    }

    proptest! {
        #[test]
        fn first_values_equal_those_of_a_count_of_each_value(
            places in proptest::collection::vec(
                (proptest::option::of(0..10u8), proptest::option::of(0..4i64), proptest::option::of(0..9i64)), 1..30),
            rows in proptest::collection::vec((0..30usize, proptest::option::of("[abA]{0,2}")), 0..80),
            first in 1..12usize,
        ) {
            let rows: Vec<_> =
                rows.into_iter().map(|(number, value)| (number % places.len(), value)).collect();
            prop_assert_eq!(counted(&places, &rows, first), recounted(&places, &rows, first));
        }
    }

    #[test]
    fn values_that_need_too_much_memory_are_refused() {
        let values: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let add = |most_bytes| {
            let mut counting = Counting::new(1, most_bytes);
            let mut rows = values.iter().enumerate();
            rows.try_for_each(|(number, value)| {
                counting
                    .add(SessionRow { number, ..SessionRow::default() }, std::iter::once(Some(&value[..])))
            })
        };
        assert_eq!(add(MUCH), Ok(()));
        assert_eq!(add(10_000), Err(TooLarge));
        // A large number of a session alone needs memory.
        let far = SessionRow { number: 1_000_000, ..SessionRow::default() };
        assert_eq!(Counting::new(0, 10_000).add(far, std::iter::empty()), Err(TooLarge));
    }
}
