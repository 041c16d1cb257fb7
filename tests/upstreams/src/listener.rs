//! Accepts connections in a thread until it is closed. After that the kernel refuses them.

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
    /// Starts a thread that accepts connections and calls `serve` for each. `serve` must not block the thread.
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
                    // The process is most likely out of file descriptors. Waits until some descriptors are closed.
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(Listener { address, closing, thread: Some(thread) })
    }

    /// Opens a listener again if it was closed.
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
        // Wakes the thread. If this fails, the thread is awake already.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(10)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
