//! Calls of procedures that work in batches, and the rows that they could not use.

use pgrx::pg_sys;

use crate::pg::array::{self, Element};
use crate::pg::kept::Kept;
use crate::pg::spi::{Connection, Statement};
use crate::pg::{jsonb, text};

thread_local! {
    static BEGIN: Statement = const { Statement::new(
        "call_begin", include_str!("../../sql/queries/procedures/call_begin.sql"),
        &[pg_sys::TEXTOID, pg_sys::OIDOID, pg_sys::INT8OID, pg_sys::TEXTOID]) };
    static ADVANCE: Statement = const { Statement::new(
        "call_advance", include_str!("../../sql/queries/procedures/call_advance.sql"),
        &[pg_sys::TEXTOID, pg_sys::OIDOID, pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::JSONBOID]) };
    static END: Statement = const { Statement::new(
        "call_end", include_str!("../../sql/queries/procedures/call_end.sql"),
        &[pg_sys::TEXTOID, pg_sys::OIDOID, pg_sys::JSONBOID]) };
    static LOCKS: Statement = const { Statement::new(
        "session_locks", include_str!("../../sql/queries/sessions/session_locks.sql"), &[]) };
    static REJECT: Statement = const { Statement::new(
        "rejected_list", include_str!("../../sql/queries/import/rejected_list.sql"),
        &[pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID]) };
}

/// Which call: of which procedure, and of which table, or InvalidOid.
#[derive(Clone, Copy)]
pub struct Key {
    pub procedure: &'static str,
    pub relation: pg_sys::Oid,
}

impl Key {
    fn arguments(self) -> [Option<pg_sys::Datum>; 2] {
        [Some(text::write(self.procedure)), Some(pg_sys::Datum::from(self.relation))]
    }
}

/// How many advisory locks this session has, those of the call itself included.
pub fn locks_of_the_session(connection: &Connection) -> i64 {
    LOCKS.with(|statement| connection.run(statement, &[], |rows| rows.bigint(0, 1).unwrap_or_default()))
}

/// Notes that a call began; answers where an earlier one that did not come to its end would have gone on.
pub fn begin(connection: &Connection, key: Key, lock_kind: u16, phase: &str) -> Option<Kept> {
    let [procedure, relation] = key.arguments();
    let kind = Some(pg_sys::Datum::from(i64::from(lock_kind)));
    let arguments = [procedure, relation, kind, Some(text::write(phase))];
    BEGIN.with(|statement| {
        connection.run(statement, &arguments, |rows| rows.jsonb_datum(0, 1).map(jsonb::keep))
    })
}

/// Notes how far it is. `resume_at`: where the next call goes on if this one is killed; `None` leaves it.
pub fn advance(
    connection: &Connection,
    key: Key,
    phase: &str,
    (done, total): (i64, i64),
    resume_at: Option<pg_sys::Datum>,
) {
    let [procedure, relation] = key.arguments();
    let number = |number: i64| Some(pg_sys::Datum::from(number));
    let arguments = [procedure, relation, Some(text::write(phase)), number(done), number(total), resume_at];
    ADVANCE.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// Notes that it came to its end, and what it reports.
pub fn end(connection: &Connection, key: Key, report: &[(&'static str, i64)]) {
    let result = jsonb::object(|object| {
        for (name, number) in report {
            object.number(name, *number);
        }
    });
    let [procedure, relation] = key.arguments();
    END.with(|statement| connection.run(statement, &[procedure, relation, Some(result)], |_| ()));
}

/// A row that could not be used, or only in part.
pub struct Rejected {
    pub relation: String,
    pub row_key: String,
    pub reason: String,
    /// What made no sense, as far as it can be shown.
    pub content: Option<String>,
}

/// Characters of a text that is listed.
const LONGEST: usize = 1_000;
/// The same where the text is part of the list's key: three of them, of four bytes a character, fit an index's page.
const LONGEST_OF_KEY: usize = 200;

impl Rejected {
    /// The same with no more of it than is listed, for who keeps many.
    pub fn shortened(mut self) -> Rejected {
        self.content = self.content.map(|content| content.chars().take(LONGEST).collect());
        self
    }
}

/// Lists such rows in `rejected_row`.
pub fn reject(connection: &Connection, procedure: &str, rows: &[Rejected]) {
    if rows.is_empty() {
        return;
    }
    let shortened = |text: &str, longest: usize| {
        let shown: String = text.chars().filter(|letter| *letter != '\0').take(longest).collect();
        Some(text::write(&shown))
    };
    let key = |text: &str| shortened(text, LONGEST_OF_KEY);
    let texts = |field: &dyn Fn(&Rejected) -> Option<pg_sys::Datum>| {
        Some(array::write(Element::Text, rows.iter().map(field)))
    };
    let arguments = [
        Some(text::write(procedure)),
        texts(&|row| key(&row.relation)),
        texts(&|row| key(&row.row_key)),
        texts(&|row| key(&row.reason)),
        texts(&|row| row.content.as_deref().and_then(|content| shortened(content, LONGEST))),
    ];
    REJECT.with(|statement| connection.run(statement, &arguments, |_| ()));
}
