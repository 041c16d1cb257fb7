//! Raises errors for callers of SQL functions, with SQLSTATE, detail and hint. Each function raises one error.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::version::VersionMatch;
use pgrx::prelude::*;

use crate::mmdb::ImportError;
use crate::pg::parser::ExpressionError;
use crate::pg::{ErrorReport, transaction};
use crate::provider::Provider;
use crate::provider::health::Health;

fn raise(code: PgSqlErrorCode, message: String, detail: Option<String>, hint: Option<&str>) -> ! {
    let mut report = ErrorReport::new(code, message, function_name!());
    if let Some(detail) = detail {
        report = report.set_detail(detail);
    }
    if let Some(hint) = hint {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("ERROR does not return")
}

/// Raises an error because the function requires a single host, but the `inet` argument is a network.
pub fn not_a_host(address: Address) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "invalid address: must be a single host".to_owned(),
        Some(format!("The address {address} has a prefix length, so the value is a network.")),
        Some("To drop the prefix length, write host(address)::inet."),
    )
}

/// The function works on inventories, but this database keeps none.
pub fn on_member(name: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("could not run {name}() on this node of a Citus cluster"),
        Some("The inventories of the cluster are on the coordinator.".to_owned()),
        Some("Repeat the call on the coordinator."),
    )
}

/// The function works with a table of this server, but Citus distributes the table.
pub fn of_distributed(name: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("could not run {name}() for sessions that Citus distributes"),
        Some("The function works only with tables that one server stores.".to_owned()),
        Some("See the page docs/citus.md for what works in a cluster."),
    )
}

pub fn null_argument(name: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        format!("argument \"{name}\" must not be null"),
        None,
        None,
    )
}

pub fn asn_out_of_range(asn: i64, least: i64) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        "invalid ASN".to_owned(),
        Some(format!("The value is {asn}, but an ASN must be between {least} and 4294967295.")),
        None,
    )
}

pub fn invalid_country(value: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "invalid country".to_owned(),
        Some(format!("The value is \"{value}\".")),
        Some("Use a two-letter code (ISO 3166-1), for example DE. If the country is unknown, use null."),
    )
}

pub fn invalid_registry(value: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "invalid registry".to_owned(),
        Some(format!("The value is \"{value}\".")),
        Some("Use one of ARIN, RIPE, APNIC, LACNIC, AFRINIC."),
    )
}

pub fn unknown_provider(value: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "invalid provider".to_owned(),
        Some(format!("The value is \"{value}\".")),
        Some(&format!("Use one of {}.", Provider::all().map(Provider::name).collect::<Vec<_>>().join(", "))),
    )
}

/// The argument names neither the mmdb files nor a provider.
pub fn unknown_source(value: &str) -> ! {
    let names: Vec<&str> = std::iter::once("maxmind").chain(Provider::all().map(Provider::name)).collect();
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "invalid source".to_owned(),
        Some(format!("The value is \"{value}\".")),
        Some(&format!("Use one of {}.", names.join(", "))),
    )
}

pub fn bogon_refused(address: Address, reason: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "could not queue a lookup of a bogon".to_owned(),
        Some(format!(
            "The address {address} is {reason}. Addresses that cannot occur on the public internet (bogons) are never sent to providers."
        )),
        None,
    )
}

pub fn bogon_asn_refused(asn: u32) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "could not queue a lookup of a bogon".to_owned(),
        Some(format!("AS{asn} is a reserved ASN. Reserved ASNs (bogons) are never sent to providers.")),
        None,
    )
}

/// The provider does not look up networks.
pub fn no_lookups_of_networks(provider: &str) -> ! {
    let able = Provider::all().filter(|provider| provider.declared().knows_networks());
    let names: Vec<String> = able.map(|provider| format!("'{}'", provider.name())).collect();
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("provider {provider} does not look up networks"),
        None,
        Some(&format!("Use {}.", names.join(" or "))),
    )
}

/// The provider does not support such addresses.
pub fn not_asked_about(provider: &str, address: Address) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("provider {provider} does not support address {address}"),
        Some("The provider supports only IPv4 addresses.".to_owned()),
        None,
    )
}

