//! Background processes of the extension: registration, start and setup.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::fd::BorrowedFd;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::{latch, transaction};

/// A background process that was requested.
pub struct Process(*mut pg_sys::BackgroundWorkerHandle);

/// State of a background process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    NotYet,
    Running,
    Gone,
}

/// A program for a background process. [`background_process!`](crate::background_process) defines the
/// function that `symbol` names.
#[derive(Clone, Copy)]
pub struct Program {
    pub symbol: &'static str,
    /// Text in the column backend_type of pg_stat_activity.
    pub kind: &'static str,
    pub needs: Needs,
}

/// The access to databases that a program needs. This access determines when the program can run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The program connects to no database, and runs on a standby too.
    Nothing,
    /// The program reads the shared catalogs. On a standby, the program starts after the standby has reached a consistent
    /// state.
    Reading,
    /// The program writes to databases, so it does not run on a standby.
    Writing,
}

/// Makes `$body: fn(i32)` the code of a [`Program`] named `$symbol`. The body gets the argument that was passed to [`start`].
/// Signals are blocked until the body calls [`accept_signals`] or [`accept_termination`].
#[macro_export]
macro_rules! background_process {
    ($symbol:ident, $body:path) => {
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        #[::pgrx::pg_guard]
        pub extern "C-unwind" fn $symbol(argument: ::pgrx::pg_sys::Datum) {
            $body(argument.value() as i32);
        }
    };
}

/// The postmaster restarts the launcher this number of seconds after the launcher has ended.
const LAUNCHER_RESTARTS_AFTER: c_int = 5;

/// Registers a program with the postmaster. The postmaster starts the program as soon as possible, and restarts it whenever it
/// has ended. Must be called from `_PG_init`. Does nothing if the library is not being preloaded, or if pg_upgrade started the
/// server.
pub fn register(program: Program) {
    // SAFETY: this code reads two flags of the server. The flags show whether the postmaster is starting. The code registers the
    // program only in this case, because the server allows a registration only at that time.
    unsafe {
        if !pg_sys::process_shared_preload_libraries_in_progress || pg_sys::IsBinaryUpgrade {
            return;
        }
        let mut worker = describe(program, program.kind, 0);
        worker.bgw_restart_time = LAUNCHER_RESTARTS_AFTER;
        pg_sys::RegisterBackgroundWorker(&mut worker);
    }
}

/// Starts a program once. Returns `None` if all slots for background processes (`max_worker_processes`) are in use. The server
/// sets the latch of this process when the new process starts and when it ends.
pub fn start(program: Program, name: &str, argument: i32) -> Option<Process> {
    let mut worker = describe(program, name, argument);
    let mut handle = std::ptr::null_mut();
    // SAFETY: the server copies the description of the new process. The handle is in a memory context that exists until this
    // process ends.
    unsafe {
        worker.bgw_notify_pid = pg_sys::MyProcPid;
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let registered = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
        pg_sys::MemoryContextSwitchTo(before);
        registered.then_some(Process(handle))
    }
}

impl Process {
    pub fn state(&self) -> ProcessState {
        let mut pid = 0;
        // SAFETY: the handle came from the registration.
        match unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) } {
            pg_sys::BgwHandleStatus::BGWH_NOT_YET_STARTED => ProcessState::NotYet,
            pg_sys::BgwHandleStatus::BGWH_STARTED => ProcessState::Running,
            _ => ProcessState::Gone,
        }
    }

    /// Frees the handle.
    pub fn forget(self) {
        // SAFETY: allocated by the registration, freed once.
        unsafe { pg_sys::pfree(self.0.cast()) }
    }
}

fn describe(program: Program, name: &str, argument: i32) -> pg_sys::BackgroundWorker {
    use pg_sys::BgWorkerStartTime::{
        BgWorkerStart_ConsistentState, BgWorkerStart_PostmasterStart, BgWorkerStart_RecoveryFinished,
    };
    let connection =
        if program.needs == Needs::Nothing { 0 } else { pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION };
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | connection) as c_int,
        bgw_start_time: match program.needs {
            Needs::Nothing => BgWorkerStart_PostmasterStart,
            Needs::Reading => BgWorkerStart_ConsistentState,
            Needs::Writing => BgWorkerStart_RecoveryFinished,
        },
        bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
        bgw_main_arg: pg_sys::Datum::from(argument),
        ..Default::default()
    };
    fill(&mut worker.bgw_name, name);
    fill(&mut worker.bgw_type, program.kind);
    fill(&mut worker.bgw_library_name, "cowrie_enrich");
    fill(&mut worker.bgw_function_name, program.symbol);
    worker
}

