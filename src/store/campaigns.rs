//! The networks from which the sessions of a table came.
//!
//! The caller names the table and writes the condition. The statement reads the table and evaluates the condition
//! with the caller's rights. Reading a table may run code of its owner: policies and casts of column types. So the
//! table is locked first, and its columns must have built-in types. Inheritance children are read too, if they have
//! the same owner.

use std::ffi::CString;

use super::ExtensionOids;
use crate::error;
use crate::pg::column::Generated;
use crate::pg::relation;
use crate::pg::role::{self, acting_as};
use crate::pg::spi::{Connection, Rows, Run, Statement};
use crate::pg::sql_function::quoted_schema;
use crate::pg::user_table::{Lock, OtherRelations, TableStatement, UserTable};
use crate::pg::value::{self, Bigint, Boolean, Bytes, Inet, Text, Timestamptz};
use crate::pg::{Oid, catalog, parser};

/// The statement that analyses a table, with the caller's condition.
type Analysis<'a> = TableStatement<'a, (), Networks>;
/// A network, its name and type, country and type at the time of the attack, sessions, addresses, first and
/// last seen.
pub type Networks = (Bigint, Text, Text, Text, Text, Bigint, Bigint, Timestamptz, Timestamptz);
type AttachedColumns = (Bytes, Bytes, Bytes, Bytes, Boolean, Boolean);

thread_local! {
    static ATTACHED: Statement<(value::Oid, value::Oid), AttachedColumns> = const { Statement::new(
        "campaign_attached", include_str!("../../sql/queries/analysis/campaign_attached.sql")) };
}

/// A table whose sessions can be read, and the names that the statement needs.
pub struct Campaign {
    oids: ExtensionOids,
    table: UserTable,
    parts: [(&'static str, Vec<u8>); 6],
}

/// The columns with which a table is attached. Texts are in the server's encoding. `quoted_ip` and `quoted_time` are
/// quoted for SQL.
struct AttachmentColumns {
    ip_column: CString,
    time_column: Option<CString>,
    quoted_ip: Vec<u8>,
    quoted_time: Option<Vec<u8>>,
    is_intact: bool,
    shows_names: bool,
}

impl Campaign {
    /// Locks the table for reading. Raises an error if it is not attached, or has changed since.
    pub fn of(oids: ExtensionOids, connection: &Connection, rel: Oid) -> Campaign {
        let name = catalog::table_name(rel);
        let Some(table) = UserTable::lock(rel, Lock::Read) else { error::not_attached(&name) };
        let Some(attached) = attached(oids, connection, rel) else { error::not_attached(&name) };
        let Some(address_type) = address_type(&table, &attached) else { error::not_intact(&name) };
        let children = if table.has_partitions() { Vec::new() } else { table.descendants() };
        if children.iter().any(|child| catalog::owner_of_table(*child) != Some(table.owner()))
            || !attached.is_intact
        {
            error::children_not_attached(&name);
        }
        let schema = quoted_schema(oids.schema).unwrap_or_default();
        let seen = match &attached.quoted_time {
            // Some implausible times cannot even be converted. A comparison never fails.
            Some(column) => [
                b"CASE WHEN s.",
                column.as_slice(),
                b" OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'::timestamp with time zone AND s.",
                column,
                b" OPERATOR(pg_catalog.<=) (pg_catalog.now() OPERATOR(pg_catalog.+) '24:00:00'::interval) \
                  THEN s.",
                column,
                b"::timestamp with time zone END",
            ]
            .concat(),
            None => b"NULL::timestamp with time zone".to_vec(),
        };
        // A caller with a right on the sessions but none on the inventories gets no names.
        let (names, inventory) = if attached.shows_names {
            let join = format!(
                "LEFT JOIN {schema}.asn_inventory n ON n.asn_number OPERATOR(pg_catalog.=) c.asn_number"
            );
            ("n.organization_name, n.asn_type", join)
        } else {
            let none = "NULL::pg_catalog.text AS organization_name, NULL::pg_catalog.text AS asn_type";
            (none, String::new())
        };
        let parts = [
            ("@names@", names.into()),
            ("@schema@", schema.into()),
            ("@ip@", attached.quoted_ip),
            ("@type@", address_type.into()),
            ("@seen@", seen),
            ("@inventory@", inventory.into()),
        ];
        let table = if children.is_empty() { table } else { table.with_children() };
        Campaign { oids, table, parts }
    }

    /// Passes the networks to `read`.
    pub fn run<T>(
        &self,
        connection: &Connection,
        condition: &[u8],
        read: impl FnOnce(&Rows<Networks>) -> T,
    ) -> T {
        let names = [relation::find(self.oids.schema, c"asn_inventory")];
        self.statement(condition, &names, |statement| connection.run_on(&self.table, statement, (), read))
    }

    /// Returns the statement, in the server's encoding.
    pub fn text(&self, condition: &[u8]) -> Vec<u8> {
        self.statement(condition, &[], |statement| self.table.text(statement))
    }

    fn statement<T>(&self, condition: &[u8], others: &[Oid], work: impl FnOnce(&Analysis<'_>) -> T) -> T {
        if !parser::is_expression(condition) {
            error::not_an_expression();
        }
        const STATEMENT: Analysis<'static> =
            TableStatement::new("campaign", include_str!("../../sql/queries/analysis/campaign.sql"));
        let parts: Vec<(&'static str, &[u8])> =
            self.parts.iter().map(|(name, part)| (*name, part.as_slice())).collect();
        let parts = [parts.as_slice(), &[("@condition@", condition)]].concat();
        work(&STATEMENT.with_parts(&parts).naming(OtherRelations::InExpression(others)).read_only())
    }
}

fn attached(oids: ExtensionOids, connection: &Connection, rel: Oid) -> Option<AttachmentColumns> {
    let column = |name: Option<Vec<u8>>| CString::new(name?).ok();
    let caller = role::current();
    acting_as(oids.owner, || {
        ATTACHED.first(
            connection,
            (rel, caller),
            |(ip, time, quoted_ip, quoted_time, is_intact, shows_names)| {
                Some(AttachmentColumns {
                    ip_column: column(ip)?,
                    time_column: column(time),
                    quoted_ip: quoted_ip?,
                    quoted_time,
                    is_intact: is_intact?,
                    shows_names: shows_names?,
                })
            },
        )
    })
    .flatten()
}

/// Returns the type for reading addresses. `None`: a column is missing, or its type is not built in.
fn address_type(table: &UserTable, attached: &AttachmentColumns) -> Option<&'static str> {
    let column = |name| table.column(name).filter(|(_, generated)| *generated == Generated::Never);
    let text = |name| column(name).filter(|(column, _)| column.is_text_like());
    column(c"snapshot_asn").filter(|(column, _)| column.is::<Bigint>())?;
    text(c"snapshot_country")?;
    text(c"snapshot_ip_type")?;
    if let Some(time) = &attached.time_column {
        table
            .column(time)
            .filter(|(column, generated)| *generated != Generated::Virtual && column.holds_times())?;
    }
    let (address, _) = column(&attached.ip_column).filter(|(column, _)| column.holds_addresses())?;
    Some(if address.is::<Inet>() { "inet" } else { "text" })
}
