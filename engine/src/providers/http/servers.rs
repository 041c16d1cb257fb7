//! HTTP servers for tests. They replace the servers of providers, and they simulate servers that send invalid
//! responses.
//!
//! Each server listens on a port of 127.0.0.1 that the kernel chooses. The server responds as its script says, and
//! records the requests. The tests check this record.

use flate2::Compression;
use flate2::write::GzEncoder;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub(in crate::providers) trait Duplex: Read + Write {}

impl<T: Read + Write> Duplex for T {}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::providers) struct Asked {
    /// 0 for the first connection.
    pub(in crate::providers) connection: usize,
    /// Request line and headers.
    pub(in crate::providers) head: String,
}

impl Asked {
    pub(in crate::providers) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(in crate::providers) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// An HTTP server for tests. The script responds to one request, and returns true if the connection stays open.
pub(in crate::providers) struct Server {
    pub(in crate::providers) port: u16,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    stop: AtomicBool,
}

type Script = Arc<dyn Fn(&Asked, &mut dyn Duplex) -> bool + Send + Sync>;

impl Server {
    pub(in crate::providers) fn new(
        script: impl Fn(&Asked, &mut dyn Duplex) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::start(None, Arc::new(script))
    }

    /// Starts a server that gives the same response to all requests.
    pub(in crate::providers) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::new(move |_, stream| stream.write_all(&answer).is_ok())
    }

    /// Starts a server with a certificate for 127.0.0.1.
    pub(in crate::providers) fn with_tls(authority: &Authority, answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(Some(authority.server()), Arc::new(move |_, stream| stream.write_all(&answer).is_ok()))
    }

    fn start(tls: Option<Arc<ServerConfig>>, script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let record = Arc::new(Record::default());
        thread::spawn({
            let record = Arc::clone(&record);
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if record.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let connection = record.connections.fetch_add(1, Ordering::Relaxed);
                    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                    let (record, script, tls) = (Arc::clone(&record), Arc::clone(&script), tls.clone());
                    thread::spawn(move || match tls {
                        None => serve(stream, connection, &record, &script),
                        Some(tls) => {
                            let tls = ServerConnection::new(tls).unwrap();
                            serve(StreamOwned::new(tls, stream), connection, &record, &script);
                        }
                    });
                }
            }
        });
        Self { port, record }
    }

    /// Returns the server's URL with this path.
    pub(in crate::providers) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(in crate::providers) fn asked(&self) -> Vec<Asked> {
        self.record.asked.lock().unwrap().clone()
    }

    pub(in crate::providers) fn connections(&self) -> usize {
        self.record.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.record.stop.store(true, Ordering::Relaxed);
        // Wakes the thread.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn serve(mut stream: impl Duplex, connection: usize, record: &Record, script: &Script) {
    while let Some(head) = read_head(&mut stream) {
        let asked = Asked { connection, head };
        record.asked.lock().unwrap().push(asked.clone());
        if !script(&asked, &mut stream) || stream.flush().is_err() {
            return;
        }
    }
}

/// Returns `None` if the client has disconnected.
pub(in crate::providers) fn read_head(stream: &mut dyn Duplex) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Returns a response as bytes. An example of `status` is `200 OK`. `headers` contains lines with their line ends.
pub(in crate::providers) fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub(in crate::providers) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A new certificate authority that no client trusts.
pub(in crate::providers) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(in crate::providers) pem: String,
}

impl Authority {
    pub(in crate::providers) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn server(&self) -> Arc<ServerConfig> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        Arc::new(config.unwrap())
    }
}

/// A file that is removed when the value is dropped.
pub(in crate::providers) struct TempFile(PathBuf);

impl TempFile {
    pub(in crate::providers) fn new(content: impl AsRef<[u8]>) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cowrie_enrich_test_{}_{number}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }

    pub(in crate::providers) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub(in crate::providers) fn write(&self, content: &str) {
        fs::write(&self.0, content).unwrap();
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
