//! Sessions that share a password, a user name, a command, a file or a client, from Cowrie's other tables. A value that comes from
//! many networks points to a campaign.

use std::net::IpAddr;

use jiff::Timestamp;
use postgres::Transaction;
use postgres::fallible_iterator::FallibleIterator;

use super::counting::{CountedValue, Counting, SessionRow};
use super::passwords::{Passwords, Shown};
use super::table::SessionTable;
use super::{Absent, Options, Period, Section, section};

/// A value and the sessions that have it.
pub struct Campaign {
    pub value: String,
    /// The value without the passwords in it, unless the caller asks for passwords.
    pub shown: Shown,
    pub sessions: u64,
    pub addresses: u64,
    pub networks: u64,
    pub first_seen: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
}

/// Numbers of logins.
pub struct Logins {
    pub attempts: u64,
    pub successful: u64,
}

/// A list of campaigns by one kind of value.
pub struct List {
    pub kind: &'static Kind,
    pub campaigns: Section<Vec<Campaign>>,
}

pub struct Campaigns {
    pub logins: Section<Logins>,
    pub lists: Vec<List>,
    /// An error if the program cannot find passwords in the other lists.
    pub passwords: Section<()>,
}

/// A kind of value by which sessions are grouped.
pub struct Kind {
    pub title: &'static str,
    pub heading: &'static str,
    pub is_password: bool,
    table: &'static str,
    column: &'static str,
    /// The column that joins the table with the session table, and the column of the session table.
    key: &'static str,
    session_key: &'static str,
}

/// Cowrie's table of logins.
const LOGINS: &str = "auth";

pub static KINDS: [Kind; 5] = [
    Kind {
        title: "Passwords",
        heading: "password",
        is_password: true,
        table: LOGINS,
        column: "password",
        key: "session",
        session_key: "id",
    },
    Kind {
        title: "User names",
        heading: "user name",
        is_password: false,
        table: LOGINS,
        column: "username",
        key: "session",
        session_key: "id",
    },
    Kind {
        title: "Commands",
        heading: "command",
        is_password: false,
        table: "input",
        column: "input",
        key: "session",
        session_key: "id",
    },
    Kind {
        title: "Downloaded files",
        heading: "SHA-256",
        is_password: false,
        table: "downloads",
        column: "shasum",
        key: "session",
        session_key: "id",
    },
    Kind {
        title: "Client versions",
        heading: "client",
        is_password: false,
        table: "clients",
        column: "version",
        key: "id",
        session_key: "client",
    },
];

impl Campaigns {
    /// Reads the lists. Each has the values that come from the most networks.
    pub fn read(
        transaction: &mut Transaction<'_>,
        table: &SessionTable,
        period: Period,
        options: &Options,
    ) -> Result<Section<Campaigns>, postgres::Error> {
        let (mut logins_counted, mut lists) = (None, Vec::new());
        let may_count = options.memory > 0 && is_utf8(transaction)?;
        for kinds in KINDS.chunk_by(|one, other| one.table == other.table) {
            // An error is an absent table, column or right. The statement of each list then says what is absent.
            let counted = match may_count {
                true => {
                    section(transaction, |transaction| count(transaction, table, period, kinds, options))?
                }
                false => Ok(None),
            };
            if let Ok(Some(counted)) = counted {
                logins_counted = logins_counted.or(counted.logins);
                let counted = kinds.iter().zip(counted.lists);
                lists.extend(counted.map(|(kind, campaigns)| List { kind, campaigns: Ok(campaigns) }));
                continue;
            }
            for kind in kinds {
                let campaigns =
                    section(transaction, |transaction| kind.read(transaction, table, period, options.rows))?;
                lists.push(List { kind, campaigns });
            }
        }
        let logins = match logins_counted {
            Some(logins) => Ok(logins),
            None => section(transaction, |transaction| logins(transaction, table, period))?,
        };
        if let (Err(_), true) = (&logins, lists.iter().all(|list| list.campaigns.is_err())) {
            return Ok(Err(Absent(
                "This section is left out, because Cowrie's tables auth, input, downloads and clients are not in the schema of \
                 the session table, or this role may not read them."
                    .to_owned(),
            )));
        }
        let passwords = match options.shows_passwords {
            true => Ok(()),
            false => hide_passwords(&mut lists, transaction, table, period)?,
        };
        Ok(Ok(Campaigns { logins, lists, passwords }))
    }
}

/// Numbers from one pass over a table.
struct Counted {
    lists: Vec<Vec<Campaign>>,
    /// Set if the table has the results of logins.
    logins: Option<Logins>,
}

