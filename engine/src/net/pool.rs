//! Threads that run exchanges.
//!
//! No function of the pool waits. A thread sends its result into the channel before it notifies the owner. The owner
//! drains the notifier before it reads the channel. If a result arrives after the drain, its notification makes the
//! descriptor readable again. So the owner misses no result.

use std::io;
use std::os::fd::BorrowedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::notifier::Notifier;

/// One exchange, which runs on a thread of a pool. Only the engine implements this trait, because code on these threads
/// must not call PostgreSQL.
pub trait Task: Send + 'static {
    type Done: Send + 'static;

    /// Runs the exchange. Returns soon after `cancel` is set, or at the deadline of the exchange. Returns the results
    /// that have arrived until then.
    fn run(self, cancel: &Cancel) -> Self::Done;

    /// Returns the result that the pool reports if `run` panicked.
    fn lost(panic: String) -> Self::Done;
}

/// A request to stop, shared between the owner and its exchanges.
#[derive(Clone, Default, Debug)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Stack size of a thread, in bytes. `getaddrinfo` and the modules that it loads need most of the stack. TLS needs less
/// than 192 KiB, even in a build without optimisation. Buffers are on the heap.
const STACK: usize = 512 * 1024;

/// A finished exchange.
#[derive(PartialEq, Debug)]
pub struct Finished<D> {
    pub ticket: u64,
    pub done: D,
    /// Duration of the exchange on its thread.
    pub took: Duration,
}

pub struct Pool<T: Task> {
    /// Cancels the exchanges started since the last `cancel`.
    cancel: Cancel,
    sender: Sender<Finished<T::Done>>,
    results: Receiver<Finished<T::Done>>,
    notifier: Arc<Notifier>,
    /// True if other pools use the same notifier. In this case, the owner of the pools drains the notifier. Otherwise
    /// the pool drains it.
    is_shared: bool,
    running: usize,
}

impl<T: Task> Pool<T> {
    pub fn new() -> io::Result<Self> {
        let mut pool = Self::with_notifier(Notifier::new()?);
        pool.is_shared = false;
        Ok(pool)
    }

    /// Returns a pool that shares a notifier with other pools. The owner must drain the notifier before it collects
    /// the results of any of these pools.
    pub fn with_notifier(notifier: Arc<Notifier>) -> Self {
        let (sender, results) = mpsc::channel();
        Self { cancel: Cancel::new(), sender, results, notifier, is_shared: true, running: 0 }
    }

    /// Returns a descriptor that becomes readable when an exchange has finished. The owner polls this descriptor
    /// together with the descriptors of its own events, and then calls `finished`.
    pub fn ready(&self) -> BorrowedFd<'_> {
        self.notifier.fd()
    }

    /// Runs the task on a new thread. The thread inherits the caller's signal mask, so the caller must block all
    /// signals before this call. Otherwise the signal handlers of the process could run on the thread. If the system
    /// cannot create a thread, drops the task and returns the error.
    pub fn start(&mut self, ticket: u64, task: T) -> io::Result<()> {
        let cancel = self.cancel.clone();
        let sender = self.sender.clone();
        let notifier = Arc::clone(&self.notifier);
        thread::Builder::new().name("exchange".into()).stack_size(STACK).spawn(move || {
            let began = Instant::now();
            let done = panic::catch_unwind(AssertUnwindSafe(|| task.run(&cancel)))
                .unwrap_or_else(|panic| T::lost(text_of(&*panic)));
            // Ignores an error. It means that the owner has dropped the pool, and then the result is not needed.
            let _ = sender.send(Finished { ticket, done, took: began.elapsed() });
            notifier.notify();
        })?;
        self.running += 1;
        Ok(())
    }

    /// Returns the number of exchanges that were started and not collected.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Collects finished exchanges. A task that panicked gives its `Task::lost`.
    pub fn finished(&mut self) -> Vec<Finished<T::Done>> {
        if !self.is_shared {
            self.notifier.drain();
        }
        let finished: Vec<_> = self.results.try_iter().collect();
        self.running -= finished.len();
        finished
    }

    /// Cancels all exchanges that are running. Exchanges that are started later are not cancelled. The results of the
    /// cancelled exchanges arrive within about 200 ms, with three exceptions:
    /// - A thread inside `getaddrinfo` ends when that call returns. It sends no data afterwards.
    /// - A thread inside `connect` ends when its attempt to connect ends, after at most 10 s. It sends no data
    ///   afterwards.
    /// - An HTTP exchange that has begun is not interrupted. It ends at its deadline at the latest.
    pub fn cancel(&mut self) {
        self.cancel.set();
        self.cancel = Cancel::new();
    }
}

