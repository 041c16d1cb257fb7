//! The unsafe code of the extension: each module is a safe interface to one facility of the server.
//!
//! All `unsafe` code and all version differences are in this folder. Every function is called on the
//! backend's only thread, inside a transaction. A PostgreSQL ERROR passes through as the Rust panic that pgrx
//! makes of it.
//!
//! No safe function here takes or returns a datum or a pointer of the server. A value has its SQL type in its
//! Rust type ([`value`]). OIDs are plain numbers.
//!
//! For many of these modules, pgrx has a similar facility. The table gives the reason why the extension does not use it, and the
//! change in pgrx that would remove this reason.
//!
//! | module | pgrx's | reason | change in pgrx |
//! |---|---|---|---|
//! | [`spi`], [`user_table`] | `Spi` | the backend keeps plans, the types of parameters and columns are compared, and procedures commit inside a connection | keeps plans and connects non-atomically |
//! | [`value`], `conversion`, [`array`] | `IntoDatum`, `FromDatum`, `Array` | here, a value of the wrong type for its parameter does not compile | statements have types |
//! | [`text`] | `String`, `&str` | names in a database may be in any encoding, and a character that it lacks must not fail an INSERT | converts with replacement |
//! | [`inet`] | `Inet` | is a text there, and parsing it costs more than a look-up | is binary |
//! | [`jsonb`] | `JsonB` | goes through text and serde, and costs many times as much as the server's binary form | reads that form |
//! | [`sql_function`] | `#[pg_extern]` | the extension's SQL is in install scripts, with comments and grants | accepts separate SQL |
//! | [`trigger`], [`column`] | `PgTrigger` | copies rows, which is too slow for an INSERT | borrows rows |
//! | [`relation`], [`prober`], [`row`], [`scan`], [`keyed_table`], [`mvcc_snapshot`] | none | | |
//! | [`subtransaction`], [`transaction`], [`timeouts`], [`time_limit`] | `PgTryBuilder`, callbacks | are used; pgrx has no subtransactions and no timeouts | |
//! | [`background`], [`latch`] | `BackgroundWorkerBuilder`, `wait_latch` | workers are started at any time, watched by handle, connect by OID as a role, and wait for sockets too | does all of these |
//! | [`shmem`] | `pg_shmem_init!` | most of the memory is atomics without a lock, and a process that ends clears its slot | supports both |
//! | [`settings`] | `GucRegistry` | is used; only the check of a value is separate, because pgrx has no check hook with a message | |
//! | [`hooks`], [`exclusion`], [`invalidation`], [`role`], [`catalog`], [`clock`], [`memory`], [`parser`], [`varlena`] | none, or single bindings | | |

#[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
compile_error!(
    "the code in this folder supports PostgreSQL 15 to 18; to support another version, first review each `cfg(feature)` in this folder"
);

pub mod array;
pub mod background;
pub mod catalog;
pub mod clock;
pub mod column;
mod conversion;
pub mod exclusion;
pub mod hooks;
pub mod inet;
pub mod invalidation;
pub mod jsonb;
pub mod keyed_table;
pub mod latch;
pub mod mapped_file;
pub mod memory;
pub mod mvcc_snapshot;
pub mod parser;
pub mod prober;
pub mod relation;
pub mod role;
pub mod row;
pub mod scan;
pub mod settings;
pub mod shmem;
pub mod spi;
pub mod sql_function;
pub mod subtransaction;
pub mod text;
pub mod time_limit;
pub mod timeouts;
pub mod transaction;
pub mod trigger;
pub mod user_table;
pub mod value;
pub mod varlena;

pub use pgrx::pg_sys::Oid;
pub use pgrx::pg_sys::panic::ErrorReport;

/// Makes unknown settings under a prefix an error instead of a placeholder.
pub fn reserve_setting_prefix(prefix: &'static std::ffi::CStr) {
    // SAFETY: the prefix is a static string; called while the library is loaded.
    unsafe { pgrx::pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}

/// Returns the data directory, which is also every backend's working directory.
pub fn data_directory() -> std::path::PathBuf {
    // SAFETY: DataDir is set before any library is loaded.
    let path = unsafe { text::from_c(pgrx::pg_sys::DataDir) };
    std::path::PathBuf::from(path.unwrap_or_default().into_owned())
}

/// Returns an identifier of this server. Two servers have different identifiers. The identifier changes if
/// the server moves to another host or data directory. It consists of the cluster's number, and of a hash of
/// the host name and the data directory. Standbys and copies have the same cluster's number.
pub fn server_identity() -> String {
    let mut host = [0_u8; 256];
    // SAFETY: writes at most this number of bytes; the name is read from the written bytes.
    unsafe { libc::gethostname(host.as_mut_ptr().cast(), host.len() - 1) };
    let host = std::ffi::CStr::from_bytes_until_nul(&host).unwrap_or_default();
    let directory = data_directory();
    // FNV-1a: the same in every version of the extension, even if the library's hashes change.
    let place = host.to_bytes_with_nul().iter().chain(directory.as_os_str().as_encoded_bytes());
    let place = place.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // SAFETY: reads a value that the server read from the control file at its start.
    let cluster = unsafe { pgrx::pg_sys::GetSystemIdentifier() };
    format!("{cluster}-{place:016x}")
}

/// Lets a pending cancel or shutdown take effect.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Sends a notice to the caller.
pub fn notice(message: &str) {
    pgrx::notice!("{message}");
}

/// Sends a notice with details to the caller.
pub fn detailed_notice(message: String, detail: String, hint: &str) {
    let code = pgrx::prelude::PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
    ErrorReport::new(code, message, "detailed_notice")
        .set_detail(detail)
        .set_hint(hint.to_owned())
        .report(pgrx::prelude::PgLogLevel::NOTICE);
}

/// Warns the caller. As in [`log`], interrupts wait until the message is sent.
pub fn warning(message: &str, hint: &str) {
    let code = pgrx::prelude::PgSqlErrorCode::ERRCODE_WARNING;
    let report =
        pgrx::pg_sys::panic::ErrorReport::new(code, message.to_owned(), "warning").set_hint(hint.to_owned());
    holding_interrupts(|| report.report(pgrx::prelude::PgLogLevel::WARNING));
}

/// Writes to the server's log. While the server writes a message, it handles interrupts, which can raise an
/// error. The caller may not expect an error here, so interrupts wait until the message is written.
pub fn log(message: &str) {
    holding_interrupts(|| pgrx::log!("{message}"));
}

/// Reports a message below ERROR, which does not unwind, while interrupts are held.
fn holding_interrupts(report: impl FnOnce()) {
    // SAFETY: the count of this process is restored below.
    unsafe { pgrx::pg_sys::InterruptHoldoffCount += 1 };
    report();
    // SAFETY: as above.
    unsafe { pgrx::pg_sys::InterruptHoldoffCount -= 1 };
}
