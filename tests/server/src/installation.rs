//! Which PostgreSQL the tests run, under which user, and where their clusters live.
//!
//! PostgreSQL refuses to run as root, so there everything of the server is run as `postgres`
//! through setpriv; an ordinary user runs it as himself.

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
    /// Some when the tests run as root: the server's user.
    runas: Option<User>,
}

#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace is two levels above this crate")
}

/// Files with this extension in a directory and below it, sorted.
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

/// A script of a checkout, which learns nothing of this test process.
pub fn script(checkout: &Path, name: &str) -> Command {
    let mut command = Command::new(checkout.join(name));
    for (name, _) in std::env::vars_os() {
        // What cargo tells a test about itself. Build scripts look at some of it, and would run again.
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

/// The installation that the environment names.
pub fn named_pg_config() -> PathBuf {
    std::env::var_os("COWRIE_ENRICH_PG_CONFIG")
        .map_or_else(|| workspace().join("target/postgres/15/bin/pg_config"), PathBuf::from)
}

/// 15 of "PostgreSQL 15.20 (Debian 15.20-0+deb12u1)".
fn major_of(version: &str) -> u32 {
    let number = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let digits = number.find(|c: char| !c.is_ascii_digit()).map_or(number, |end| &number[..end]);
    digits.parse().unwrap_or_else(|e| panic!("no version in \"{version}\": {e}"))
}

/// The version of the installation that the environment names, for who will use another.
pub fn named_major() -> u32 {
    Installation::of(named_pg_config()).major
}

/// Makes this process run another installation than the environment names.
///
/// # Panics
/// When the process has asked for its installation before.
pub fn use_installation(pg_config: &Path) {
    let installation = Installation::of(pg_config.to_owned());
    assert!(INSTALLATION.set(installation).is_ok(), "another installation is in use");
}

impl Installation {
    /// The one of a pg_config.
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

    /// A program of PostgreSQL that runs as the server's user.
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

    /// Any program, run as the server's user.
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

    /// A client program of PostgreSQL, run as whoever runs the tests.
    pub fn client_program(&self, name: &str) -> Command {
        Command::new(self.bindir.join(name))
    }

    /// Hands a file or directory to the server's user.
    pub fn give_to_server(&self, path: &Path) {
        if let Some(User { uid, gid }) = self.runas {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .unwrap_or_else(|e| panic!("could not chown {}: {e}", path.display()));
        }
    }

    /// Where clusters live: COWRIE_ENRICH_SCRATCH, a place in memory where `make test` found room for it, or the run
    /// directory.
    pub fn scratch_dir(&self) -> PathBuf {
        std::env::var_os("COWRIE_ENRICH_SCRATCH").map_or_else(|| self.run_dir(), PathBuf::from)
    }

    /// Where logs are kept; everything below is scratch.
    pub fn run_dir(&self) -> PathBuf {
        let dir = workspace().join("target/postgres/run");
        std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("could not create {}: {e}", dir.display()));
        // The server's user may be unable to follow a link out of the checkout, but can enter what it points to.
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
