//! Hooks that report three events: an extension is created or dropped, a prepared transaction commits, or another session needs
//! exclusive access to a database.
//!
//! Some statements fail while any process, even a background process, is connected to the database: DROP DATABASE, ALTER
//! DATABASE … RENAME or SET TABLESPACE, and CREATE DATABASE … TEMPLATE. They wait at most five seconds until all such processes
//! have ended. So a hook detects these statements, and the extension's processes disconnect.
//!
//! When COMMIT PREPARED commits a transaction, the server calls no transaction callback. So a hook detects the statement
//! itself.
//!
//! The hooks are plain functions that call the next hook without pgrx's guard. An ERROR of a utility statement must reach the
//! client with all its fields, and pgrx's conversion to Rust would lose some fields. A panic that unwinds into the server's
//! frames would end the process and restart the cluster. So a hook itself runs no Rust code that can panic. The hook calls a
//! function with pgrx's guard, which turns a panic into an ERROR.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::pg_sys;

use super::catalog;

/// The callbacks of the hooks.
#[derive(Clone, Copy)]
pub struct Listener {
    /// This transaction creates, alters or drops some extension.
    pub extension_changes: fn(),
    /// Called before the server runs a statement that needs exclusive access to a database. The argument is the OID of the
    /// database. The user has the privilege to run the statement.
    pub database_is_needed: fn(pg_sys::Oid),
    /// Called before COMMIT PREPARED runs in the database of this process.
    pub prepared_commits: fn(),
}

thread_local! {
    static LISTENER: Cell<Option<Listener>> = const { Cell::new(None) };
    static PREVIOUS_ACCESS: Cell<pg_sys::object_access_hook_type> = const { Cell::new(None) };
    static PREVIOUS_UTILITY: Cell<pg_sys::ProcessUtility_hook_type> = const { Cell::new(None) };
}

/// Installs the hooks in this process and in all its child processes.
pub fn listen(listener: Listener) {
    LISTENER.set(Some(listener));
    // SAFETY: the hooks are set while the library is loaded, on the only thread of the process.
    unsafe {
        PREVIOUS_ACCESS.set(pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(on_access);
        PREVIOUS_UTILITY.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

/// Returns whether an extension script is running.
pub fn is_extension_being_changed() -> bool {
    // SAFETY: reads a static.
    unsafe { pg_sys::creating_extension }
}

unsafe extern "C-unwind" fn on_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    if class == pg_sys::ExtensionRelationId || class == pg_sys::DatabaseRelationId {
        cowrie_enrich_on_object_access(access, class, object);
    }
    if let Some(previous) = PREVIOUS_ACCESS.get() {
        // SAFETY: the arguments are passed on unchanged.
        unsafe { previous(access, class, object, part, argument) }
    }
}

unsafe extern "C-unwind" {
    /// src/backend/tcop/utility.c, without pgrx's guard, see above.
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        text: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the server passes a planned statement that contains a utility node. All arguments are passed to the next hook
    // unchanged.
    unsafe {
        let node = (*statement).utilityStmt;
        if (*node).type_ == pg_sys::NodeTag::T_TransactionStmt
            && (*node.cast::<pg_sys::TransactionStmt>()).kind
                == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED
        {
            cowrie_enrich_on_commit_prepared();
        }
        if matches!(
            (*node).type_,
            pg_sys::NodeTag::T_RenameStmt
                | pg_sys::NodeTag::T_AlterDatabaseStmt
                | pg_sys::NodeTag::T_CreatedbStmt
        ) {
            cowrie_enrich_on_utility(node);
        }
        let next = PREVIOUS_UTILITY.get().unwrap_or(standard_ProcessUtility);
        next(statement, text, read_only_tree, context, parameters, environment, destination, completion)
    }
}

/// Calls the listener. The hook has checked the class.
#[unsafe(no_mangle)]
#[doc(hidden)]
#[pgrx::pg_guard]
extern "C-unwind" fn cowrie_enrich_on_object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
) {
    let Some(listener) = LISTENER.get() else { return };
    match access {
        pg_sys::ObjectAccessType::OAT_POST_CREATE
        | pg_sys::ObjectAccessType::OAT_POST_ALTER
        | pg_sys::ObjectAccessType::OAT_DROP
            if class == pg_sys::ExtensionRelationId =>
        {
            (listener.extension_changes)();
        }
        // For DROP DATABASE, the server calls this hook after it has checked the user's privilege, and before it checks whether
        // processes are connected.
        pg_sys::ObjectAccessType::OAT_DROP if class == pg_sys::DatabaseRelationId => {
            (listener.database_is_needed)(object);
        }
        _ => {}
    }
}

#[unsafe(no_mangle)]
#[doc(hidden)]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn cowrie_enrich_on_utility(node: *mut pg_sys::Node) {
    let Some(listener) = LISTENER.get() else { return };
    // SAFETY: the caller checked the tag of the node. The names in the parse tree are NUL-terminated strings.
    let database = unsafe { needed_database(node).and_then(catalog::owned_database) };
    if let Some(database) = database {
        (listener.database_is_needed)(database);
    }
}

/// Calls the listener, which requests actions for the end of the transaction. If the statement fails, the requested actions are
/// not run.
#[unsafe(no_mangle)]
#[doc(hidden)]
#[pgrx::pg_guard]
extern "C-unwind" fn cowrie_enrich_on_commit_prepared() {
    if let Some(listener) = LISTENER.get() {
        (listener.prepared_commits)();
    }
}

/// Returns the name of the database to which a statement needs exclusive access.
///
/// # Safety
/// `node` must be a RenameStmt, an AlterDatabaseStmt or a CreatedbStmt.
unsafe fn needed_database<'a>(node: *mut pg_sys::Node) -> Option<&'a CStr> {
    // SAFETY: the casts follow the tag.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_RenameStmt => {
                let statement = node.cast::<pg_sys::RenameStmt>();
                ((*statement).renameType == pg_sys::ObjectType::OBJECT_DATABASE)
                    .then(|| CStr::from_ptr((*statement).subname))
            }
            pg_sys::NodeTag::T_AlterDatabaseStmt => {
                let statement = node.cast::<pg_sys::AlterDatabaseStmt>();
                option((*statement).options, c"tablespace").map(|_| CStr::from_ptr((*statement).dbname))
            }
            _ => {
                let statement = node.cast::<pg_sys::CreatedbStmt>();
                Some(option((*statement).options, c"template").unwrap_or(c"template1"))
            }
        }
    }
}

/// Returns the value of an option of a statement.
///
/// # Safety
/// `options` must be null or a list of DefElem nodes.
unsafe fn option<'a>(options: *mut pg_sys::List, name: &CStr) -> Option<&'a CStr> {
    // SAFETY: as the caller promises.
    unsafe {
        if options.is_null() {
            return None;
        }
        (0..(*options).length as usize)
            .map(|i| (*(*options).elements.add(i)).ptr_value.cast::<pg_sys::DefElem>())
            .find(|option| CStr::from_ptr((**option).defname) == name)
            .filter(|option| !(**option).arg.is_null())
            .map(|option| CStr::from_ptr(pg_sys::defGetString(option)))
    }
}
