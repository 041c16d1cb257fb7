//! Finds the networks and addresses from which the sessions of a table came.
//!
//! The caller passes the table and an SQL condition. The statement reads the table and evaluates the condition with the
//! caller's rights. Reading a table may run code of the table's owner, such as policies and casts of column types. So the table
//! is locked first, and the columns that are read must have built-in types. If inheritance children have the same owner as the
//! table, they are read too.

use std::ffi::CString;

use cowrie_enrich_engine::timestamp::Timestamp;

use super::ExtensionOids;
use super::session_times::{Bound, SessionTimes, argument};
use crate::error;
use crate::pg::column::Generated;
use crate::pg::relation;
use crate::pg::role::{self, acting_as};
use crate::pg::spi::{Connection, Rows, Run, Statement};
use crate::pg::sql_function::quoted_schema;
use crate::pg::user_table::{Lock, OtherRelations, TableStatement, UserTable};
use crate::pg::value::{
    self, Arguments, Array, Bigint, Boolean, Bytes, Columns, Inet, Parameters, Text, Timestamptz,
};
use crate::pg::{Oid, catalog, parser};

/// A statement that reads a session table and contains the condition of the caller.
type Analysis<'a, P, C> = TableStatement<'a, P, C>;
/// A row about a network. The first columns are the ASN, the name and the type of the network. Then come the lists of countries
/// and of types at the time of the attack. The last columns are the numbers of sessions and addresses, and the times of the
/// first and the last session. The caller passes the values on without reading them.
pub type Networks = (Bigint, Text, Text, Array<Text>, Array<Text>, Bigint, Bigint, Timestamptz, Timestamptz);
/// A row about an address. The columns are, in this order:
/// - the address, its number of sessions, the times of its first and last session
/// - values at the time of the last session: the ASN, the network's name, the country
/// - current values: the ASN, the network's name, the country
/// - the kind of the change (such as `ASN_CHANGED`), the types, whether the address is a scanner
pub type Addresses = (
    Inet,
    Bigint,
    Timestamptz,
    Timestamptz,
    Bigint,
    Text,
    Text,
    Bigint,
    Text,
    Text,
    Text,
    Array<Text>,
    Boolean,
);
type AttachedColumns = (Bytes, Bytes, Bytes, Bytes, Boolean, Boolean, Boolean);

const NETWORKS: Analysis<'static, (), Networks> =
    TableStatement::new("campaign", include_str!("../../sql/queries/analysis/campaign.sql"));

const ADDRESSES: Analysis<'static, (Timestamptz,), Addresses> = TableStatement::new(
    "campaign_addresses",
    include_str!("../../sql/queries/analysis/campaign_addresses.sql"),
);

/// Expressions for the current values of an address. They are used if the caller may read `ip_inventory`.
const NOW: &str = "i.current_asn AS asn_now, \
    CASE WHEN i.geo_country OPERATOR(pg_catalog.<>) 'XX' THEN i.geo_country END AS country_now, \
    i.ip_types AS ip_types_now, i.is_scanner";
/// The columns of `NOW` for a caller who may not read `ip_inventory`. All values are null, because the statement must not read
/// `ip_inventory`.
const NOT_NOW: &str = "NULL::pg_catalog.int8 AS asn_now, NULL::pg_catalog.text AS country_now, \
    NULL::pg_catalog.text[] AS ip_types_now, NULL::pg_catalog.bool AS is_scanner";

thread_local! {
    static ATTACHED: Statement<(value::Oid, value::Oid), AttachedColumns> = const { Statement::new(
        "campaign_attached", include_str!("../../sql/queries/analysis/campaign_attached.sql")) };
}

/// A session table that is locked for reading, and the names that the statements need.
pub struct Campaign {
    oids: ExtensionOids,
    table: UserTable,
    attached: AttachmentColumns,
    address_type: AddressType,
    schema: String,
}

/// Selects sessions according to the arguments of the caller. Texts are in the server's encoding.
pub struct Selection<'a> {
    pub condition: &'a [u8],
    /// The time zone of the stored times. It is used only if the time column has no time zone.
    pub stored_time_zone: &'a [u8],
}

/// The type to which the address column is converted when it is read.
#[derive(Clone, Copy)]
enum AddressType {
    Inet,
    Text,
}

/// The columns that were named when the table was attached. Texts are in the server's encoding. `quoted_ip` and `quoted_time`
/// are quoted for SQL.
struct AttachmentColumns {
    ip_column: CString,
    time_column: Option<CString>,
    quoted_ip: Vec<u8>,
    quoted_time: Option<Vec<u8>>,
    is_intact: bool,
    shows_names: bool,
    shows_addresses: bool,
}

