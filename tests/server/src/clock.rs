//! A server's clock that a test sets. The clock shows the real time plus an offset, which the test may change while the
//! server runs. For a benchmark, the clock stands still.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::installation::installation;

pub struct Clock {
    path: PathBuf,
    file: fs::File,
}

impl Clock {
    /// Returns a clock that shows noon (UTC) of this day, so that a test is far from the end of the day.
    pub fn at_noon(name: &str) -> Clock {
        let path = installation().run_dir().join(format!("{name}-{}.clock", std::process::id()));
        let file = fs::File::create(&path).expect("a clock can be made");
        let clock = Clock { path, file };
        clock.set(0, 12 * 3600);
        clock
    }

    /// Sets the clock to this number of days from today, and this number of seconds after midnight.
    pub fn set(&self, days: i64, second: i64) {
        // `days` counts from the day on which the test began, so that offsets stay small.
        static TODAY: OnceLock<i64> = OnceLock::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as i64;
        let today = *TODAY.get_or_init(|| now - now.rem_euclid(86_400_000_000));
        let offset = today + (days * 86_400 + second) * 1_000_000 - now;
        self.file.write_all_at(&offset.to_ne_bytes(), 0).expect("a clock can be set");
    }

    /// Returns a clock that stands still.
    pub fn stopped(name: &str) -> Clock {
        let clock = Clock::at_noon(name);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as i64;
        clock.file.write_all_at(&now.to_ne_bytes(), 8).expect("a clock can be set");
        clock
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Returns the library that makes a server use such a clock. It is built once, with the C compiler that Rust needs.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = installation().run_dir().join("clock.so");
        let draft = installation().run_dir().join(format!("clock-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/clock.c");
        let output = Command::new("cc")
            .args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&draft, &source])
            .arg("-ldl")
            .output()
            .expect("there is a C compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Another test process may build the library at the same time. Each process renames a complete file.
        fs::rename(&draft, &library).expect("own directory");
        library
    })
}
