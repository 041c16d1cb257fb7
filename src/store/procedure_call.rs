//! Calls of procedures that work in batches, and the rows that these calls could not use.

use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{self, Array, Bigint, Jsonb, Text, Typed, array};
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{Oid, jsonb};

type Rejections = (Text, Array<Text>, Array<Text>, Array<Text>, Array<Text>);

thread_local! {
    static BEGIN: Statement<(Text, value::Oid, Bigint, Text), (Jsonb,)> = const { Statement::new(
        "call_begin", include_str!("../../sql/queries/procedures/call_begin.sql")) };
    static ADVANCE: Statement<(Text, value::Oid, Text, Bigint, Bigint, Jsonb)> = const { Statement::new(
        "call_advance", include_str!("../../sql/queries/procedures/call_advance.sql")) };
    static END: Statement<(Text, value::Oid, Jsonb)> = const { Statement::new(
        "call_end", include_str!("../../sql/queries/procedures/call_end.sql")) };
    static LOCKS: Statement<(), (Bigint,)> = const { Statement::new(
        "session_locks", include_str!("../../sql/queries/sessions/session_locks.sql")) };
    static REJECT: Statement<Rejections> = const { Statement::new(
        "rejected_list", include_str!("../../sql/queries/import/rejected_list.sql")) };
}

/// Identifies a call: its procedure, and its table or `Oid::INVALID`.
#[derive(Clone, Copy)]
pub struct Key {
    pub procedure: &'static str,
    pub relation: Oid,
}

/// Returns the number of advisory locks of this session, including the locks of the call itself.
pub fn locks_of_the_session(connection: &Connection) -> i64 {
    LOCKS.first(connection, (), |(count,)| count).flatten().unwrap_or_default()
}

/// Stores the start of a call. Returns the position at which an earlier unfinished call stopped.
pub fn begin(connection: &Connection, key: Key, lock_kind: u16, phase: &str) -> Option<OwnedVarlena> {
    let arguments = (key.procedure, key.relation, i64::from(lock_kind), phase);
    BEGIN.first(connection, arguments, |(resume_at,)| Some(resume_at?.into_owned())).flatten()
}

/// Stores the progress of a call. `resume_at` is the position at which the next call resumes if this call is killed. `None` leaves
/// the position unchanged.
pub fn advance(
    connection: &Connection,
    key: Key,
    phase: &str,
    (done, total): (i64, i64),
    resume_at: Option<Typed<Jsonb>>,
) {
    ADVANCE.execute(connection, (key.procedure, key.relation, phase, done, total, resume_at));
}

/// Stores the end of a call, and its report.
pub fn end(connection: &Connection, key: Key, report: &[(&'static str, i64)]) {
    let result = jsonb::object(|object| {
        for (name, number) in report {
            object.number(name, *number);
        }
    });
    END.execute(connection, (key.procedure, key.relation, result));
}

/// A row that could not be used, or only in part.
pub struct RejectedRow {
    pub relation: String,
    pub row_key: String,
    pub reason: String,
    /// The invalid value, if it can be shown.
    pub content: Option<String>,
}

/// Largest number of characters of a listed text.
const LONGEST: usize = 1_000;
/// Largest number of characters of a text in the table's key. The key has three texts. With four bytes per character, the three fit
/// on an index page.
const LONGEST_OF_KEY: usize = 200;

impl RejectedRow {
    /// Cuts the content to the length that `rejected_row` stores. Saves memory for callers that keep many rows.
    pub fn shortened(mut self) -> RejectedRow {
        self.content = self.content.map(|content| content.chars().take(LONGEST).collect());
        self
    }
}

/// Lists such rows in `rejected_row`.
pub fn reject(connection: &Connection, procedure: &str, rows: &[RejectedRow]) {
    if rows.is_empty() {
        return;
    }
    let shortened = |text: &str, longest: usize| -> String {
        text.chars().filter(|letter| *letter != '\0').take(longest).collect()
    };
    let keys = |field: fn(&RejectedRow) -> &String| {
        array(rows.iter().map(move |row| shortened(field(row), LONGEST_OF_KEY)))
    };
    let contents = rows.iter().map(|row| row.content.as_deref().map(|content| shortened(content, LONGEST)));
    let arguments = (
        procedure,
        keys(|row| &row.relation),
        keys(|row| &row.row_key),
        keys(|row| &row.reason),
        array(contents),
    );
    REJECT.execute(connection, arguments);
}