/// Dropping a pool does not wait for its threads. A thread may hang in `getaddrinfo`, and the owner of the pool must be
/// able to exit.
impl<T: Task> Drop for Pool<T> {
    fn drop(&mut self) {
        self.cancel.set();
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    enum Work {
        Return(u32),
        UntilCancelled,
        Panic,
    }

    impl Task for Work {
        type Done = Result<u32, String>;

        fn run(self, cancel: &Cancel) -> Self::Done {
            match self {
                Self::Return(number) => Ok(number),
                Self::UntilCancelled => {
                    while !cancel.is_set() {
                        thread::sleep(Duration::from_millis(1));
                    }
                    Ok(0)
                }
                Self::Panic => panic!("told to"),
            }
        }

        fn lost(panic: String) -> Self::Done {
            Err(panic)
        }
    }

    /// Waits for the notifier as an owner does, but reads a byte instead of calling poll(2). If this function receives
    /// a byte, poll(2) would have reported the descriptor as readable.
    fn collect(pool: &mut Pool<Work>, count: usize) -> Vec<(u64, Result<u32, String>)> {
        let begun = Instant::now();
        let mut all = Vec::new();
        while all.len() < count {
            assert!(begun.elapsed() < Duration::from_secs(30), "{} of {count} finished", all.len());
            if pool.notifier.takes_one() {
                all.extend(pool.finished().into_iter().map(|f| (f.ticket, f.done)));
            } else {
                thread::sleep(Duration::from_millis(1));
            }
        }
        all.sort();
        all
    }

    #[test]
    fn every_result_rings_and_comes_out_once() {
        let mut pool = Pool::new().unwrap();
        for number in 0..50 {
            pool.start(number.into(), Work::Return(number)).unwrap();
        }
        assert_eq!(pool.running(), 50);
        let expected: Vec<_> = (0..50).map(|number| (u64::from(number), Ok(number))).collect();
        assert_eq!(collect(&mut pool, 50), expected);
        assert_eq!(pool.running(), 0);
        assert_eq!(pool.finished(), []);
        assert!(!pool.notifier.takes_one(), "a notification without a result");
    }

    #[test]
    fn time_is_that_of_the_task_not_of_its_owner() {
        let mut pool = Pool::new().unwrap();
        pool.start(1, Work::Return(1)).unwrap();
        pool.start(2, Work::UntilCancelled).unwrap();
        thread::sleep(Duration::from_millis(50));
        pool.cancel();
        let mut finished = Vec::new();
        while finished.len() < 2 {
            finished.extend(pool.finished());
        }
        finished.sort_by_key(|finished| finished.ticket);
        assert!(finished[0].took < finished[1].took, "{finished:?}");
        assert!(finished[1].took >= Duration::from_millis(40), "{finished:?}");
    }

    #[test]
    fn panic_comes_out_as_a_lost_task() {
        let mut pool = Pool::new().unwrap();
        pool.start(7, Work::Panic).unwrap();
        assert_eq!(collect(&mut pool, 1), [(7, Err("told to".into()))]);
    }

    #[test]
    fn cancel_stops_what_runs_and_nothing_that_starts_later() {
        let mut pool = Pool::new().unwrap();
        pool.start(1, Work::UntilCancelled).unwrap();
        pool.start(2, Work::UntilCancelled).unwrap();
        pool.cancel();
        assert_eq!(collect(&mut pool, 2), [(1, Ok(0)), (2, Ok(0))]);

        pool.start(3, Work::UntilCancelled).unwrap();
        pool.start(4, Work::Return(9)).unwrap();
        assert_eq!(collect(&mut pool, 1), [(4, Ok(9))]);
        assert_eq!(pool.running(), 1);
    }

    #[test]
    fn dropped_pool_cancels_and_does_not_wait() {
        let mut pool = Pool::new().unwrap();
        pool.start(1, Work::UntilCancelled).unwrap();
        let notifier = Arc::downgrade(&pool.notifier);
        drop(pool);
        let begun = Instant::now();
        while notifier.upgrade().is_some() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the thread goes on");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