/// The provider is not asked about addresses with the type SCANNER_BENIGN, and a list says that the address has this type.
pub fn benign_scanner(provider: &str, address: Address) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("could not queue a lookup of a known research scanner at {provider}"),
        Some(format!(
            "A list in a file of ip_type_databases contains the address {address} with the type SCANNER_BENIGN."
        )),
        Some("The function ip_type_entries() returns the list."),
    )
}

pub fn not_attached(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("{table} is not an attached session table"),
        None,
        Some("Call attach_session_table() for the table first."),
    )
}

/// Columns of the session table have changed since the table was attached. The extension's statements could now run a cast function
/// that belongs to the owner of a column's new type.
pub fn not_intact(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        format!("columns of {table} have changed since attach_session_table() was called"),
        Some(
            "A column that the extension uses is missing, is generated, or has a different type.".to_owned(),
        ),
        Some("Undo the change, or call attach_session_table() again with all arguments of the earlier call."),
    )
}

pub fn children_not_attached(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "an inheritance child of {table} is not an attached session table, or has a different owner than {table}"
        ),
        None,
        Some(
            "Call attach_session_table() for the parent table again, with all arguments of the earlier call. The call also covers the inheritance children.",
        ),
    )
}

/// Raises an error because the caller passed a text that is not one complete expression.
pub fn not_an_expression(error: ExpressionError) -> ! {
    invalid_expression(
        error,
        "Write one complete expression as in a select list, for example s.command_count. In the expression, s is a row of the table.",
    )
}

/// Raises an error because the caller passed a text that is not one complete condition.
pub fn not_a_condition(error: ExpressionError) -> ! {
    invalid_expression(
        error,
        "Write one complete condition as after WHERE, for example s.snapshot_asn = 15169. In the condition, s is a row of the table.",
    )
}

fn invalid_expression(error: ExpressionError, hint: &'static str) -> ! {
    let reason = match error {
        ExpressionError::Syntax(message) => message,
        ExpressionError::NotSingle => "must be a single SQL expression".to_owned(),
        ExpressionError::Parameter => "must not contain a parameter such as $1".to_owned(),
    };
    raise(PgSqlErrorCode::ERRCODE_SYNTAX_ERROR, format!("invalid expression: {reason}"), None, Some(hint))
}

pub fn not_owner(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("must be owner of table {table}"),
        None,
        None,
    )
}

/// The caller does not have the rights of the owner of a session table.
pub fn not_owner_of_sessions(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("must be owner of session table {table}"),
        Some("Erasing an address changes its sessions in every session table.".to_owned()),
        Some("Call the procedure as a role that is a member of the owners of all session tables."),
    )
}

/// An attached table has changed, so the procedure could miss sessions.
pub fn sessions_not_intact(table: &str, reason: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("session table {table} has changed since attach_session_table() was called"),
        Some(format!("The view attached_tables says: {reason}.")),
        Some("Undo the change, or call attach_session_table() again with all arguments of the earlier call."),
    )
}

/// The statement that erases sessions would fire a trigger whose code belongs to a third role. A third role is any role except the
/// owner of the table, the owner of the extension, and superusers.
pub fn erasure_blocked(table: &str, reason: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("could not erase sessions of {table}"),
        Some(reason.to_owned()),
        Some(
            "Drop the trigger that DETAIL names, or call set_session_table_options() with run_triggers => true.",
        ),
    )
}

/// The address column is NOT NULL and not a text.
pub fn no_value_for_no_address(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
        format!("could not remove an address from a session of {table}"),
        Some("The address column has type inet and does not accept null.".to_owned()),
        Some("Use ALTER TABLE ... ALTER COLUMN ... DROP NOT NULL, or pass delete_sessions => true."),
    )
}

/// A row-level security policy or a trigger prevents the erasure.
pub fn could_not_erase(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("could not erase sessions of {table}"),
        Some("The statement changed none of the sessions. A trigger or row-level security of the table prevents the change.".to_owned()),
        Some("Remove the trigger or the policy for the owner of the table, then repeat the call."),
    )
}

pub fn invalid_age() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "invalid older_than".to_owned(),
        Some("The age must be positive, and no longer than a thousand years.".to_owned()),
        Some("Use for example '90 days'."),
    )
}

pub fn not_a_table(name: &str) -> ! {
    raise(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, format!("{name} is not a table"), None, None)
}

