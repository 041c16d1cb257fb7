//! Catalog lookups: the extension, databases, roles and tables.

use std::ffi::{CStr, CString, c_char, c_int};

use pgrx::pg_sys;

use super::text;

/// The extension in a database.
pub struct Extension {
    pub schema: pg_sys::Oid,
    pub owner: pg_sys::Oid,
    /// Version of its SQL objects.
    pub version: String,
}

/// Returns the extension in this database, or `None` if it is not installed.
pub fn extension() -> Option<Extension> {
    let mut found = None;
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: pg_extension is open during the scan. Each row begins with the fixed-width fields that are read. The version in a
    // row is a text that is never null. The name in the scan key is padded to a full NameData.
    unsafe {
        let mut name = pg_sys::NameData::default();
        pg_sys::namestrcpy(&mut name, c"cowrie_enrich".as_ptr());
        let relation =
            pg_sys::table_open(pg_sys::ExtensionRelationId, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        pg_sys::ScanKeyInit(
            &mut key,
            pg_sys::Anum_pg_extension_extname as i16,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_NAMEEQ),
            pg_sys::Datum::from(&raw mut name),
        );
        let index = pg_sys::Oid::from(pg_sys::ExtensionNameIndexId);
        let scan = pg_sys::systable_beginscan(relation, index, true, std::ptr::null_mut(), 1, &mut key);
        let tuple = pg_sys::systable_getnext(scan);
        if !tuple.is_null() {
            let form: *mut pg_sys::FormData_pg_extension = pg_sys::GETSTRUCT(tuple).cast();
            let mut is_null = false;
            let number = pg_sys::Anum_pg_extension_extversion as c_int;
            let version = pg_sys::heap_getattr(tuple, number, (*relation).rd_att, &mut is_null);
            found = Some(Extension {
                schema: (*form).extnamespace,
                owner: (*form).extowner,
                version: String::from_utf8_lossy(text::bytes(version)).into_owned(),
            });
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    }
    found
}

/// A database that accepts connections and is not a template. Templates are left out, because they have no clients, and because
/// a template can be copied only while no process is connected to it.
#[derive(Clone, Debug)]
pub struct Database {
    pub oid: pg_sys::Oid,
    pub name: String,
}

/// Returns all databases that allow connections, except templates. Reads only pg_database, which is a shared catalog, so a
/// process that is connected to no database can call this function. Must be called inside a transaction.
pub fn databases() -> Vec<Database> {
    let mut databases = Vec::new();
    // SAFETY: this code reads pg_database as the autovacuum launcher does. The catalog scan takes its own snapshot.
    unsafe {
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let form: *mut pg_sys::FormData_pg_database = pg_sys::GETSTRUCT(tuple).cast();
            // The connection limit -2 means that a DROP DATABASE was interrupted. Servers set this value from version 15.4 on.
            if (*form).datallowconn && !(*form).datistemplate && (*form).datconnlimit != -2 {
                let name = text::from_c((*form).datname.data.as_ptr()).unwrap_or_default().into_owned();
                databases.push(Database { oid: (*form).oid, name });
            }
        }
        end_scan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    }
    databases
}

/// # Safety
/// The scan is open. The caller does not use the scan after this call.
unsafe fn end_scan(scan: pg_sys::TableScanDesc) {
    // SAFETY: the caller promises that the scan is open. The catalog scan registered its own snapshot, and table_endscan
    // releases that snapshot.
    unsafe { pg_sys::table_endscan(scan) }
}

/// Returns the database of this process.
pub fn own_database() -> pg_sys::Oid {
    // SAFETY: reads a static.
    unsafe { pg_sys::MyDatabaseId }
}

/// Returns the name of a database. Must be called inside a transaction. The encoding of the name is unknown, because CREATE
/// DATABASE stores the name in the encoding of the database in which it ran. See [`text::distinct`].
pub fn database_name(database: pg_sys::Oid) -> Option<String> {
    // SAFETY: a palloc'ed string or null.
    unsafe {
        let name = pg_sys::get_database_name(database);
        (!name.is_null()).then(|| text::distinct(CStr::from_ptr(name).to_bytes()))
    }
}

