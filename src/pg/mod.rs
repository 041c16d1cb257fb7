//! The unsafe code of the extension: each module is a safe interface to one facility of the server.
//!
//! All `unsafe` code and all differences between server versions are in this folder. Every function is called on the backend's
//! only thread, inside a transaction. pgrx turns a PostgreSQL ERROR into a Rust panic, and these functions let the panic pass.
//!
//! No safe function in this folder takes or returns a datum or a pointer of the server. The Rust type of a value states its SQL
//! type ([`value`]). OIDs are plain numbers.
//!
//! For many of these modules, pgrx has a similar facility. The table gives the reason why the extension does not use the
//! facility, and the change in pgrx that would remove this reason.
//!
//! | module | facility of pgrx | reason | change in pgrx |
//! |---|---|---|---|
//! | [`spi`], [`user_table`] | `Spi` | the extension keeps plans, compares the types of parameters and columns, and lets procedures commit inside a connection | `Spi` keeps plans and connects non-atomically |
//! | [`value`], `conversion`, [`array`] | `IntoDatum`, `FromDatum`, `Array` | in the extension, code that passes a value of the wrong type to a parameter does not compile | statements have types |
//! | [`text`] | `String`, `&str` | a name can be in any encoding, and a character that the database's encoding does not have must not make an INSERT fail | the conversion replaces such characters |
//! | [`inet`] | `Inet` | `Inet` holds a text, and parsing this text takes longer than a lookup | `Inet` holds the binary form |
//! | [`jsonb`] | `JsonB` | `JsonB` converts through text and serde, which takes many times as long as reading the server's binary form | `JsonB` reads the binary form |
//! | [`sql_function`] | `#[pg_extern]` | the extension's SQL is in install scripts, with comments and grants | `#[pg_extern]` accepts separate SQL |
//! | [`trigger`], [`column`] | `PgTrigger` | `PgTrigger` copies rows, which is too slow for an INSERT | `PgTrigger` borrows rows |
//! | [`relation`], [`prober`], [`row`], [`scan`], [`keyed_table`], [`mvcc_snapshot`] | none | | |
//! | [`subtransaction`], [`transaction`], [`timeouts`], [`time_limit`] | `PgTryBuilder`, callbacks | the extension uses both facilities; pgrx has no subtransactions and no timeouts | |
//! | [`background`], [`latch`] | `BackgroundWorkerBuilder`, `wait_latch` | the extension starts workers at any time, watches them by their handles, connects by OID as a role, and also waits for sockets | pgrx supports all of these |
//! | [`shmem`] | `pg_shmem_init!` | most of the memory consists of atomics without a lock, and a process that ends clears its slot | pgrx supports both |
//! | [`settings`] | `GucRegistry` | the extension uses `GucRegistry`; only the check of a value is separate, because pgrx has no check hook with a message | |
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

/// Makes the server raise an error for an unknown setting with this prefix. Otherwise, the server would store such a setting as
/// a placeholder.
pub fn reserve_setting_prefix(prefix: &'static std::ffi::CStr) {
    // SAFETY: the prefix is a static string. The function is called while the library is loaded.
    unsafe { pgrx::pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}

/// Returns the data directory. It is also the working directory of every backend.
pub fn data_directory() -> std::path::PathBuf {
    // SAFETY: DataDir is set before any library is loaded.
    let path = unsafe { text::from_c(pgrx::pg_sys::DataDir) };
    std::path::PathBuf::from(path.unwrap_or_default().into_owned())
}

/// Returns an identifier of this server. Two servers have different identifiers. The identifier changes if the server moves to
/// another host or data directory. It consists of the system identifier of the cluster, and of a hash of the host name and the
/// data directory. The hash is needed because a standby or a copy has the same system identifier.
pub fn server_identity() -> String {
    let mut host = [0_u8; 256];
    // SAFETY: gethostname writes at most the given number of bytes. The name is read only from these bytes.
    unsafe { libc::gethostname(host.as_mut_ptr().cast(), host.len() - 1) };
    let host = std::ffi::CStr::from_bytes_until_nul(&host).unwrap_or_default();
    let directory = data_directory();
    // The hash function is FNV-1a. It stays the same in every version of the extension, even if the hash function of Rust's
    // library changes.
    let place = host.to_bytes_with_nul().iter().chain(directory.as_os_str().as_encoded_bytes());
    let place = place.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // SAFETY: the function returns a value that the server read from the control file when it started.
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

/// Sends a warning to the client. As in [`log`], interrupts wait until the message is sent.
pub fn warning(message: &str, hint: &str) {
    let code = pgrx::prelude::PgSqlErrorCode::ERRCODE_WARNING;
    let report =
        pgrx::pg_sys::panic::ErrorReport::new(code, message.to_owned(), "warning").set_hint(hint.to_owned());
    holding_interrupts(|| report.report(pgrx::prelude::PgLogLevel::WARNING));
}

/// Writes a message to the server's log. While the server writes a message, it handles interrupts, and an interrupt can raise
/// an error. The callers of this function do not expect an error, so interrupts wait until the message is written.
pub fn log(message: &str) {
    holding_interrupts(|| pgrx::log!("{message}"));
}

/// Holds interrupts while `report` sends a message of a level below ERROR. Such a message does not unwind.
fn holding_interrupts(report: impl FnOnce()) {
    // SAFETY: the count belongs to this process, and is restored below.
    unsafe { pgrx::pg_sys::InterruptHoldoffCount += 1 };
    report();
    // SAFETY: as above.
    unsafe { pgrx::pg_sys::InterruptHoldoffCount -= 1 };
}
