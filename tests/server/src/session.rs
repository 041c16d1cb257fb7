//! One connection. Results are text, one line a row, as `psql -A -t` prints them. So an expectation looks like the
//! output: `["8.8.8.8|US|15169"]`. Null is `NULL`.

use postgres::{Client, SimpleQueryMessage};

pub struct Session {
    pub client: Client,
}

/// The error with which the server refused a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Session {
    /// Runs statements that must succeed.
    #[track_caller]
    pub fn run(&mut self, sql: &str) {
        if let Err(refusal) = self.try_run(sql) {
            panic!("{refusal:?} from:\n{}", shortened(sql));
        }
    }

    /// Runs statements that may be refused.
    pub fn try_run(&mut self, sql: &str) -> Result<(), Refusal> {
        self.client.batch_execute(sql).map_err(|e| refusal(&e))
    }

    /// Runs a statement, and returns `ok` or the SQLSTATE of its error. Then rolls the statement back. Parts that a
    /// procedure has committed stay.
    pub fn end_of(&mut self, statement: &str) -> String {
        let is_procedure = statement.starts_with("CALL");
        if !is_procedure {
            self.run("BEGIN");
        }
        let end = self.try_run(statement).map_or_else(|refusal| refusal.code, |()| "ok".to_owned());
        if !is_procedure {
            self.run("ROLLBACK");
        }
        end
    }

    /// Runs statements that must be refused.
    #[track_caller]
    pub fn refused(&mut self, sql: &str) -> Refusal {
        match self.try_run(sql) {
            Err(refusal) => refusal,
            Ok(()) => panic!("was expected to be refused:\n{}", shortened(sql)),
        }
    }

    /// Returns all rows of the last result, columns joined by `|`.
    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<String> {
        match self.try_rows(sql) {
            Ok(rows) => rows,
            Err(refusal) => panic!("{refusal:?} from:\n{}", shortened(sql)),
        }
    }

    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<String>, Refusal> {
        let messages = self.client.simple_query(sql).map_err(|e| refusal(&e))?;
        let mut rows = Vec::new();
        for message in messages {
            match message {
                // A new result begins. Only the rows of the last statement are returned.
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                SimpleQueryMessage::Row(row) => rows
                    .push((0..row.len()).map(|i| row.get(i).unwrap_or("NULL")).collect::<Vec<_>>().join("|")),
                _ => {}
            }
        }
        Ok(rows)
    }

    /// Returns the single row of the result.
    #[track_caller]
    pub fn one(&mut self, sql: &str) -> String {
        let mut rows = self.rows(sql);
        assert!(rows.len() == 1, "expected one row, got {rows:?} from:\n{}", shortened(sql));
        rows.remove(0)
    }

    /// Returns the single number of the result.
    #[track_caller]
    pub fn number(&mut self, sql: &str) -> i64 {
        let text = self.one(sql);
        text.parse().unwrap_or_else(|_| panic!("expected a number, got {text} from:\n{}", shortened(sql)))
    }

    /// Returns the process id of the backend of this connection.
    pub fn backend_pid(&mut self) -> i64 {
        self.number("SELECT pg_backend_pid()")
    }

    /// Copies lines of tab-separated text into a table.
    #[track_caller]
    pub fn copy(&mut self, target: &str, text: &str) {
        if let Err(refusal) = self.try_copy(target, text) {
            panic!("{refusal:?} from COPY {target}");
        }
    }

    pub fn try_copy(&mut self, target: &str, text: &str) -> Result<u64, Refusal> {
        use std::io::Write;
        let mut writer =
            self.client.copy_in(&format!("COPY {target} FROM STDIN")).map_err(|e| refusal(&e))?;
        writer.write_all(text.as_bytes()).map_err(|e| disconnected(&e.to_string()))?;
        writer.finish().map_err(|e| refusal(&e))
    }
}

fn refusal(error: &postgres::Error) -> Refusal {
    match error.as_db_error() {
        Some(db) => Refusal {
            code: db.code().code().to_owned(),
            message: db.message().to_owned(),
            detail: db.detail().map(str::to_owned),
            hint: db.hint().map(str::to_owned),
        },
        None => disconnected(&error.to_string()),
    }
}

/// 08006 is PostgreSQL's SQLSTATE of a connection failure.
fn disconnected(message: &str) -> Refusal {
    Refusal { code: "08006".to_owned(), message: message.to_owned(), detail: None, hint: None }
}

fn shortened(sql: &str) -> String {
    match sql.char_indices().nth(2000) {
        Some((end, _)) => format!("{} …", &sql[..end]),
        None => sql.to_owned(),
    }
}
