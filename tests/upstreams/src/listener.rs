//! Accepts connections on a thread of its own until it is closed; from then on the kernel refuses them.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub struct Listener {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// `serve` is called on the accepting thread and must not block it.
    pub fn open(
        address: SocketAddr,
        mut serve: impl FnMut(TcpStream) + Send + 'static,
    ) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let closing = Arc::new(AtomicBool::new(false));
        let closes = Arc::clone(&closing);
        let thread = std::thread::spawn(move || {
            while !closes.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) if !closes.load(Ordering::SeqCst) => serve(stream),
                    Ok(_) => {}
                    // Out of file descriptors, most likely: some will be closed.
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(Listener { address, closing, thread: Some(thread) })
    }

    /// Opens one again where it was closed.
    ///
    /// # Panics
    /// When another program has taken the port and keeps it.
    pub fn reopen(closed: &mut Option<Listener>, open: impl Fn() -> io::Result<Listener>) {
        let started = Instant::now();
        while closed.is_none() {
            match open() {
                Ok(opened) => *closed = Some(opened),
                Err(problem) => {
                    assert!(started.elapsed() < Duration::from_secs(10), "could not listen again: {problem}");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes the thread; where this fails the thread is awake already.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(10)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