impl Campaign {
    /// Locks the table for reading. Raises an error if the table is not attached, or has changed since it was attached.
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
        let table = if children.is_empty() { table } else { table.with_children() };
        Campaign { oids, table, attached, address_type, schema }
    }

    /// Finds the networks from which the sessions came, and passes their rows to `read`.
    pub fn networks<T>(
        &self,
        connection: &Connection,
        selection: &Selection<'_>,
        read: impl FnOnce(&Rows<Networks>) -> T,
    ) -> T {
        let inventories = [relation::find(self.oids.schema, c"asn_inventory")];
        self.run(connection, NETWORKS, &self.network_parts(selection), &inventories, (), read)
    }

    /// Returns the text of the SQL statement that finds the networks. The text is in the server's encoding.
    pub fn networks_text(&self, selection: &Selection<'_>) -> Vec<u8> {
        require_condition(selection.condition);
        self.table.text(&NETWORKS.with_parts(&borrowed(&self.network_parts(selection))))
    }

    /// Finds the addresses from which the sessions came, and passes their rows to `read`.
    pub fn addresses<T>(
        &self,
        connection: &Connection,
        selection: &Selection<'_>,
        since: Option<Timestamp>,
        read: impl FnOnce(&Rows<Addresses>) -> T,
    ) -> T {
        let names = [c"asn_inventory", c"ip_inventory"];
        let inventories = names.map(|name| relation::find(self.oids.schema, name));
        let mut parts = self.address_parts(selection);
        parts.push(("@period@", self.period(selection, since)));
        self.run(connection, ADDRESSES, &parts, &inventories, (argument(since),), read)
    }

    /// Runs a statement. `parts` are the texts that replace the placeholders of the statement. One of these texts is the
    /// condition of the caller.
    pub(super) fn run<P: Parameters, C: Columns, T>(
        &self,
        connection: &Connection,
        statement: Analysis<'static, P, C>,
        parts: &Parts,
        others: &[Oid],
        arguments: impl Arguments<P>,
        read: impl FnOnce(&Rows<C>) -> T,
    ) -> T {
        let condition = parts.iter().find(|(name, _)| *name == CONDITION);
        require_condition(condition.map_or(&[][..], |(_, condition)| condition));
        let parts = borrowed(parts);
        let statement = statement.with_parts(&parts).naming(OtherRelations::InExpression(others)).read_only();
        connection.run_on(&self.table, &statement, arguments, read)
    }

    pub(super) fn table(&self) -> &UserTable {
        &self.table
    }

    /// Returns the time column of the table. Returns `None` if the table was attached without a time column.
    pub(super) fn times(&self, stored_time_zone: &[u8]) -> Option<SessionTimes> {
        let (column, _) = self.table.column(self.attached.time_column.as_deref()?)?;
        Some(SessionTimes::of(column, self.attached.quoted_time.as_deref()?, stored_time_zone))
    }

    /// Returns the SQL condition that selects the sessions since the time `since`. In the statement, this time is the first
    /// parameter.
    fn period(&self, selection: &Selection<'_>, since: Option<Timestamp>) -> Vec<u8> {
        if since.is_none() {
            return b"true".to_vec();
        }
        let Some(times) = self.times(selection.stored_time_zone) else {
            error::cannot_select_by_time(&catalog::table_name(self.table.oid()))
        };
        times.is_within(Bound { time: since, parameter: "$1" }, Bound { time: None, parameter: "" })
    }

    /// Returns the texts for those placeholders that every statement has.
    pub(super) fn common_parts(&self, condition: &[u8]) -> Parts {
        vec![
            ("@schema@", self.schema.clone().into()),
            ("@address@", self.address()),
            (CONDITION, condition.to_vec()),
        ]
    }

    /// Returns the SQL expression for the address of a session. If the text is not an address, the value is 0.0.0.0/0.
    /// Otherwise the value is the same as that of `session_address()`, but this expression takes less time.
    fn address(&self) -> Vec<u8> {
        let (column, schema) = (&self.attached.quoted_ip[..], self.schema.as_bytes());
        match self.address_type {
            AddressType::Inet => [
                b"CASE WHEN pg_catalog.family(s.",
                column,
                b") OPERATOR(pg_catalog.=) 4 THEN pg_catalog.set_masklen(s.",
                column,
                b", 32) ELSE pg_catalog.host(s.",
                column,
                b")::",
                schema,
                b".parsed_address::pg_catalog.inet END",
            ]
            .concat(),
            AddressType::Text => {
                [b"s.", column, b"::pg_catalog.text::", schema, b".parsed_address::pg_catalog.inet"].concat()
            }
        }
    }

    fn network_parts(&self, selection: &Selection<'_>) -> Parts {
        let schema = &self.schema;
        // If the caller may not read the inventories, the result has no names of networks.
        let (names, inventory) = if self.attached.shows_names {
            let join = format!(
                "LEFT JOIN {schema}.asn_inventory n ON n.asn_number OPERATOR(pg_catalog.=) c.asn_number"
            );
            ("n.organization_name, n.asn_type", join)
        } else {
            let none = "NULL::pg_catalog.text AS organization_name, NULL::pg_catalog.text AS asn_type";
            (none, String::new())
        };
        let mut parts = self.common_parts(selection.condition);
        parts.extend([
            ("@seen@", self.seen(selection)),
            ("@names@", names.into()),
            ("@inventory@", inventory.into()),
        ]);
        parts
    }

    fn address_parts(&self, selection: &Selection<'_>) -> Parts {
        let schema = &self.schema;
        let (now, change, address_inventory) = if self.attached.shows_addresses {
            let join = format!(
                "LEFT JOIN {schema}.ip_inventory i ON i.ip_address OPERATOR(pg_catalog.=) a.ip_address"
            );
            let change = format!(
                "{schema}.attribution_change_between(c.asn_then, c.country_then, c.asn_now, c.country_now)"
            );
            (NOW, change, join)
        } else {
            (NOT_NOW, "NULL::pg_catalog.text".to_owned(), String::new())
        };
        let (organization_then, organization_now, inventories) = if self.attached.shows_names {
            let join = |alias: &str, asn: &str| {
                format!(
                    "LEFT JOIN {schema}.asn_inventory {alias} ON {alias}.asn_number OPERATOR(pg_catalog.=) c.{asn}"
                )
            };
            let joins = [join("t", "asn_then"), join("n", "asn_now")].join("\n");
            ("t.organization_name", "n.organization_name", joins)
        } else {
            ("NULL::pg_catalog.text", "NULL::pg_catalog.text", String::new())
        };
        let mut parts = self.common_parts(selection.condition);
        parts.extend([
            ("@seen@", self.seen(selection)),
            ("@now@", now.into()),
            ("@change@", change.into()),
            ("@address_inventory@", address_inventory.into()),
            ("@organization_then@", organization_then.into()),
            ("@organization_now@", organization_now.into()),
            ("@inventories@", inventories.into()),
        ]);
        parts
    }

    /// Returns the SQL expression for the time of a session. If the time is implausible, the value is null.
    fn seen(&self, selection: &Selection<'_>) -> Vec<u8> {
        match self.times(selection.stored_time_zone) {
            Some(times) => times.plausible_time(),
            None => b"NULL::timestamp with time zone".to_vec(),
        }
    }
}