/// Number of rows that the server sends at a time.
const ROWS_AT_A_TIME: i32 = 50_000;

/// Reads a table once, and counts the values of all its kinds in memory. Returns `None` if the memory does not suffice.
fn count(
    transaction: &mut Transaction<'_>,
    table: &SessionTable,
    period: Period,
    kinds: &[Kind],
    options: &Options,
) -> Result<Section<Option<Counted>>, postgres::Error> {
    let [Kind { table: other, key, session_key, .. }, ..] = kinds else { return Ok(Ok(None)) };
    for kind in kinds {
        if let Err(absent) = kind.joined(transaction, table)? {
            return Ok(Err(absent));
        }
    }
    // The table of commands has a column "success" too.
    let has_logins = *other == LOGINS && table.beside(transaction, other, &["success"])?.is_ok();
    let other = match table.beside(transaction, other, &[key])? {
        Ok(other) => other,
        Err(absent) => return Ok(Err(absent)),
    };
    let columns: Vec<String> =
        kinds.iter().map(|kind| format!("o.{}::pg_catalog.text", kind.column)).collect();
    let (within, parameters) = table.within(&period, 1);
    // The number of a session is shorter than its id, and the id need not be unique.
    let statement = format!(
        "SELECT s.number, s.address, s.network, s.seen, {success}, {columns}
         FROM {other} o
         JOIN (SELECT pg_catalog.row_number() OVER () AS number, s.{session_key} AS key, {address} AS address,
                      s.snapshot_asn AS network, {seen} AS seen
               FROM {table} s WHERE {within}) s ON s.key = o.{key}",
        success = if has_logins { "o.success::pg_catalog.bool" } else { "NULL::pg_catalog.bool" },
        columns = columns.join(", "),
        address = table.address_text(&table.address()),
        seen = table.seen(),
        table = table.name,
    );
    let mut counting = Counting::new(kinds.len(), options.memory);
    let mut logins = Logins { attempts: 0, successful: 0 };
    let statement = transaction.prepare(&statement)?;
    let portal = transaction.bind(&statement, &parameters)?;
    loop {
        let mut rows = transaction.query_portal_raw(&portal, ROWS_AT_A_TIME)?;
        let mut received = 0;
        while let Some(row) = rows.next()? {
            received += 1;
            logins.attempts += 1;
            logins.successful += u64::from(row.get::<_, Option<bool>>(4) == Some(true));
            let session = SessionRow {
                number: usize::try_from(row.get::<_, i64>(0)).unwrap_or_default(),
                address: row.get(1),
                network: row.get(2),
                seen: row.get(3),
            };
            if counting.add(session, (0..kinds.len()).map(|column| row.get(5 + column))).is_err() {
                return Ok(Ok(None));
            }
        }
        if received < ROWS_AT_A_TIME {
            break;
        }
    }
    let addresses = addresses(transaction, table, &counting.address_texts())?;
    let lists = counting.first(&addresses, options.rows).into_iter();
    Ok(Ok(Some(Counted {
        lists: lists.map(|list| list.into_iter().map(Campaign::from).collect()).collect(),
        logins: has_logins.then_some(logins),
    })))
}

