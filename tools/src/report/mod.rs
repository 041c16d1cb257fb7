//! Reads the data of a report in one snapshot of the database, and lays it out as one HTML page: `cowrie-report`.
//!
//! - [`table`] finds the session table and the columns that the role may read.
//! - [`sessions`] reads the sessions, grouped by address, and counts them. [`campaigns`], [`timeline`] and [`sources`] read the other
//!   sections. [`counting`] counts values for campaigns. [`passwords`] hides passwords in user names and commands.
//! - [`page`] lays out the page, with [`world`] for the map and [`chart`] for bars. [`crate::html`] escapes texts.
//!
//! A section that cannot be read, because a table, a column or a privilege is missing, is left out with a sentence. Any other
//! error ends the program, so that a scheduled run fails visibly.

pub mod campaigns;
pub mod chart;
pub mod counting;
pub mod page;
pub mod passwords;
pub mod sessions;
pub mod sources;
pub mod table;
pub mod timeline;
pub mod world;

use std::error::Error;

use jiff::{SignedDuration, Timestamp};
use postgres::error::SqlState;
use postgres::{Client, IsolationLevel, Transaction};

use campaigns::Campaigns;
use sessions::Sessions;
use sources::Sources;
use table::SessionTable;
use timeline::Timeline;

/// The arguments of a caller.
pub struct Options {
    /// The session table, with its schema or without.
    pub table: String,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// If set, the report begins this long before its time.
    pub last: Option<SignedDuration>,
    /// The time zone of a time column that has none.
    pub stored_time_zone: String,
    pub shows_passwords: bool,
    /// Number of rows of a list.
    pub rows: usize,
    /// Number of bytes of memory for the values of campaigns. If the values need more, the server counts.
    pub memory: usize,
    /// How often the page is renewed. The page then says when it is too old.
    pub renewed_every: Option<SignedDuration>,
}

/// Why a section is left out: a sentence.
#[derive(Debug)]
pub struct Absent(pub String);

/// A section, or why it is left out.
pub type Section<T> = Result<T, Absent>;

/// The period of a report. A bound that is absent does not limit the sessions.
#[derive(Clone, Copy, Default)]
pub struct Period {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// The data of a report.
pub struct Report {
    pub database: String,
    pub role: String,
    pub written_at: Timestamp,
    pub table: String,
    pub has_time: bool,
    pub period: Period,
    pub sessions: Sessions,
    pub timeline: Section<Timeline>,
    pub sensors: Section<()>,
    /// An error if the sensors are shown by their numbers.
    pub sensor_names: Section<()>,
    pub addresses: Section<()>,
    pub networks: Section<()>,
    pub campaigns: Section<Campaigns>,
    /// Number of sessions with a download that stored no file.
    pub failed_downloads: Section<u64>,
    pub sources: Sources,
}

/// Reads a report. All statements see the same snapshot, and none can write.
pub fn read(client: &mut Client, options: &Options) -> Result<Report, Box<dyn Error>> {
    let mut transaction =
        client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start()?;
    // Compiling these statements takes longer than running them. The other settings keep results equal on all servers.
    transaction.batch_execute(
        "SET LOCAL jit = off; SET LOCAL work_mem = '64MB'; SET LOCAL TimeZone = 'UTC';
         SET LOCAL default_transaction_read_only = on",
    )?;
    let row = transaction.query_one("SELECT current_database()::text, current_user::text, now()", &[])?;
    let (database, role, written_at): (String, String, Timestamp) = (row.get(0), row.get(1), row.get(2));
    let table = SessionTable::find(&mut transaction, &options.table, &options.stored_time_zone)?;
    let since = match options.last {
        Some(last) => Some(written_at.checked_sub(last)?),
        None => options.since,
    };
    let period = Period { since, until: options.until };
    if !table.has_time() && (period.since.is_some() || period.until.is_some()) {
        return Err(format!(
            "{} was attached without a time column, so a period cannot be selected",
            table.name
        )
        .into());
    }
    let sessions = Sessions::read(&mut transaction, &table, period, options.rows)?;
    let timeline = section(&mut transaction, |transaction| {
        Timeline::read(transaction, &table, period, &sessions, written_at)
    })?;
    let campaigns =
        section(&mut transaction, |transaction| Campaigns::read(transaction, &table, period, options))?;
    let failed_downloads =
        section(&mut transaction, |transaction| failed_downloads(transaction, &table, period))?;
    let sources = Sources::read(&mut transaction, &table)?;
    transaction.commit()?;
    Ok(Report {
        database,
        role,
        written_at,
        has_time: table.has_time(),
        period,
        sessions,
        timeline,
        sensors: table.sensors(),
        sensor_names: table.sensor_names(),
        addresses: table.addresses(),
        networks: table.networks(),
        campaigns,
        failed_downloads,
        sources,
        table: table.name,
    })
}

/// Counts the sessions with a download that stored no file. Cowrie stores such a download without a hash.
fn failed_downloads(
    transaction: &mut Transaction<'_>,
    table: &SessionTable,
    period: Period,
) -> Result<Section<u64>, postgres::Error> {
    if !table.has_column("id") {
        return Ok(Err(Absent("No number of failed downloads.".to_owned())));
    }
    let downloads = match table.beside(transaction, "downloads", &["session", "shasum"])? {
        Ok(downloads) => downloads,
        Err(absent) => return Ok(Err(absent)),
    };
    let (within, parameters) = table.within(&period, 1);
    let statement = format!(
        "SELECT count(DISTINCT s.id) FROM {downloads} d JOIN {} s ON s.id = d.session WHERE d.shasum IS NULL AND {within}",
        table.name
    );
    let sessions: i64 = transaction.query_one(&statement, &parameters)?.get(0);
    Ok(Ok(sessions.unsigned_abs()))
}

/// Reads a section. The section is absent if a privilege, a table, a column or a function is missing. The transaction then
/// continues from a savepoint.
pub(crate) fn section<T>(
    transaction: &mut Transaction<'_>,
    read: impl FnOnce(&mut Transaction<'_>) -> Result<Section<T>, postgres::Error>,
) -> Result<Section<T>, postgres::Error> {
    let mut savepoint = transaction.transaction()?;
    match read(&mut savepoint) {
        Ok(section) => {
            savepoint.commit()?;
            Ok(section)
        }
        Err(error) => {
            let Some(reason) = error.as_db_error().filter(|reason| is_missing(reason.code())) else {
                return Err(error);
            };
            let reason = reason.message().to_owned();
            savepoint.rollback()?;
            Ok(Err(Absent(format!("This section is left out, because the server says: {reason}."))))
        }
    }
}

fn is_missing(code: &SqlState) -> bool {
    [
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_OBJECT,
    ]
    .contains(code)
}
