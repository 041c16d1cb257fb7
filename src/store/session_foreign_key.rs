//! Creates and validates the foreign keys of session tables.

use std::ffi::CStr;
use std::ops::ControlFlow;

use super::ExtensionOids;
use super::addresses::Inventory;
use super::backfill_sessions::{self, Table, shown_key};
use crate::error;
use crate::pg::mvcc_snapshot::Latest;
use crate::pg::role::{self, acting_as, with_settings};
use crate::pg::scan::{self, AddressValue, ReadableTable};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::subtransaction::{Failure, contained};
use crate::pg::user_table::{FrozenTable, Lock};
use crate::pg::value::{self, Bigint, Boolean, Inet, SqlType, Text};
use crate::pg::{Oid, catalog, relation};

thread_local! {
    static ADD: Statement<(value::Oid, Boolean)> = const { Statement::new(
        "foreign_key_add", include_str!("../../sql/queries/foreign_key/foreign_key_add.sql")) };
    static STATE: Statement<(value::Oid,), (value::Oid,)> = const { Statement::new(
        "foreign_key_state", include_str!("../../sql/queries/foreign_key/foreign_key_state.sql")) };
    static UNSAFE: Statement<(), (Bigint, Text)> = const { Statement::new(
        "foreign_keys_unsafe", include_str!("../../sql/queries/foreign_key/foreign_keys_unsafe.sql")) };
    static READY: Statement<(value::Oid,), (Boolean,)> = const { Statement::new(
        "foreign_key_ready", include_str!("../../sql/queries/foreign_key/foreign_key_ready.sql")) };
}

/// The name of the foreign key. Every session table uses this name.
const KEY: &CStr = c"cowrie_enrich_address";

/// Creates a foreign key on the address column of a table. The foreign key refers to `ip_inventory`. The caller must own the
/// table.
///
/// No role permanently has the privilege REFERENCES on `ip_inventory`. PostgreSQL checks a foreign key with the rights of the
/// owner of the referenced table, and may use an implicit cast to convert the value. So the owner of the column's type could
/// run code with these rights. Therefore the type of the column must be exactly `pg_catalog.inet`. The extension's owner grants
/// the privilege to the caller and revokes it in the same transaction. So no other session sees the grant.
///
/// Code of the caller must not run between the grant and the revoke. Therefore the foreign key is `NOT VALID`. A partitioned
/// table gets its foreign key only after all partitions have a valid one. The foreign keys of the partitions are validated
/// before the grant. The reason is that planning the validation query can run code of the table's owner.
///
/// Takes the same locks as ALTER TABLE in the same order. The table is locked first, then `ip_inventory`.
pub fn create(oids: ExtensionOids, rel: Oid, column: &CStr) {
    require_address_column(rel, column);
    if catalog::is_partitioned(rel) {
        Connection::with(oids.schema, |connection| {
            for part in acting_as(oids.owner, || not_valid(connection, rel)) {
                validate_as_owner(connection, part);
            }
        });
    }
    relation::lock_against_writers(rel);
    // The column is checked again. From here on, the table is locked, so no other session can change the column.
    require_address_column(rel, column);
    if catalog::has_constraint(rel, KEY) {
        error::has_key_already(&catalog::table_name(rel));
    }
    relation::lock_against_writers(oids.inventory);
    Connection::with(oids.schema, |connection| {
        let is_partitioned = catalog::is_partitioned(rel);
        if is_partitioned && !partitions_are_ready(oids, connection, rel) {
            error::partitions_lack_keys(&catalog::table_name(rel));
        }
        let caller = role::current();
        let inventory = catalog::quoted_table_name(oids.inventory);
        let change_grant = |verb: &[u8], preposition: &[u8]| {
            let role = catalog::quoted_role_name(caller);
            acting_as(oids.owner, || {
                connection.run_utility(
                    &[verb, b" REFERENCES (ip_address) ON ", &inventory, preposition, &role].concat(),
                );
            });
        };
        let needs_grant = !catalog::is_superuser(caller);
        if needs_grant {
            change_grant(b"GRANT", b" TO ");
        }
        with_settings(PINNED, || {
            connection.run_utility(
                &[
                    b"ALTER TABLE ".as_slice(),
                    &catalog::quoted_table_name(rel),
                    b" ADD CONSTRAINT cowrie_enrich_address FOREIGN KEY (",
                    &catalog::quoted_name(column),
                    b") REFERENCES ",
                    &inventory,
                    b" (ip_address) DEFERRABLE INITIALLY DEFERRED",
                    if is_partitioned { b"" } else { b" NOT VALID" },
                ]
                .concat(),
            );
        });
        if needs_grant {
            change_grant(b"REVOKE", b" FROM ");
        }
        // The statement refers to the table by name. If the schema was renamed at the same time, the statement has changed
        // another table. In this case, this table lacks the constraint.
        if !catalog::has_constraint(rel, KEY) {
            error::vanished(&catalog::table_name(rel));
        }
        if let Some(key) = acting_as(oids.owner, || unsafe_keys(connection)).first {
            error::unsafe_key(&key);
        }
    });
}