/// Returns the address that each text means. The extension decides, because it reads texts of many forms.
fn addresses(
    transaction: &mut Transaction<'_>,
    table: &SessionTable,
    texts: &[&str],
) -> Result<Vec<Option<IpAddr>>, postgres::Error> {
    let statement = format!(
        "SELECT {} FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[])) WITH ORDINALITY r (text, number)
         ORDER BY r.number",
        table.parsed_address("r.text")
    );
    let rows = transaction.query(&statement, &[&texts])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Returns whether texts have the same order on the server and in this program.
fn is_utf8(transaction: &mut Transaction<'_>) -> Result<bool, postgres::Error> {
    let row = transaction.query_one("SELECT pg_catalog.current_setting('server_encoding') = 'UTF8'", &[])?;
    Ok(row.get(0))
}

impl From<CountedValue> for Campaign {
    fn from(counted: CountedValue) -> Campaign {
        let value: String = counted.value.chars().take(LONGEST).collect();
        Campaign {
            shown: Shown::unchanged(&value),
            value,
            sessions: counted.sessions,
            addresses: counted.addresses,
            networks: counted.networks,
            first_seen: counted.first_seen,
            last_seen: counted.last_seen,
        }
    }
}

/// Number of characters of a value that the report keeps.
const LONGEST: usize = 20_000;

impl Kind {
    /// Lets the server count. It sorts all rows for each number of distinct values, but needs little memory.
    fn read(
        &self,
        transaction: &mut Transaction<'_>,
        table: &SessionTable,
        period: Period,
        rows: usize,
    ) -> Result<Section<Vec<Campaign>>, postgres::Error> {
        let other = match self.joined(transaction, table)? {
            Ok(other) => other,
            Err(absent) => return Ok(Err(absent)),
        };
        let (within, mut parameters) = table.within(&period, 2);
        // The server sorts all values, which takes a fifth less time by bytes than by the rules of a language.
        let limit = i64::try_from(rows).unwrap_or(i64::MAX);
        parameters.insert(0, &limit);
        let statement = format!(
            "SELECT left(c.value, {LONGEST}), c.sessions, c.addresses, c.networks, c.first_seen, c.last_seen
             FROM (
                 SELECT o.value, count(*) AS sessions, count(DISTINCT {address}) AS addresses,
                        count(DISTINCT s.snapshot_asn) AS networks, min({seen}) AS first_seen, max({seen}) AS last_seen
                 FROM (SELECT DISTINCT o.{column}::pg_catalog.text COLLATE pg_catalog.\"C\" AS value, o.{key} AS key FROM {other} o) o
                 JOIN {table} s ON s.{session_key} = o.key
                 WHERE o.value IS NOT NULL AND {within}
                 GROUP BY 1) c
             ORDER BY c.networks DESC, c.addresses DESC, c.sessions DESC, c.value
             LIMIT $1",
            address = table.address_of(&table.address()),
            seen = table.seen(),
            column = self.column,
            key = self.key,
            session_key = self.session_key,
            table = table.name,
        );
        let campaigns = transaction.query(&statement, &parameters)?;
        let number = |row: &postgres::Row, column: usize| row.get::<_, i64>(column).unsigned_abs();
        Ok(Ok(campaigns
            .iter()
            .map(|row| Campaign {
                value: row.get(0),
                shown: Shown::unchanged(row.get(0)),
                sessions: number(row, 1),
                addresses: number(row, 2),
                networks: number(row, 3),
                first_seen: row.get(4),
                last_seen: row.get(5),
            })
            .collect()))
    }

    /// Returns the table with the values.
    fn joined(
        &self,
        transaction: &mut Transaction<'_>,
        table: &SessionTable,
    ) -> Result<Section<String>, postgres::Error> {
        if !table.has_column(self.session_key) {
            return Ok(Err(Absent(format!(
                "This list is left out, because {} has no column {} that this role may read.",
                table.name, self.session_key
            ))));
        }
        table.beside(transaction, self.table, &[self.key, self.column])
    }
}

/// Hides the passwords in the lists of other values. The list of passwords is hidden on the page.
fn hide_passwords(
    lists: &mut [List],
    transaction: &mut Transaction<'_>,
    table: &SessionTable,
    period: Period,
) -> Result<Section<()>, postgres::Error> {
    let mut campaigns: Vec<&mut Campaign> = lists
        .iter_mut()
        .filter(|list| !list.kind.is_password)
        .filter_map(|list| list.campaigns.as_mut().ok())
        .flatten()
        .collect();
    let values: Vec<&str> = campaigns.iter().map(|campaign| &campaign.value[..]).collect();
    let passwords = match Passwords::among(&values, transaction, table, period)? {
        Ok(passwords) => passwords,
        Err(absent) => return Ok(Err(absent)),
    };
    for campaign in &mut campaigns {
        campaign.shown = passwords.hide(&campaign.value, campaign.sessions);
    }
    Ok(Ok(()))
}

fn logins(
    transaction: &mut Transaction<'_>,
    table: &SessionTable,
    period: Period,
) -> Result<Section<Logins>, postgres::Error> {
    if !table.has_column("id") {
        return Ok(Err(Absent("No numbers of logins.".to_owned())));
    }
    let auth = match table.beside(transaction, LOGINS, &["session", "success"])? {
        Ok(auth) => auth,
        Err(absent) => return Ok(Err(absent)),
    };
    let (within, parameters) = table.within(&period, 1);
    let row = transaction.query_one(
        &format!(
            "SELECT count(*), count(*) FILTER (WHERE a.success) FROM {auth} a JOIN {} s ON s.id = a.session WHERE {within}",
            table.name
        ),
        &parameters,
    )?;
    let number = |column| row.get::<_, i64>(column).unsigned_abs();
    Ok(Ok(Logins { attempts: number(0), successful: number(1) }))
}
