//! Code that the tests of mmdb files share with the fuzz targets.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod invariants;
pub mod type_invariants;

/// Runs `work` in a separate thread, so that a hang fails the test instead of blocking it.
pub fn in_bounded_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = done.send(work());
    });
    match wait.recv_timeout(std::time::Duration::from_secs(300)) {
        Ok(result) => result,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("{what}: no answer within 300 s"),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            panic!("{what}: panicked: {:?}", thread.join().err().map(|_| "see above"))
        }
    }
}
