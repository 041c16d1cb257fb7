//! A process of our own for work that the caller cannot wait for.

use pgrx::bgworkers::BackgroundWorkerBuilder;
use pgrx::pg_sys;

/// Starts `function` of this library in a background worker without a database connection. It runs once. Answers
/// whether there was a free slot (`max_worker_processes`).
pub fn run_once(name: &str, function: &str) -> bool {
    BackgroundWorkerBuilder::new(name)
        .set_library("cowrie_enrich")
        .set_function(function)
        .enable_shmem_access(None)
        .set_restart_time(None)
        .load_dynamic()
        .is_ok()
}

/// Makes `$body: fn()` what [`run_once`] runs under the name `$symbol`.
#[macro_export]
macro_rules! background_process {
    ($symbol:ident, $body:path) => {
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        #[::pgrx::pg_guard]
        pub extern "C-unwind" fn $symbol(_argument: ::pgrx::pg_sys::Datum) {
            $crate::pg::background::accept_signals();
            $body();
        }
    };
}

/// First thing in such a process: from now on it can be told to end.
pub fn accept_signals() {
    // SAFETY: the process has the default handlers, of which SIGTERM's ends it.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() }
}