const PINNED: &[(&CStr, &CStr)] = &[(c"search_path", c"pg_catalog, pg_temp")];

/// Raises an error if the table or column cannot have the foreign key.
fn require_address_column(rel: Oid, column: &CStr) {
    let name = catalog::table_name(rel);
    if !catalog::is_table(rel) {
        error::not_a_table(&name);
    }
    if !catalog::owns_table(rel) {
        error::not_owner(&name);
    }
    let shown = column.to_string_lossy();
    match catalog::column_type(rel, column) {
        None => error::no_address_column(&name, &shown),
        Some(found) if found.oid != Inet::OID || found.is_generated => error::no_key_for(&name, &shown),
        Some(_) => {}
    }
}

/// Returns true if all partitions have a valid foreign key. In this case, the foreign key can be added to the partitioned table
/// without reading rows.
fn partitions_are_ready(oids: ExtensionOids, connection: &Connection, rel: Oid) -> bool {
    acting_as(oids.owner, || READY.first(connection, (rel,), |(is_ready,)| is_ready)).flatten() == Some(true)
}

/// Foreign keys whose checks can run code of other roles with the rights of the extension's owner.
pub struct UnsafeKeys {
    pub count: i64,
    /// Description of one of these foreign keys. Messages contain this text.
    pub first: Option<String>,
}

/// Reads the foreign keys in the view `unsafe_foreign_keys`.
pub fn unsafe_keys(connection: &Connection) -> UnsafeKeys {
    let (count, first) = UNSAFE.first(connection, (), |keys| keys).unwrap_or_default();
    UnsafeKeys { count: count.unwrap_or_default(), first }
}

/// The timeout is short. While this process waits for a strong lock, other writers of the table wait too.
const MOMENT: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"200ms"), (c"search_path", c"pg_catalog, pg_temp")];

/// Adds the missing foreign keys of a table as NOT VALID, with the rights of the caller. If `whole` is true, adds the foreign
/// key of the partitioned table itself. In this case, all partitions must already have a valid foreign key. Waits only for a
/// short time for locks.
pub fn add(connection: &Connection, rel: Oid, whole: bool) -> Result<(), Failure> {
    contained(|| {
        with_settings(MOMENT, || ADD.execute(connection, (rel, whole)));
    })
}

/// Returns the tables whose foreign key is not validated. These are the table itself or some of its partitions.
pub fn not_valid(connection: &Connection, rel: Oid) -> Vec<Oid> {
    STATE.run(connection, (rel,), |rows| rows.iter().filter_map(|(table,)| table).collect())
}

/// Validates the foreign key of a table, with the rights of the table's owner. Returns true if the addresses of all sessions
/// are in the inventory.
pub fn validate(connection: &Connection, table: Oid) -> bool {
    match contained(|| validate_as_owner(connection, table)) {
        Ok(()) => true,
        Err(failure) if failure.was_reference() => false,
        Err(failure) => failure.raise(),
    }
}

fn validate_as_owner(connection: &Connection, table: Oid) {
    const STATEMENT: &str = include_str!("../../sql/queries/foreign_key/foreign_key_validate.sql");
    if let Some(frozen) = FrozenTable::lock(table, Lock::Validate) {
        frozen.table().as_owner(|| frozen.run_utility(connection, STATEMENT, &[]));
    }
}

/// Finds those sessions of a table whose address is not in the inventory. For each of them, passes two texts to `read`: one
/// identifies the session, and the other is its address. Returns the number of all sessions in the table.
pub fn orphans(oids: ExtensionOids, table: &Table, mut read: impl FnMut(String, String)) -> i64 {
    let Some(readable) = ReadableTable::open(table.oid) else { return 0 };
    let Some(ip) = readable.column(&table.ip_column) else { return 0 };
    if !ip.is::<Inet>() {
        return 0;
    }
    let key = table.key_column.as_deref().and_then(|name| readable.column(name));
    let latest = Latest::take();
    let mut inventory = Inventory::open(oids, latest.view());
    let mut sessions = 0;
    readable.rows(latest.view(), |row| {
        sessions += 1;
        if let Some(AddressValue::Inet(inet)) = scan::value(row, ip)
            // The value in the column must be exactly equal to the key in the inventory. Another way to write the same host is
            // not enough.
            && !(inet.is_canonical && backfill_sessions::has(&mut inventory, inet.address))
        {
            read(shown_key(row, key), scan::shown(row, ip).unwrap_or_default());
        }
        ControlFlow::Continue(())
    });
    sessions
}