/// The column is generated, or its type is not `inet`.
pub fn no_key_for(table: &str, column: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        format!("could not create a foreign key for column \"{column}\" of table {table}"),
        Some("The column must have exactly the type inet, and must not be generated.".to_owned()),
        Some(
            "Call attach_session_table() without add_foreign_key => true. Or call detach_session_table(), change the type of the column to inet, and call attach_session_table() again.",
        ),
    )
}

pub fn has_key_already(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        format!("table {table} already has a constraint \"cowrie_enrich_address\""),
        None,
        None,
    )
}

pub fn partitions_lack_keys(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("could not create a foreign key for partitioned table {table}"),
        Some("Not all partitions of the table have a valid foreign key.".to_owned()),
        Some("Call add_session_foreign_key() for the partitioned table."),
    )
}

/// A foreign key exists that can run code with the rights of the extension's owner.
pub fn unsafe_key(key: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "could not create a foreign key while an unsafe foreign key exists".to_owned(),
        Some(format!("The foreign key {key} can run code as the owner of the extension.")),
        Some("Run the statements in the column drop_command of the view unsafe_foreign_keys."),
    )
}

/// The caller owns the table, but `trust_input` requires more privileges.
pub fn may_not_trust() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "permission denied to set trust_input".to_owned(),
        Some(
            "If trust_input is on, the extension copies values that clients write into this table to the inventories. All session tables share the inventories."
                .to_owned(),
        ),
        Some("Ask a superuser or the owner of the extension to set trust_input."),
    )
}

/// A trigger would run code that belongs to a third role, with the rights of the table's owner.
pub fn blocked_by_trigger(table: &str, reason: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("could not replace invalid values in column \"enrichment\" of table {table}"),
        Some(reason.to_owned()),
        Some("Drop or disable the trigger that DETAIL names, then call import_inventory() again."),
    )
}

/// The caller may not call the import. The import needs more privileges, because it writes into the inventories.
pub fn may_not_import() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "permission denied for procedure import_inventory".to_owned(),
        Some("The procedure imports values into the inventories without a check.".to_owned()),
        Some("Call the procedure as a superuser or as the owner of the extension."),
    )
}

/// The procedure commits, so it cannot run in a transaction block.
pub fn in_transaction_block(procedure: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
        format!("{procedure}() cannot run inside a transaction block"),
        None,
        Some(
            "The procedure commits after each batch. Call the procedure with autocommit, outside a transaction block.",
        ),
    )
}

/// Raises an error because another call of the procedure is running.
pub fn already_running(procedure: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        format!("{procedure}() is already running"),
        None,
        Some("The view enrich_progress shows the progress of the running call."),
    )
}

pub fn unknown_schema(name: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME,
        format!("schema \"{name}\" does not exist"),
        None,
        Some(
            "Name the schema that contains the tables of cowrieprocessor (the Python system that this extension replaces), for example public.",
        ),
    )
}

/// The source of an import is the extension's own schema.
pub fn own_schema(name: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("could not import from schema \"{name}\", which is the schema of the extension"),
        None,
        Some(
            "Name the schema that contains the tables of cowrieprocessor (the Python system that this extension replaces), for example public.",
        ),
    )
}

/// The schema has none of the tables to import.
pub fn nothing_to_import(schema: &str, tables: &[&str]) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
        format!(
            "schema \"{schema}\" contains no table of cowrieprocessor (the Python system that this extension replaces)"
        ),
        Some(format!("The import looks for these tables: {}.", tables.join(", "))),
        Some(
            "Name the schema that contains these tables. If the tables are in another database, restore a dump of the tables into this database first.",
        ),
    )
}

/// The relation is a view, a foreign table or a temporary table.
pub fn not_a_plain_table(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        format!("{table} is not a table that can be imported"),
        Some(
            "Only permanent tables can be imported. A view is refused, because a view can run code of a different role.".to_owned(),
        ),
        None,
    )
}

pub fn has_children(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        format!("could not import table {table}, because the table has inheritance children"),
        Some("The import does not read the rows of inheritance children.".to_owned()),
        Some(
            "Move the rows of the children into the table, or end the inheritance with ALTER TABLE ... NO INHERIT.",
        ),
    )
}