/// Returns the OID of a role by its name.
pub fn role(name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: get_role_oid looks the name up in the system cache. It returns InvalidOid for a missing role.
    let oid = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// Returns the OID of a schema by its name.
pub fn schema(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: get_namespace_oid looks the name up in the system cache. It returns InvalidOid for a missing schema.
    let oid = unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// Returns the OID of the database with this name, if the current user owns the database. Must be called inside a transaction.
pub fn owned_database(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: get_database_oid returns InvalidOid for a missing database. `owns` returns false if another role owns the
    // database.
    unsafe {
        let database = pg_sys::get_database_oid(name.as_ptr(), true);
        (database != pg_sys::InvalidOid && owns(database)).then_some(database)
    }
}

#[cfg(feature = "pg15")]
unsafe fn owns(database: pg_sys::Oid) -> bool {
    // SAFETY: a system cache lookup.
    unsafe { pg_sys::pg_database_ownercheck(database, pg_sys::GetUserId()) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn owns(database: pg_sys::Oid) -> bool {
    // SAFETY: a system cache lookup.
    unsafe { pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, pg_sys::GetUserId()) }
}

unsafe extern "C-unwind" {
    /// src/backend/catalog/pg_constraint.c; pgrx has no binding.
    fn get_relation_constraint_oid(table: pg_sys::Oid, name: *const c_char, missing_ok: bool) -> pg_sys::Oid;
}

/// Returns true if a table has a constraint with this name.
pub fn has_constraint(table: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: get_relation_constraint_oid scans a catalog, and returns InvalidOid for a missing constraint. The guard handles
    // the errors that any scan may raise.
    let found = unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| get_relation_constraint_oid(table, name.as_ptr(), true))
    };
    found != pg_sys::InvalidOid
}

/// Type of a column of a table, from the catalogs.
pub struct ColumnType {
    pub oid: pg_sys::Oid,
    pub is_generated: bool,
}

/// Returns the type of the column with this name, if the table has such a column.
pub fn column_type(table: pg_sys::Oid, name: &CStr) -> Option<ColumnType> {
    // SAFETY: these functions look the column up in the system caches. They return 0 for a missing column.
    unsafe {
        let number = pg_sys::get_attnum(table, name.as_ptr());
        (number > 0).then(|| ColumnType {
            oid: pg_sys::get_atttype(table, number),
            is_generated: pg_sys::get_attgenerated(table, number) != 0,
        })
    }
}

/// Returns true for a table, partitioned or plain.
pub fn is_table(relation: pg_sys::Oid) -> bool {
    // SAFETY: get_rel_relkind looks the relation up in the system cache. It returns 0 for a missing relation.
    let kind = unsafe { pg_sys::get_rel_relkind(relation) } as u8;
    kind == pg_sys::RELKIND_RELATION || kind == pg_sys::RELKIND_PARTITIONED_TABLE
}

/// Returns true for a partitioned table.
pub fn is_partitioned(relation: pg_sys::Oid) -> bool {
    // SAFETY: as above.
    unsafe { pg_sys::get_rel_relkind(relation) as u8 == pg_sys::RELKIND_PARTITIONED_TABLE }
}

/// Returns true if a role is a superuser.
pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a system cache lookup.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Returns a role's name, quoted for SQL, in the server's encoding. Raises an error if the role does not
/// exist.
pub fn quoted_role_name(role: pg_sys::Oid) -> Vec<u8> {
    // SAFETY: GetUserNameFromId returns a palloc'ed string. The quoted name is NUL-terminated, and its bytes are copied.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, false);
        CStr::from_ptr(pg_sys::quote_identifier(name)).to_bytes().to_vec()
    }
}

/// Returns a name, quoted for SQL.
pub fn quoted_name(name: &CStr) -> Vec<u8> {
    // SAFETY: a NUL-terminated string; the result is copied.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())).to_bytes().to_vec() }
}

/// Returns true if the current user owns a table. Raises an error if the table does not exist.
#[cfg(feature = "pg15")]
pub fn owns_table(table: pg_sys::Oid) -> bool {
    // SAFETY: a system cache lookup.
    unsafe { pg_sys::pg_class_ownercheck(table, pg_sys::GetUserId()) }
}

/// Returns true if the current user owns a table. Raises an error if the table does not exist.
#[cfg(not(feature = "pg15"))]
pub fn owns_table(table: pg_sys::Oid) -> bool {
    // SAFETY: a system cache lookup.
    unsafe { pg_sys::object_ownercheck(pg_sys::RelationRelationId, table, pg_sys::GetUserId()) }
}

/// Returns a table's name for messages, or its OID if the table was dropped.
pub fn table_name(table: pg_sys::Oid) -> String {
    // SAFETY: a palloc'ed string or null.
    let name = unsafe { text::from_c(pg_sys::get_rel_name(table)) };
    name.map_or_else(|| table.to_u32().to_string(), |name| format!("\"{name}\""))
}

/// Returns a table's name with its schema, quoted for SQL, in the server's encoding.
pub fn quoted_table_name(table: pg_sys::Oid) -> Vec<u8> {
    // SAFETY: the table and its schema exist, so both names are palloc'ed strings. quote_qualified_identifier copies both
    // names.
    unsafe {
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(table));
        let name = pg_sys::get_rel_name(table);
        if schema.is_null() || name.is_null() {
            return Vec::new();
        }
        CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, name)).to_bytes().to_vec()
    }
}

/// Returns whether this server is a standby and cannot write.
pub fn is_standby() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Returns true if row-level security filters the rows of a table when this role reads the table. Forced row-level security
/// also applies to the owner of the table.
pub fn is_filtered(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: check_enable_rls looks the table and the role up in the system caches. Because its argument noError is true, it
    // returns a result for any setting of row_security.
    unsafe {
        pg_sys::check_enable_rls(table, role, true)
            == pg_sys::CheckEnableRlsResult::RLS_ENABLED as std::ffi::c_int
    }
}