/// The placeholders of a statement, and the texts that replace them. The texts are in the server's encoding.
pub(super) type Parts = Vec<(&'static str, Vec<u8>)>;

/// The placeholder of the caller's condition.
const CONDITION: &str = "@condition@";

fn borrowed(parts: &Parts) -> Vec<(&'static str, &[u8])> {
    parts.iter().map(|(name, part)| (*name, part.as_slice())).collect()
}

fn require_condition(condition: &[u8]) {
    if let Err(error) = parser::check_expression(condition) {
        error::not_a_condition(error);
    }
}

fn attached(oids: ExtensionOids, connection: &Connection, rel: Oid) -> Option<AttachmentColumns> {
    let column = |name: Option<Vec<u8>>| CString::new(name?).ok();
    let caller = role::current();
    acting_as(oids.owner, || {
        ATTACHED.first(
            connection,
            (rel, caller),
            |(ip, time, quoted_ip, quoted_time, is_intact, shows_names, shows_addresses)| {
                Some(AttachmentColumns {
                    ip_column: column(ip)?,
                    time_column: column(time),
                    quoted_ip: quoted_ip?,
                    quoted_time,
                    is_intact: is_intact?,
                    shows_names: shows_names?,
                    shows_addresses: shows_addresses?,
                })
            },
        )
    })
    .flatten()
}

/// Returns the type to which the address column is converted. Returns `None` if a column is missing, or if the type of a column
/// is not built in.
fn address_type(table: &UserTable, attached: &AttachmentColumns) -> Option<AddressType> {
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
    Some(if address.is::<Inet>() { AddressType::Inet } else { AddressType::Text })
}
