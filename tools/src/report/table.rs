//! The session table of a report, and the other tables in its schema.

use std::collections::HashMap;
use std::error::Error;

use postgres::Transaction;
use postgres::types::ToSql;

use super::{Absent, Period, Section};

/// An attached session table. Names are quoted for SQL.
pub struct SessionTable {
    pub oid: u32,
    pub name: String,
    /// The schema of the table, in which Cowrie's other tables are.
    schema: String,
    /// The schema of the extension.
    pub extension: String,
    address: String,
    time: Option<Time>,
    columns: HashMap<String, String>,
    has_sensor_number: bool,
    sensor_names: bool,
    shows_addresses: bool,
    shows_networks: bool,
    pub stored_time_zone: String,
}

struct Time {
    column: String,
    has_zone: bool,
}

impl SessionTable {
    /// Finds the table by its name.
    pub fn find(
        transaction: &mut Transaction<'_>,
        name: &str,
        stored_time_zone: &str,
    ) -> Result<SessionTable, Box<dyn Error>> {
        let extension: String = transaction
            .query_opt(
                "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                 WHERE e.extname = 'cowrie_enrich'",
                &[],
            )?
            .ok_or("this database does not have the extension cowrie_enrich")?
            .get(0);
        let table = transaction
            .query_opt(
                "SELECT c.oid, format('%I.%I', n.nspname, c.relname), quote_ident(n.nspname)
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)",
                &[&name],
            )?
            .ok_or_else(|| format!("table \"{name}\" does not exist, or the role may not use its schema"))?;
        let (oid, name, schema): (u32, String, String) = (table.get(0), table.get(1), table.get(2));
        let attached = transaction
            .query_opt(
                &format!(
                    "SELECT quote_ident(a.ip_column), quote_ident(a.time_column), t.atttypid = 'timestamptz'::regtype
                     FROM {extension}.attached_columns($1::oid::regclass) a
                     LEFT JOIN pg_attribute t ON t.attrelid = $1 AND t.attname = a.time_column"
                ),
                &[&oid],
            )?
            .ok_or_else(|| format!("{name} is not an attached session table"))?;
        let time = attached
            .get::<_, Option<String>>(1)
            .map(|column| Time { column, has_zone: attached.get::<_, Option<bool>>(2).unwrap_or(false) });
        let columns = readable_columns(transaction, &name)?;
        let may_read = |transaction: &mut Transaction<'_>, table: &str| -> Result<bool, postgres::Error> {
            let row = transaction.query_one(
                "SELECT has_table_privilege($1::text, 'SELECT')",
                &[&format!("{extension}.{table}")],
            )?;
            Ok(row.get(0))
        };
        let shows_addresses = may_read(transaction, "ip_inventory")?;
        let shows_networks = may_read(transaction, "asn_inventory")?;
        let has_number = columns.get("sensor").is_some_and(|kind| kind == "integer" || kind == "bigint");
        let sensors = readable_columns(transaction, &format!("{schema}.sensors"))?;
        Ok(SessionTable {
            oid,
            name,
            schema,
            extension,
            address: attached.get(0),
            time,
            has_sensor_number: has_number,
            sensor_names: has_number && sensors.contains_key("id") && sensors.contains_key("ip"),
            columns,
            shows_addresses,
            shows_networks,
            stored_time_zone: stored_time_zone.to_owned(),
        })
    }

    pub fn has_time(&self) -> bool {
        self.time.is_some()
    }

    pub fn has_column(&self, name: &str) -> bool {
        self.columns.contains_key(name)
    }

    /// Returns the expression for the address of a session. `column` has the address, under any name.
    pub fn address_of(&self, column: &str) -> String {
        self.parsed_address(&self.address_text(column))
    }

    /// Returns the expression for the address of a session as a text, which is not checked.
    pub fn address_text(&self, column: &str) -> String {
        match self.is_inet() {
            true => format!("pg_catalog.host({column})"),
            false => format!("{column}::pg_catalog.text"),
        }
    }

    /// Returns the expression for the address that a text means, null if the text is not an address.
    pub fn parsed_address(&self, text: &str) -> String {
        format!(
            "NULLIF({text}::{}.parsed_address::pg_catalog.inet, '0.0.0.0/0'::pg_catalog.inet)",
            self.extension
        )
    }

    fn is_inet(&self) -> bool {
        let bare = self.address.trim_matches('"').replace("\"\"", "\"");
        self.columns.get(&bare).is_some_and(|kind| kind == "inet")
    }

    /// Returns the address column of `s`, the alias of the table.
    pub fn address(&self) -> String {
        format!("s.{}", self.address)
    }

    /// Returns the expression for the time of a session of `s`, null if the time is implausible, as in the functions of the
    /// extension: before 1970, or more than a day in the future.
    pub fn seen(&self) -> String {
        match &self.time {
            Some(time) => {
                format!("CASE WHEN {} THEN {} END", self.is_plausible(time), self.converted(time))
            }
            None => "NULL::pg_catalog.timestamptz".to_owned(),
        }
    }

    fn converted(&self, time: &Time) -> String {
        let column = &time.column;
        if time.has_zone {
            format!("s.{column}")
        } else {
            format!("pg_catalog.timezone({}, s.{column}::pg_catalog.timestamp)", self.zone())
        }
    }

    fn is_plausible(&self, time: &Time) -> String {
        let column = &time.column;
        if time.has_zone {
            format!(
                "s.{column} >= '1970-01-01 00:00+00' AND s.{column} <= pg_catalog.now() + interval '24 hours'"
            )
        } else {
            let zone = self.zone();
            format!(
                "s.{column} >= '1970-01-01 00:00' AND s.{column} <= pg_catalog.timezone({zone}, pg_catalog.now()) + interval '24 hours'"
            )
        }
    }

    fn zone(&self) -> String {
        // PostgreSQL converts a time faster if the zone is an interval.
        if self.stored_time_zone.eq_ignore_ascii_case("utc") {
            "interval '0'".to_owned()
        } else {
            format!("'{}'::pg_catalog.text", self.stored_time_zone.replace('\'', "''"))
        }
    }

    /// Returns the condition that a session is in the period, and its parameters. `first` is the number of the first
    /// parameter.
    pub fn within<'a>(&self, period: &'a Period, first: usize) -> (String, Vec<&'a (dyn ToSql + Sync)>) {
        let Some(time) = &self.time else { return ("true".to_owned(), Vec::new()) };
        let mut parameters: Vec<&'a (dyn ToSql + Sync)> = Vec::new();
        let mut conditions = Vec::new();
        for (bound, operator, sign) in [(&period.since, ">=", '-'), (&period.until, "<", '+')] {
            let Some(bound) = bound else { continue };
            let number = first + parameters.len();
            parameters.push(bound);
            if conditions.is_empty() {
                conditions.push(self.is_plausible(time));
            }
            let column = &time.column;
            if !time.has_zone {
                // An index can be used for this comparison. No time zone differs from UTC by more than a day.
                conditions.push(format!(
                    "s.{column} {operator} pg_catalog.timezone('UTC', ${number}::pg_catalog.timestamptz) {sign} interval '48 hours'"
                ));
            }
            // The conversion of an implausible time could fail.
            conditions.push(format!(
                "CASE WHEN {} THEN {} {operator} ${number}::pg_catalog.timestamptz ELSE false END",
                self.is_plausible(time),
                self.converted(time)
            ));
        }
        if conditions.is_empty() {
            conditions.push("true".to_owned());
        }
        (conditions.join(" AND "), parameters)
    }

    /// Returns the expression for the name of the sensor of a session, and the join that it needs.
    pub fn sensor(&self) -> (&'static str, String) {
        if self.sensor_names {
            let join = format!("LEFT JOIN {}.sensors ON sensors.id = g.sensor", self.schema);
            ("COALESCE(sensors.ip::pg_catalog.text, g.sensor::pg_catalog.text)", join)
        } else {
            ("g.sensor::pg_catalog.text", String::new())
        }
    }

    /// Returns the name of a table in the schema of the session table, if the role may read these columns.
    pub fn beside(
        &self,
        transaction: &mut Transaction<'_>,
        name: &str,
        columns: &[&str],
    ) -> Result<Section<String>, postgres::Error> {
        let table = format!("{}.{name}", self.schema);
        let readable = readable_columns(transaction, &table)?;
        Ok(match columns.iter().find(|column| !readable.contains_key(**column)) {
            Some(column) => Err(Absent(format!(
                "This list is left out, because {table} has no column {column} that this role may read."
            ))),
            None => Ok(table),
        })
    }

    pub fn sensors(&self) -> Section<()> {
        match self.has_column("sensor") {
            true => Ok(()),
            false => Err(Absent(format!(
                "This section is left out, because {} has no column sensor that this role may read.",
                self.name
            ))),
        }
    }

    /// Returns an error if a number is shown instead of the name of a sensor.
    pub fn sensor_names(&self) -> Section<()> {
        match self.has_sensor_number && !self.sensor_names {
            true => Err(Absent(format!(
                "The sensors have numbers instead of names, because {}.sensors has no columns id and ip that this role may read.",
                self.schema
            ))),
            false => Ok(()),
        }
    }

    /// Returns an error if the role may not read `ip_inventory`.
    pub fn addresses(&self) -> Section<()> {
        self.may_read(self.shows_addresses, "ip_inventory")
    }

    /// Returns an error if the role may not read `asn_inventory`.
    pub fn networks(&self) -> Section<()> {
        self.may_read(self.shows_networks, "asn_inventory")
    }

    fn may_read(&self, may: bool, table: &str) -> Section<()> {
        match may {
            true => Ok(()),
            false => Err(Absent(format!(
                "This role may not read {}.{table}, so its values are left out.",
                self.extension
            ))),
        }
    }
}

/// Returns the columns that the role may read, with their types. No columns if the table does not exist.
fn readable_columns(
    transaction: &mut Transaction<'_>,
    table: &str,
) -> Result<HashMap<String, String>, postgres::Error> {
    let rows = transaction.query(
        "SELECT a.attname::text, format_type(a.atttypid, NULL)
         FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE format('%I.%I', n.nspname, c.relname) = $1 AND c.relkind = ANY ('{r,p,v,m,f}')
           AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')",
        &[&table],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
