//! Stores the state of procedure calls that work in batches. Also lists the rows that these procedure calls could not use.

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

/// Identifies a procedure call by the name of the procedure and by the table that it processes. The table is `Oid::INVALID` if
/// the procedure call is not for one particular table.
#[derive(Clone, Copy)]
pub struct Key {
    pub procedure: &'static str,
    pub relation: Oid,
}

/// Returns the number of advisory locks that this session holds. The locks of the procedure call itself are included.
pub fn locks_of_the_session(connection: &Connection) -> i64 {
    LOCKS.first(connection, (), |(count,)| count).flatten().unwrap_or_default()
}

/// Stores the start of a procedure call. If an earlier procedure call did not finish, returns the position at which that call
/// stopped.
pub fn begin(connection: &Connection, key: Key, lock_kind: u16, phase: &str) -> Option<OwnedVarlena> {
    let arguments = (key.procedure, key.relation, i64::from(lock_kind), phase);
    BEGIN.first(connection, arguments, |(resume_at,)| Some(resume_at?.into_owned())).flatten()
}

/// Stores the progress of a procedure call. `resume_at` is the position at which the next call continues if this call is
/// killed. If `resume_at` is `None`, the stored position is not changed.
pub fn advance(
    connection: &Connection,
    key: Key,
    phase: &str,
    (done, total): (i64, i64),
    resume_at: Option<Typed<Jsonb>>,
) {
    ADVANCE.execute(connection, (key.procedure, key.relation, phase, done, total, resume_at));
}

/// Stores the end of a procedure call and the report about it.
pub fn end(connection: &Connection, key: Key, report: &[(&'static str, i64)]) {
    let result = jsonb::object(|object| {
        for (name, number) in report {
            object.number(name, *number);
        }
    });
    END.execute(connection, (key.procedure, key.relation, result));
}

/// A row that a procedure call could not use, or could use only in part.
pub struct RejectedRow {
    pub relation: String,
    pub row_key: String,
    pub reason: String,
    /// The invalid value, if this value can be shown to the user.
    pub content: Option<String>,
}

/// Maximum number of characters of a text in a listed row.
const LONGEST: usize = 1_000;
/// Maximum number of characters of a text that belongs to the primary key of `rejected_row`. This key has three texts. Even if
/// each character needs four bytes, all three texts fit on an index page.
const LONGEST_OF_KEY: usize = 200;

impl RejectedRow {
    /// Cuts the content to the length that `rejected_row` stores. This saves memory for callers that keep many rows in memory.
    pub fn shortened(mut self) -> RejectedRow {
        self.content = self.content.map(|content| content.chars().take(LONGEST).collect());
        self
    }
}

/// Stores rejected rows in the table `rejected_row`.
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
