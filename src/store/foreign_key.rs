//! Foreign keys of session tables.

use std::ffi::CStr;
use std::ops::ControlFlow;

use pgrx::pg_sys;

use super::Home;
use super::addresses::Inventory;
use super::backfill::{self, Table, shown_key};
use crate::pg::role::with_settings;
use crate::pg::scan::{self, Readable, Value};
use crate::pg::snapshot::Latest;
use crate::pg::spi::{Connection, Statement};
use crate::pg::subtransaction::{Failure, contained};
use crate::pg::user_table::{FrozenTable, Lock};

thread_local! {
    static ADD: Statement = const { Statement::new(
        "foreign_key_add", include_str!("../../sql/queries/foreign_key_add.sql"), &[pg_sys::OIDOID, pg_sys::BOOLOID]) };
    static STATE: Statement = const { Statement::new(
        "foreign_key_state", include_str!("../../sql/queries/foreign_key_state.sql"), &[pg_sys::OIDOID]) };
}

/// Writers of a table queue behind whoever waits for a lock that they mind: not for long, then.
const MOMENT: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"200ms"), (c"search_path", c"pg_catalog, pg_temp")];

/// Adds what a table lacks of its foreign key, not validated, with the rights of whoever calls; of a partitioned table as a
/// `whole` once its partitions' are valid. Waits for locks a moment only.
pub fn add(connection: &Connection, rel: pg_sys::Oid, whole: bool) -> Result<(), Failure> {
    contained(|| {
        with_settings(MOMENT, || {
            let arguments = [Some(pg_sys::Datum::from(rel)), Some(pg_sys::Datum::from(whole))];
            ADD.with(|statement| connection.run(statement, &arguments, |_| ()));
        });
    })
}

/// Those tables among a table and its partitions whose foreign key is not validated.
pub fn not_valid(connection: &Connection, rel: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    STATE.with(|statement| {
        connection.run(statement, &[Some(pg_sys::Datum::from(rel))], |rows| {
            let table = |row| u32::try_from(rows.bigint(row, 1)?).ok().map(pg_sys::Oid::from);
            (0..rows.count).filter_map(table).collect()
        })
    })
}

/// Validates a table's foreign key, as its owner; answers whether all sessions point somewhere.
pub fn validate(connection: &Connection, table: pg_sys::Oid) -> bool {
    const STATEMENT: &str = include_str!("../../sql/queries/foreign_key_validate.sql");
    let validated = contained(|| {
        let Some(frozen) = FrozenTable::lock(table, Lock::Validate) else { return };
        frozen.table().as_owner(|| frozen.run_utility(connection, STATEMENT, &[]));
    });
    match validated {
        Ok(()) => true,
        Err(failure) if failure.was_reference() => false,
        Err(failure) => failure.raise(),
    }
}

/// Hands over the sessions of a table that point at no address, each with what finds it there and its address; answers how
/// many sessions there are.
pub fn orphans(home: Home, table: &Table, mut read: impl FnMut(String, String)) -> i64 {
    let Some(readable) = Readable::open(table.oid) else { return 0 };
    let Some(ip) = readable.column(&table.ip_column) else { return 0 };
    if ip.type_oid != pg_sys::INETOID {
        return 0;
    }
    let key = table.key_column.as_deref().and_then(|name| readable.column(name));
    let latest = Latest::take();
    let mut inventory = Inventory::open(home, latest.raw());
    let mut sessions = 0;
    readable.rows(latest.raw(), |row| {
        sessions += 1;
        if let Some(Value::Inet(inet)) = scan::value(row, ip)
            // The column must hold the very key, not only what names the same host.
            && !(inet.is_canonical && backfill::has(&mut inventory, inet.address))
        {
            read(shown_key(row, key), scan::shown(row, ip).unwrap_or_default());
        }
        ControlFlow::Continue(())
    });
    sessions
}
