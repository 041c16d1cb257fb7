//! Sessions that share a password, a user name, a command, a file or a client, from Cowrie's other tables. A value that comes from
//! many networks points to a campaign.

use jiff::Timestamp;
use postgres::Transaction;

use super::passwords::{Passwords, Shown};
use super::table::SessionTable;
use super::{Absent, Period, Section, section};

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

pub static KINDS: [Kind; 5] = [
    Kind {
        title: "Passwords",
        heading: "password",
        is_password: true,
        table: "auth",
        column: "password",
        key: "session",
        session_key: "id",
    },
    Kind {
        title: "User names",
        heading: "user name",
        is_password: false,
        table: "auth",
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
        rows: usize,
        shows_passwords: bool,
    ) -> Result<Section<Campaigns>, postgres::Error> {
        let logins = section(transaction, |transaction| logins(transaction, table, period))?;
        let mut lists = Vec::new();
        for kind in &KINDS {
            let campaigns = section(transaction, |transaction| kind.read(transaction, table, period, rows))?;
            lists.push(List { kind, campaigns });
        }
        if let (Err(_), true) = (&logins, lists.iter().all(|list| list.campaigns.is_err())) {
            return Ok(Err(Absent(
                "This section is left out, because Cowrie's tables auth, input, downloads and clients are not in the schema of \
                 the session table, or this role may not read them."
                    .to_owned(),
            )));
        }
        let passwords = match shows_passwords {
            true => Ok(()),
            false => hide_passwords(&mut lists, transaction, table, period)?,
        };
        Ok(Ok(Campaigns { logins, lists, passwords }))
    }
}

impl Kind {
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
            "SELECT left(c.value, 20000), c.sessions, c.addresses, c.networks, c.first_seen, c.last_seen
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
    let auth = match table.beside(transaction, "auth", &["session", "success"])? {
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
