//! Reports panics in the log.
//!
//! A report is one line, and contains the location of the panic in the source code. Without this hook, the variable
//! `RUST_BACKTRACE` in the server's environment could change the reports: the standard hook would add a backtrace, and pgrx's hook
//! would send the backtrace to clients.

use std::io::Write;
use std::panic::{self, PanicHookInfo};

/// Replaces the panic hook of the process. The new hook ignores a panic whose payload is not a text, because such a panic is an
/// ERROR of the server. The server itself reports its ERRORs.
pub fn report_in_one_line() {
    panic::set_hook(Box::new(|info| {
        if let Some(line) = line(info) {
            // A closed standard error must not cause another panic.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }));
}

fn line(info: &PanicHookInfo<'_>) -> Option<String> {
    let message = info.payload_as_str()?.lines().next().unwrap_or_default();
    let place = info.location().map(|place| format!(" at {place}")).unwrap_or_default();
    Some(format!("cowrie_enrich: panic{place}: {message}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// The test below runs this in a separate process.
    #[test]
    #[ignore = "part of another test"]
    fn panics_in_a_thread() {
        super::report_in_one_line();
        assert!(std::thread::spawn(|| panic!("one\ntwo")).join().is_err());
        assert!(std::panic::catch_unwind(|| std::panic::panic_any(5)).is_err());
    }

    #[test]
    fn a_panic_is_one_line_of_the_log_whatever_the_environment_says() {
        let output = Command::new(std::env::current_exe().expect("a test has a program"))
            .args(["--exact", "panics::tests::panics_in_a_thread", "--ignored", "--nocapture"])
            .env("RUST_BACKTRACE", "full")
            .env("RUST_LIB_BACKTRACE", "1")
            .output()
            .expect("the program runs");
        assert!(output.status.success(), "{output:?}");
        let log = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].starts_with("cowrie_enrich: panic at ") && lines[0].ends_with(": one"), "{log}");
    }
}