pub fn foreign_partition(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        format!("a partition of {table} has a different owner than {table}"),
        None,
        Some("Use ALTER TABLE ... OWNER TO to give all partitions the owner of the table."),
    )
}

/// A column of a session table.
pub fn no_address_column(table: &str, column: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        format!("column {column} of {table} does not exist"),
        None,
        Some("Pass the name of the column that contains the addresses of the sessions."),
    )
}

/// The caller passed a name in the argument `by`, and the table has no column with this name.
pub fn no_column_to_group_by(table: &str, column: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        format!("column \"{column}\" of {table} does not exist"),
        None,
        Some(
            "Pass 'network', 'country', 'type', or the name of a column of the table in the argument \"by\". Write the name of a column without double quotes.",
        ),
    )
}

/// The type of the column is not a built-in type. To convert the column's values to text, the server would run code of the type's
/// owner.
pub fn cannot_group_by(table: &str, column: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        format!("column \"{column}\" of {table} does not have a built-in type"),
        Some("The owner of the type could run code with the rights of the caller.".to_owned()),
        Some("Pass a column of a built-in type, such as text or integer, in the argument \"by\"."),
    )
}

pub fn no_time_column(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("{table} was attached without a time column"),
        None,
        Some(
            "Call attach_session_table() again with the time column as the third argument, and repeat all other arguments.",
        ),
    )
}

pub fn cannot_select_by_time(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("could not select the sessions of {table} by time"),
        Some("The table is attached without a time column.".to_owned()),
        Some("Pass null in the argument \"since\", or call attach_session_table() again with a time column."),
    )
}

pub fn invalid_bucket() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "invalid bucket".to_owned(),
        Some(
            "A bucket must be positive. A bucket must consist of years and months only, of weeks and days only, or of shorter units only."
                .to_owned(),
        ),
        Some("Use for example '1 month', '7 days' or '6 hours'."),
    )
}

/// A table to import lacks a column, or the column does not have a built-in type.
pub fn no_such_column(table: &str, column: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        format!("column {column} of {table} does not exist or does not have a built-in type"),
        None,
        Some(
            "If the table does not belong to cowrieprocessor (the Python system that this extension replaces), rename the table. The import then ignores the table.",
        ),
    )
}

/// The column's type cannot be converted.
pub fn wrong_column_type(table: &str, column: &str, found: &str, wanted: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        format!("column {column} of {table} has type {found}, but must have type {wanted}"),
        None,
        Some(
            "Change the type of the column, or rename the column. If you rename the column, the import adds a column with the old name and the right type.",
        ),
    )
}

/// The caller lacks a privilege for attaching a table.
pub fn may_not_attach() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "permission denied for function attach_session_table".to_owned(),
        Some(
            "The import calls attach_session_table() for session_summaries. This call needs more privileges than the import."
                .to_owned(),
        ),
        Some(
            "Grant the caller EXECUTE on attach_session_table(), detach_session_table(), enrich_session() and forget_sessions(), and SELECT on attached_tables.",
        ),
    )
}

/// The table was dropped during the call.
pub fn vanished(table: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
        format!("table {table} was dropped during the import"),
        None,
        Some("Rows that were already imported are kept. Call import_inventory() again to continue."),
    )
}

/// The value of an argument is out of range.
pub fn out_of_range(argument: &str, value: i64, (least, most): (i64, i64)) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("invalid {argument}"),
        Some(format!("The value is {value}, but must be between {least} and {most}.")),
        None,
    )
}

/// The lock on a table was not free.
pub fn table_is_busy(table: &str, tries: u32) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        format!("could not lock table {table}"),
        Some(format!(
            "The call tried {tries} times to get the lock. Each attempt was short, because a longer attempt would block writers of the table."
        )),
        Some(
            "Use pg_locks to find the transaction that holds a lock on the table. Repeat the call after that transaction has ended.",
        ),
    )
}

/// Raises an error if the transaction is read-only. Without this check, the write would fail later with an error that names an
/// internal statement.
pub fn require_writable(function: &str) {
    require_writable_or(function, "Repeat the call in a read-write transaction on the primary.");
}

/// Raises an error if the transaction is read-only, like [`require_writable`]. `hint` describes what the caller can use instead of
/// the function.
pub fn require_writable_or(function: &str, hint: &str) {
    if transaction::may_write() {
        return;
    }
    raise(
        PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
        format!("could not run {function} in a read-only transaction"),
        Some("The call would write to tables of the extension.".to_owned()),
        Some(hint),
    )
}