/// Copies a text into a zeroed C array, truncated before the final NUL.
fn fill(array: &mut [c_char], text: &str) {
    let room = array.len() - 1;
    for (to, from) in array[..room].iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
}

/// Unblocks signals in a process that connects to no database. Such a process must call this function first. From then on,
/// SIGTERM ends the process at any point.
pub fn accept_termination() {
    // SAFETY: the process has the default signal handlers. The default handler of SIGTERM ends the process.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() }
}

/// Sets signal handlers and unblocks signals in a process that connects to a database. Such a process must call this function
/// first. From then on, it accepts requests to end, to reload its settings, and to cancel.
pub fn accept_signals() {
    // SAFETY: these are handlers of the server. They only set flags and the latch. CHECK_FOR_INTERRUPTS reads the flags later.
    // The default handler of SIGTERM is replaced, because it could end the process at any point.
    unsafe {
        pqsignal(SIGTERM, on_termination);
        pqsignal(SIGHUP, SignalHandlerForConfigReload);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// True if this process has received SIGTERM.
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// Handles SIGTERM. The handler only sets a flag and calls the server's handler. It has no guard of pgrx, because it runs as a
/// signal handler.
unsafe extern "C-unwind" fn on_termination(signal: c_int) {
    TERMINATED.store(true, Ordering::Relaxed);
    // SAFETY: `die` is the server's own handler. It is called inside a signal handler, as the server itself calls it.
    unsafe { die(signal) }
}

/// Returns whether this process has received SIGTERM.
pub fn was_terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}

type Handler = unsafe extern "C-unwind" fn(c_int);

const SIGHUP: c_int = 1;
const SIGTERM: c_int = 15;

unsafe extern "C-unwind" {
    /// Defined in src/port/pqsignal.c. Declared here because the bindings of pgrx wrap each function. A signal handler must be
    /// a function of the server itself. The type of the result differs between versions, so no result is declared.
    #[cfg_attr(feature = "pg18", link_name = "pqsignal_be")]
    fn pqsignal(signal: c_int, handler: Handler);
    /// src/backend/tcop/postgres.c
    fn die(signal: c_int);
    /// src/backend/postmaster/interrupt.c
    fn SignalHandlerForConfigReload(signal: c_int);
}

/// Connects to a database as the bootstrap superuser. Work for users runs as another role: see `pg::role`. If `database` is
/// `None`, connects to no database, so that only the shared catalogs can be read. Ends the process if the connection fails.
pub fn connect(database: Option<pg_sys::Oid>, program: Program) {
    connect_with(database.unwrap_or(pg_sys::InvalidOid), pg_sys::InvalidOid, program);
}

/// Connects to a database as a role. The role becomes the session user. Ends the process if the connection
/// fails.
pub fn connect_as(database: pg_sys::Oid, role: pg_sys::Oid, program: Program) {
    connect_with(database, role, program);
}

/// Connects to a database as the bootstrap superuser, then permanently makes a role the session user. Used for a role that is
/// not allowed to connect. Code of the role must run only in a restricted operation, because there it cannot reset the session
/// user. Ends the process if a step fails.
pub fn connect_and_become(database: pg_sys::Oid, role: pg_sys::Oid, program: Program) {
    connect_with(database, pg_sys::InvalidOid, program);
    let become_role = || {
        // SAFETY: superuser_arg reads a catalog, and this code runs inside a transaction. If the role does not exist,
        // superuser_arg returns false.
        unsafe { pg_sys::SetSessionAuthorization(role, pg_sys::superuser_arg(role)) };
    };
    if let Err(failure) = transaction::run(become_role) {
        pgrx::error!("could not set the session user: {}", failure.message);
    }
}

fn connect_with(database: pg_sys::Oid, role: pg_sys::Oid, program: Program) {
    // SAFETY: once per process, outside any transaction.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, role, CONNECTION_FLAGS);
        // Settings of the database, or settings for all superusers, must not change the behaviour of this process.
        let exists = |name: &CStr| !pg_sys::GetConfigOption(name.as_ptr(), true, false).is_null();
        let later = LATER_SETTINGS.iter().filter(|(name, _)| exists(name));
        for (name, value) in OWN_SETTINGS.iter().chain(later) {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
        if let Ok(name) = CString::new(program.kind) {
            pg_sys::pgstat_report_appname(name.as_ptr());
        }
    }
}

/// These flags allow a role without LOGIN to be the session user of a background process.
#[cfg(any(feature = "pg15", feature = "pg16"))]
const CONNECTION_FLAGS: u32 = 0;
#[cfg(any(feature = "pg17", feature = "pg18"))]
const CONNECTION_FLAGS: u32 = pg_sys::BGWORKER_BYPASS_ROLELOGINCHECK;

/// Sleeps as [`latch::wait`] does. Ignores a request to cancel, because no statement is running.
pub fn sleep(timeout: Duration, also: Option<BorrowedFd<'_>>) {
    let nothing = |_| ();
    PgTryBuilder::new(AssertUnwindSafe(|| latch::wait(timeout, also))).catch_others(nothing).execute();
}

const OWN_SETTINGS: [(&CStr, &CStr); 8] = [
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"session_replication_role", c"origin"),
    // While a process waits for a lock, the locks that it holds block other connections. So the process gives up and retries
    // later.
    (c"lock_timeout", c"500ms"),
    // The worker runs many short statements on tables whose size changes quickly. So each plan is made for the current values,
    // without JIT compilation.
    (c"plan_cache_mode", c"force_custom_plan"),
    (c"jit", c"off"),
    // An error in a step must not end the process.
    (c"exit_on_error", c"off"),
];

