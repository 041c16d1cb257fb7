//! The privileges that a role needs to store sessions, as `cowrie-load --print-grants` prints them.

use std::fmt::Write as _;

use postgres::{Client, Error};

use crate::load::TABLES;

const MISSING: &str = include_str!("../sql/missing_privileges.sql");

/// A program that stores sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `cowrie-load --follow`
    Follow,
    /// `cowrie-load FILE…`
    Files,
    /// Cowrie's own plugin `output_postgresql`
    OutputPostgresql,
}

impl Program {
    pub const ALL: [Program; 3] = [Program::Follow, Program::Files, Program::OutputPostgresql];

    pub fn name(self) -> &'static str {
        match self {
            Program::Follow => "follow",
            Program::Files => "files",
            Program::OutputPostgresql => "output_postgresql",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Program::Follow => "cowrie-load --follow",
            Program::Files => "cowrie-load with files",
            Program::OutputPostgresql => "output_postgresql in cowrie.cfg",
        }
    }
}

/// A privilege on some columns of a table.
#[derive(Clone, Debug)]
pub struct TablePrivilege {
    pub table: &'static str,
    pub privilege: &'static str,
    pub columns: Vec<&'static str>,
}

/// Returns the privileges on tables.
pub fn table_privileges(program: Program) -> Vec<TablePrivilege> {
    const SESSION: [&str; 7] = ["id", "starttime", "endtime", "sensor", "ip", "termsize", "client"];
    let of = |table, privilege, columns: &[&'static str]| TablePrivilege {
        table,
        privilege,
        columns: columns.to_vec(),
    };
    let mut all = match program {
        Program::Follow => vec![of("sessions", "INSERT", &SESSION)],
        // The plugin inserts a session when it begins, changes it later, and reads the id of each row that it stores.
        Program::OutputPostgresql => vec![
            of("sessions", "SELECT", &["id"]),
            of("sessions", "INSERT", &["id", "starttime", "sensor", "ip"]),
            of("sessions", "UPDATE", &["endtime", "termsize", "client"]),
        ],
        // Completes sessions that are stored already, and compares rows that may be stored already.
        Program::Files => vec![
            of("sessions", "SELECT", &SESSION),
            of("sessions", "INSERT", &SESSION),
            of("sessions", "UPDATE", &["endtime", "termsize", "client"]),
        ],
    };
    for (table, column) in [("sensors", "ip"), ("clients", "version")] {
        all.push(of(table, "SELECT", &["id", column]));
        all.push(of(table, "INSERT", &[column]));
    }
    for table in TABLES {
        let columns: Vec<&str> = [&["session"], table.columns()].concat();
        match program {
            Program::Follow => {}
            Program::Files => all.push(of(table.name(), "SELECT", &columns)),
            Program::OutputPostgresql => all.push(of(table.name(), "SELECT", &["id"])),
        }
        all.push(of(table.name(), "INSERT", &columns));
    }
    all
}

/// Returns the statements that grant a role the privileges of a program. `table` is the table of sessions, with its
/// schema or without.
pub fn print(program: Program, table: &str, role: &str) -> Result<String, String> {
    let (schema, name) = table.rsplit_once('.').unwrap_or(("public", table));
    let bare = |name: &str| name.trim_matches('"').to_owned();
    if bare(name) != "sessions" {
        return Err(format!(
            "invalid table: \"{table}\"; Cowrie's table is called sessions, for example honeypot.sessions"
        ));
    }
    let (schema, role) = (quoted(&bare(schema)), quoted(role));
    let mut text = format!("-- Privileges for {}. Run these statements with psql.\n", program.title());
    let mut grant = |what: &str| {
        let _ = writeln!(text, "GRANT {what} TO {role};");
    };
    grant("CONNECT ON DATABASE :\"DBNAME\"");
    if program == Program::Files {
        grant("TEMPORARY ON DATABASE :\"DBNAME\"");
    }
    grant(&format!("USAGE ON SCHEMA {schema}"));
    let privileges = table_privileges(program);
    let mut tables: Vec<&str> = privileges.iter().map(|privilege| privilege.table).collect();
    tables.dedup();
    for table in tables {
        let of_table = privileges.iter().filter(|privilege| privilege.table == table);
        let list: Vec<String> =
            of_table.map(|p| format!("{} ({})", p.privilege, p.columns.join(", "))).collect();
        grant(&format!("{} ON {schema}.{table}", list.join(", ")));
        if table != "sessions" {
            grant(&format!("USAGE ON SEQUENCE {schema}.{table}_id_seq"));
        }
    }
    if schema != "public" {
        let _ = writeln!(text, "-- The program finds the tables by the search_path of the role:");
        let _ = writeln!(text, "ALTER ROLE {role} SET search_path = {schema};");
    }
    Ok(text)
}

/// Returns the privileges on tables and sequences that the connection's role lacks.
pub fn missing(client: &mut Client, program: Program) -> Result<Vec<String>, Error> {
    let (mut tables, mut columns, mut privileges) = (Vec::new(), Vec::new(), Vec::new());
    for needed in table_privileges(program) {
        for column in needed.columns {
            tables.push(needed.table);
            columns.push(column.trim_matches('"'));
            privileges.push(needed.privilege);
        }
    }
    let rows = client.query(MISSING, &[&tables, &columns, &privileges])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn following_needs_nothing_but_insert_on_the_table_of_sessions() {
        let text = print(Program::Follow, "honeypot.sessions", "Loader \"1\"").unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("honeypot.sessions ")).collect();
        assert_eq!(
            lines,
            ["GRANT INSERT (id, starttime, endtime, sensor, ip, termsize, client) \
              ON honeypot.sessions TO \"Loader \"\"1\"\"\";"]
        );
        assert!(text.contains("GRANT USAGE ON SCHEMA honeypot "), "{text}");
        assert!(text.contains("ALTER ROLE \"Loader \"\"1\"\"\" SET search_path = honeypot;"), "{text}");
    }

    #[test]
    fn another_table_than_cowries_is_refused() {
        assert!(print(Program::Follow, "session_summaries", "r").is_err());
        assert!(print(Program::Follow, "sessions", "r").unwrap().contains("ON public.sessions TO r;"));
    }
}