/// The function needs a new snapshot for each of its statements.
pub fn needs_read_committed(function: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!(
            "could not run {function} in a transaction with the isolation level repeatable read or serializable"
        ),
        None,
        Some("Call the function in a transaction with the isolation level read committed."),
    )
}

/// The call would queue more requests than its argument `max_requests` allows. `by_provider` lists the number of requests to each
/// provider.
pub fn too_many_requests(requests: i64, limit: i64, by_provider: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        format!("enrich_ips() would queue {requests} requests, but max_requests is {limit}"),
        Some(format!("Requests by provider: {by_provider}.")),
        Some(
            "Call enrich_ips() with a higher max_requests, or with fewer providers in the argument \"sources\". With sources => '{maxmind}' the call queues no lookup of an address.",
        ),
    )
}

/// `enabled_sources` does not include the source.
pub fn source_disabled(source: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("source \"{source}\" is not enabled"),
        None,
        Some("Add the source to the setting cowrie_enrich.enabled_sources."),
    )
}

/// A request failed while the caller waited for it.
pub fn provider_failed(provider: &str, why: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
        format!("could not get an answer from {provider}"),
        Some(why.to_owned()),
        None,
    )
}

/// The circuit breaker of the provider is open.
pub fn provider_is_paused(provider: &str, health: &Health) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
        format!("requests to {provider} are paused after failures"),
        Some(format!(
            "The last {} requests failed. The last error was: {}.",
            health.failures,
            health.last_error.as_deref().unwrap_or("no reason given")
        )),
        Some("The column backoff_until of the view provider_status shows when the pause ends."),
    )
}

/// The operating system has no free socket or thread.
pub fn no_network(error: &std::io::Error) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        "could not start a request to a provider".to_owned(),
        Some(error.to_string()),
        None,
    )
}

/// The text format cannot represent a number.
pub fn not_encoded(error: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        "could not write the metrics in the text format of Prometheus".to_owned(),
        Some(error.to_owned()),
        None,
    )
}

pub fn not_a_trigger_call() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        "enrich_session() must be called as a row-level trigger (FOR EACH ROW), and forget_sessions() as a BEFORE TRUNCATE trigger".to_owned(),
        None,
        Some("Call attach_session_table(), which creates these triggers."),
    )
}

/// A requested mmdb file could not be put into service.
pub fn import_failed(error: &ImportError) -> ! {
    let code = match error {
        ImportError::File { error, .. } => match error.kind() {
            std::io::ErrorKind::NotFound => PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
            std::io::ErrorKind::PermissionDenied => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            _ => PgSqlErrorCode::ERRCODE_IO_ERROR,
        },
        ImportError::Changing { .. } => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        ImportError::Damaged { .. } | ImportError::WrongContent { .. } => {
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED
        }
        ImportError::TooOld { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
    };
    let hint = match error {
        ImportError::TooOld { .. } => {
            "Fetch a newer file, or raise the setting cowrie_enrich.mmdb_max_age.".to_owned()
        }
        _ => format!(
            "Check the setting {}. The file that was loaded before stays in use.",
            error.kind().setting()
        ),
    };
    raise(
        code,
        format!("could not load mmdb file \"{}\"", error.path()),
        Some(error.to_string()),
        Some(&hint),
    )
}

/// The library and the SQL objects have versions that do not work together.
pub fn version_mismatch(mismatch: VersionMatch, objects: &str, library: &str) -> ! {
    let (message, hint) = match mismatch {
        VersionMatch::LibraryTooOld => (
            "the library of cowrie_enrich in this connection is older than the SQL objects of the extension",
            "Install the files of the same version as the SQL objects, then restart PostgreSQL. If shared_preload_libraries does not contain cowrie_enrich, reconnect instead of restarting.",
        ),
        _ => (
            "the SQL objects of cowrie_enrich in this database are older than the library of the extension",
            "Run ALTER EXTENSION cowrie_enrich UPDATE.",
        ),
    };
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message.to_owned(),
        Some(format!("The library has version {library}, the SQL objects have version {objects}.")),
        Some(hint),
    )
}