/// Settings that do not exist in all versions of PostgreSQL, and settings of Citus. The second setting was added in minor releases.
/// The third setting lets queries on pg_class find the shards of Citus tables. The last setting limits the time for which a worker
/// waits for a node that accepts connections but does not answer.
const LATER_SETTINGS: [(&CStr, &CStr); 4] = [
    (c"transaction_timeout", c"0"),
    (c"restrict_nonsystem_relation_kind", c""),
    (c"citus.override_table_visibility", c"off"),
    (c"citus.node_connection_timeout", c"5s"),
];

/// Reads the settings again after a reload.
pub fn reload_settings() {
    // SAFETY: the signal handler sets the flag. The flag and the settings are used only on the process's
    // single PostgreSQL thread.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Shows in pg_stat_activity what this process is doing. `None` means that the process waits for work.
pub fn report_activity(what: Option<&CStr>) {
    let (state, text) = match what {
        Some(what) => (pg_sys::BackendState::STATE_RUNNING, what.as_ptr()),
        None => (pg_sys::BackendState::STATE_IDLE, std::ptr::null()),
    };
    // SAFETY: copies the text into this process's slot.
    unsafe { pg_sys::pgstat_report_activity(state, text) }
}

/// Sends the table statistics of this process, so that autovacuum sees the changes of the extension's tables. Must be called
/// outside a transaction.
pub fn report_statistics() {
    // SAFETY: called between transactions.
    unsafe { pg_sys::pgstat_report_stat(true) };
}

/// Returns this process's id.
pub fn own_pid() -> i32 {
    // SAFETY: reads a static.
    unsafe { pg_sys::MyProcPid }
}

/// Returns true if a server process with this id exists, and is of a kind that may run transactions.
pub fn is_backend(pid: i32) -> bool {
    // SAFETY: BackendPidGetProc takes a lock while it reads shared memory. This code does not read the returned entry.
    unsafe { !pg_sys::BackendPidGetProc(pid).is_null() }
}

/// Asks a server process to end, as pg_terminate_backend() does.
pub fn terminate(pid: i32) {
    if pid != 0 && is_backend(pid) {
        // SAFETY: every server process handles SIGTERM. The process still existed a moment ago.
        unsafe { libc::kill(pid, SIGTERM) };
    }
}

/// Ends the process normally.
// For some server versions only, pgrx declares that proc_exit does not return.
#[allow(unreachable_code)]
pub fn exit() -> ! {
    // SAFETY: no transaction is open. proc_exit runs the exit callbacks, as at the end of every backend.
    unsafe { pg_sys::proc_exit(0) };
    unreachable!("proc_exit does not return")
}

/// Runs `work` with all signals blocked. Threads that `work` starts inherit the signal mask, so the server's handlers only run on
/// the process's own thread.
pub fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the calls initialise both signal sets. `work` only starts threads and does not unwind, so the signal mask is
    // always restored.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = work();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}
