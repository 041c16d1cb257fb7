//! A real Prometheus on a free port of loopback, with its HTTP interface. Prometheus is stopped whether the test
//! passes, fails or is killed.
//!
//! Prometheus is the child of a shell, which waits for the end of the shell's standard input. When the test process
//! ends, the pipe closes, and the shell ends Prometheus and removes its data below target/.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::installation::workspace;
use crate::wait::wait_until;

/// Returns `promtool` or `prometheus`, installed or unpacked by scripts/fetch-prometheus. Prints a message if there is
/// none.
pub fn tool(name: &str) -> Option<PathBuf> {
    let unpacked = workspace().join("target/tools/prometheus/usr/bin").join(name);
    let runs =
        |path: &PathBuf| Command::new(path).arg("--version").output().is_ok_and(|o| o.status.success());
    let found = [PathBuf::from(name), unpacked].into_iter().find(runs);
    if found.is_none() {
        eprintln!("not run: no {name} here; scripts/fetch-prometheus unpacks Debian's");
    }
    found
}

/// Returns a port of loopback that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

pub struct Prometheus {
    process: Child,
    port: u16,
    dir: PathBuf,
}

/// One sample of a query's result, without the metric's name.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Prometheus {
    /// Scrapes this port as the job `cowrie_enrich` and server `honeypot-db`, five times a second, with these rules.
    pub fn start(program: &Path, name: &str, target: u16, rules: &Path) -> Prometheus {
        let dir = workspace().join(format!("target/prometheus/{name}-{}", std::process::id()));
        let configuration = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 1s}}\n\
             rule_files: [{}]\n\
             scrape_configs:\n  - job_name: cowrie_enrich\n    static_configs:\n      - \
             {{targets: [\"127.0.0.1:{target}\"], labels: {{instance: honeypot-db}}}}\n",
            rules.display()
        );
        // Another process may take the port before Prometheus does.
        let attempts = (0..5).find_map(|_| {
            fs::create_dir_all(&dir).expect("the directory can be made");
            fs::write(dir.join("prometheus.yml"), &configuration).expect("the configuration can be written");
            let port = free_port();
            let prometheus =
                Prometheus { process: child_until_exit(program, &dir, port), port, dir: dir.clone() };
            let log = wait_until(
                "Prometheus is ready, or says why not",
                || prometheus.log(),
                |log| log.contains("ready to receive web requests") || log.contains("level=error"),
            );
            assert!(!log.contains("level=error") || log.contains("address already in use"), "{log}");
            (!log.contains("level=error")).then_some(prometheus)
        });
        attempts.expect("one of five ports that were free is not taken")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Returns the answer at a path of the HTTP interface.
    pub fn ask(&self, path: &str) -> Result<Value, String> {
        let answer: Value = serde_json::from_str(&get(self.port, path)?).map_err(|e| e.to_string())?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// Returns the current value of an expression: a sample for each set of labels.
    pub fn try_query(&self, expression: &str) -> Result<Vec<Sample>, String> {
        let data = self.ask(&format!("/api/v1/query?query={}", escaped(expression)))?;
        let samples = data["result"].as_array().cloned().unwrap_or_default();
        Ok(samples.iter().map(sample).collect())
    }

    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<Sample> {
        self.try_query(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Returns the value of an expression with at most one sample; `None` if there is no sample.
    #[track_caller]
    pub fn number(&self, expression: &str) -> Option<f64> {
        let samples = self.query(expression);
        assert!(samples.len() < 2, "{expression}: {samples:?}");
        samples.first().map(|sample| sample.value)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A shell script. Its arguments are a directory and a command. The script runs the command until the standard input of
/// the script ends. Then it ends the command and removes the directory.
const KEEPER: &str = r#"trap : INT TERM
dir=$1; shift
"$@" </dev/null &
cat >/dev/null
kill -KILL $!
wait
rm -rf "$dir""#;

fn child_until_exit(program: &Path, dir: &Path, port: u16) -> Child {
    let log = fs::File::create(dir.join("log")).expect("the log can be created");
    Command::new("sh")
        .args(["-c", KEEPER, "sh"])
        .arg(dir)
        .arg(program)
        .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("the log can be shared"))
        .stderr(log)
        .spawn()
        .expect("sh runs")
}

/// Returns the body of the response of a server on loopback, whatever the HTTP status is. Returns an error if there is
/// no response.
pub fn get(port: u16, path: &str) -> Result<String, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(told)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(told)?;
    // HTTP/1.0, so that the body is not sent in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n").map_err(told)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(told)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
    if head.contains(" 503 ") {
        return Err(body.to_owned());
    }
    Ok(body.to_owned())
}

fn sample(value: &Value) -> Sample {
    let labels = value["metric"].as_object().into_iter().flatten();
    let text = value["value"][1].as_str().unwrap_or_default();
    Sample {
        labels: labels
            .filter(|(name, _)| *name != "__name__")
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        value: text.parse().unwrap_or_else(|_| panic!("no number: {value}")),
    }
}

fn escaped(text: &str) -> String {
    let each = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(each).collect()
}