/// Returns the owner of a table.
pub fn owner_of_table(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: the tuple comes from the system cache. It is released after one of its fixed-width fields was read.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::RELOID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(table));
        if tuple.is_null() {
            return None;
        }
        let form: *mut pg_sys::FormData_pg_class = pg_sys::GETSTRUCT(tuple).cast();
        let owner = (*form).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Some(owner)
    }
}

/// Returns the name of a role, in the server's encoding.
pub fn role_name(role: pg_sys::Oid) -> Option<Vec<u8>> {
    // SAFETY: GetUserNameFromId returns a palloc'ed string, or null if the role does not exist.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_bytes().to_vec())
    }
}

/// Returns a table and all tables above it, from the nearest parent to the root. For a partition, these are the partitioned
/// tables. If a table inherits from several tables, only its first parent is followed.
pub fn table_and_parents(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut tables = vec![table];
    // SAFETY: get_partition_ancestors reads the catalogs, and the guard handles an ERROR. The result is null or a list of OIDs
    // in the current memory context.
    unsafe {
        let list = pg_sys::ffi::pg_guard_ffi_boundary(|| get_partition_ancestors(table));
        tables.extend(oids(list));
    }
    tables
}

/// Returns a table with its partitions and inheritance children of all levels, ordered by level. Locks all of these tables,
/// except the table itself, in the mode `lock`.
pub(super) fn table_and_descendants(table: pg_sys::Oid, lock: u32) -> Vec<pg_sys::Oid> {
    // SAFETY: find_all_inheritors reads the catalogs, and the guard handles an ERROR. The result is a list of OIDs in the
    // current memory context.
    unsafe {
        let list = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors(table, lock as pg_sys::LOCKMODE, std::ptr::null_mut())
        });
        oids(list).collect()
    }
}

/// # Safety
/// The list is null or holds OIDs.
pub(super) unsafe fn oids(list: *mut pg_sys::List) -> impl Iterator<Item = pg_sys::Oid> {
    // SAFETY: as the caller promises.
    let length = if list.is_null() { 0 } else { unsafe { (*list).length as usize } };
    (0..length).map(move |i| unsafe {
        // SAFETY: one of the list's elements.
        (*(*list).elements.add(i)).oid_value
    })
}

/// Returns true if a column accepts null. Returns `None` if the table has no such column.
pub fn accepts_null(table: pg_sys::Oid, column: i16) -> Option<bool> {
    // SAFETY: the tuple comes from the system cache. It is released after one of its fixed-width fields was read.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::ATTNUM as c_int;
        let tuple = pg_sys::SearchSysCache2(cache, pg_sys::Datum::from(table), pg_sys::Datum::from(column));
        if tuple.is_null() {
            return None;
        }
        let form: *mut pg_sys::FormData_pg_attribute = pg_sys::GETSTRUCT(tuple).cast();
        let accepts = !(*form).attnotnull;
        pg_sys::ReleaseSysCache(tuple);
        Some(accepts)
    }
}

unsafe extern "C-unwind" {
    /// Defined in src/backend/catalog/partition.c. Declared here because pgrx has no binding for this function. If the relation
    /// is not a partition, the function follows the first inheritance parent.
    fn get_partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List;

    /// Defined in src/backend/catalog/pg_inherits.c. Declared here because pgrx has no binding for this function. The function
    /// locks all relations that it finds, except the parent.
    fn find_all_inheritors(
        parent: pg_sys::Oid,
        lock: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// Returns true if a superuser is connected to the database of this process with a client program of this name. The client
/// itself reported the name of the program. Must be called inside a transaction. When the transaction ends, the server frees
/// the statistics that were read.
pub fn has_superusers_client(name: &CStr) -> bool {
    // SAFETY: the entries are copies in this process's memory. The texts in an entry are NUL-terminated.
    unsafe {
        (1..=pg_sys::pgstat_fetch_stat_numbackends()).any(|n| {
            let entry = local_entry(n);
            !entry.is_null()
                && (*entry).backendStatus.st_databaseid == own_database()
                && CStr::from_ptr((*entry).backendStatus.st_appname) == name
                && pg_sys::superuser_arg((*entry).backendStatus.st_userid)
        })
    }
}

#[cfg(feature = "pg15")]
unsafe fn local_entry(n: c_int) -> *mut pg_sys::LocalPgBackendStatus {
    // SAFETY: the caller passes the number of an existing entry.
    unsafe { pg_sys::pgstat_fetch_stat_local_beentry(n) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn local_entry(n: c_int) -> *mut pg_sys::LocalPgBackendStatus {
    // SAFETY: the caller passes the number of an existing entry.
    unsafe { pg_sys::pgstat_get_local_beentry_by_index(n) }
}
