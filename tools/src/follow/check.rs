//! Checks at each connection that sessions can be stored: tables, privileges and the unique key.

use postgres::Client;

use super::writer::Writer;
use crate::grants::{self, Program};
use crate::load::explained;

/// The reason why a connection cannot be used.
pub enum Refusal {
    /// Tables, privileges or the unique key are missing.
    Unusable(String),
    Failed(String),
}

/// Checks tables, privileges and the unique key.
pub fn checked(mut client: Client) -> Result<Writer, Refusal> {
    let failed = |error| Refusal::Failed(format!("could not check the tables: {}", explained(&error)));
    for table in ["sessions", "sensors", "clients"] {
        let row = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).map_err(failed)?;
        if !row.get::<_, bool>(0) {
            return Err(Refusal::Unusable(format!(
                "could not find the table \"{table}\" of Cowrie's schema; check dbname, and the search_path of \
                 the role and its USAGE on the schema"
            )));
        }
    }
    let missing = grants::missing(&mut client, Program::Follow).map_err(failed)?;
    if !missing.is_empty() {
        return Err(Refusal::Unusable(format!(
            "the role lacks privileges: {}; run the statements of: cowrie-load --print-grants sessions",
            missing.join(", ")
        )));
    }
    let mut writer = Writer::new(client).map_err(failed)?;
    match writer.has_unique_key().map_err(failed)? {
        true => Ok(writer),
        false => Err(Refusal::Unusable(
            "the table \"sessions\" has no unique key on id, so a session could be stored twice; run: \
             ALTER TABLE sessions ADD PRIMARY KEY (id)"
                .into(),
        )),
    }
}
