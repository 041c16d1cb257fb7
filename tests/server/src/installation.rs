//! Finds the PostgreSQL that the tests run, the user that it runs as, and the directory for clusters.
//!
//! PostgreSQL refuses to run as root. If the tests run as root, the server's programs run as `postgres` through
//! setpriv. Otherwise they run as the user of the tests.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub struct Installation {
    pub pg_config: PathBuf,
    pub bindir: PathBuf,
    pub pkglibdir: PathBuf,
    pub sharedir: PathBuf,
    pub version: String,
    pub major: u32,
    /// The server's user if the tests run as root, otherwise `None`.
    runas: Option<User>,
}

#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// Returns the root of the checkout.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace is two levels above this crate")
}

/// Returns the files with this file name extension in a directory and its subdirectories, sorted.
pub fn files_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("the directory can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Returns a script of a checkout, without the environment of this test process.
pub fn script(checkout: &Path, name: &str) -> Command {
    let mut command = Command::new(checkout.join(name));
    for (name, _) in std::env::vars_os() {
        // Cargo sets these variables for a test. Build scripts depend on some of them, and would run again.
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "COWRIE_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&*name);
        }
    }
    command
}

static INSTALLATION: OnceLock<Installation> = OnceLock::new();

pub fn installation() -> &'static Installation {
    INSTALLATION.get_or_init(|| Installation::of(named_pg_config()))
}

/// Returns the installation that the environment names.
pub fn named_pg_config() -> PathBuf {
    std::env::var_os("COWRIE_ENRICH_PG_CONFIG")
        .map_or_else(|| workspace().join("target/postgres/15/bin/pg_config"), PathBuf::from)
}

/// Returns 15 for "PostgreSQL 15.20 (Debian 15.20-0+deb12u1)".
fn major_of(version: &str) -> u32 {
    let number = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let digits = number.find(|c: char| !c.is_ascii_digit()).map_or(number, |end| &number[..end]);
    digits.parse().unwrap_or_else(|e| panic!("no version in \"{version}\": {e}"))
}

/// Returns the version of the installation that the environment names. Tests that run another installation need it.
pub fn named_major() -> u32 {
    Installation::of(named_pg_config()).major
}

/// Makes this process run the PostgreSQL of `pg_config`, and not the one that the environment names.
///
/// # Panics
/// When the process has used its installation before.
pub fn use_installation(pg_config: &Path) {
    let installation = Installation::of(pg_config.to_owned());
    assert!(INSTALLATION.set(installation).is_ok(), "another installation is in use");
}

impl Installation {
    /// Returns the installation of a pg_config.
    pub fn of(pg_config: PathBuf) -> Self {
        let ask = |what: &str| {
            let output = Command::new(&pg_config).arg(what).output();
            match output {
                Ok(output) if output.status.success() => {
                    String::from_utf8_lossy(&output.stdout).trim().to_owned()
                }
                _ => panic!(
                    "could not run {} {what}: `make test` prepares PostgreSQL, or set \
                     COWRIE_ENRICH_PG_CONFIG",
                    pg_config.display()
                ),
            }
        };
        let am_root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
        Self {
            bindir: ask("--bindir").into(),
            pkglibdir: ask("--pkglibdir").into(),
            sharedir: ask("--sharedir").into(),
            version: ask("--version").chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect(),
            major: major_of(&ask("--version")),
            runas: am_root.then(|| User { uid: id("-u"), gid: id("-g") }),
            pg_config,
        }
    }

    /// Returns a program of PostgreSQL that runs as the server's user.
    pub fn server_program(&self, name: &str) -> Command {
        self.server_command(self.bindir.join(name))
    }

    /// Initialises a data directory. `more`: further options.
    #[track_caller]
    pub fn initdb(&self, data: &Path, more: &[&str]) {
        let output = self
            .server_program("initdb")
            .args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=trust"])
            .args(["--username", crate::cluster::SUPERUSER])
            .args(more)
            .arg("-D")
            .arg(data)
            .output()
            .expect("initdb runs");
        assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Returns any program, run as the server's user.
    pub fn server_command(&self, program: impl AsRef<OsStr>) -> Command {
        match self.runas {
            None => Command::new(program),
            Some(User { uid, gid }) => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={uid}"))
                    .arg(format!("--regid={gid}"))
                    .arg("--init-groups")
                    .arg(program);
                command
            }
        }
    }

    /// Returns a client program of PostgreSQL, run as the user of the tests.
    pub fn client_program(&self, name: &str) -> Command {
        Command::new(self.bindir.join(name))
    }

    /// Makes the server's user the owner of a file or directory.
    pub fn give_to_server(&self, path: &Path) {
        if let Some(User { uid, gid }) = self.runas {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .unwrap_or_else(|e| panic!("could not chown {}: {e}", path.display()));
        }
    }

    /// Returns the directory for clusters. It is COWRIE_ENRICH_SCRATCH, which `make test` sets to a directory in memory
    /// if there is room, otherwise the run directory.
    pub fn scratch_dir(&self) -> PathBuf {
        std::env::var_os("COWRIE_ENRICH_SCRATCH").map_or_else(|| self.run_dir(), PathBuf::from)
    }

    /// Returns the directory for logs. Its subdirectories are temporary.
    pub fn run_dir(&self) -> PathBuf {
        let dir = workspace().join("target/postgres/run");
        std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("could not create {}: {e}", dir.display()));
        // Resolves links, because the server's user may be unable to enter the checkout, but can enter the target of
        // the link.
        dir.canonicalize().unwrap_or(dir)
    }
}

fn id(flag: &str) -> u32 {
    let output = Command::new("id").args([flag, "postgres"]).output();
    output
        .ok()
        .and_then(|o| String::from_utf8_lossy(&o.stdout).trim().parse().ok())
        .expect("running the tests as root needs the user postgres")
}
