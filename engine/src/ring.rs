//! A ring buffer in shared memory. Many processes write records, and one process reads them. No process ever waits.
//!
//! Each slot holds one record. A record has a fixed number of words, and each word is an atomic. One pass over all slots is a
//! round. While a slot is free, its `turn` is twice the number of the round. While the slot holds a record, its `turn` is one
//! higher.
//!
//! A writer claims the next slot by increasing `head`, writes the record, and then sets `turn`. A reader claims a slot by
//! increasing `tail`, reads the record, and then sets `turn` to the value for the next round. If the ring is full, a new record is
//! refused. If a writer stops between these steps, readers cannot pass its slot. Other writers can continue until the ring is full.
//!
//! If all bytes of the memory are zero, the ring is empty. Processes may share the whole ring.

use std::sync::atomic::{AtomicU64, Ordering};

#[repr(C)]
pub struct Ring<const WORDS: usize, const SLOTS: usize> {
    /// Records written and read so far.
    head: AtomicU64,
    tail: AtomicU64,
    slots: [Slot<WORDS>; SLOTS],
}

#[repr(C)]
struct Slot<const WORDS: usize> {
    turn: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize, const SLOTS: usize> Ring<WORDS, SLOTS> {
    /// Creates an empty ring.
    pub fn new() -> Self {
        let slot = || Slot { turn: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) };
        Self { head: AtomicU64::new(0), tail: AtomicU64::new(0), slots: std::array::from_fn(|_| slot()) }
    }

    /// Appends a record. Returns false if the ring is full.
    pub fn push(&self, record: &[u64; WORDS]) -> bool {
        let mut position = self.head.load(Ordering::Relaxed);
        loop {
            let (slot, free) = self.slot(position);
            let turn = slot.turn.load(Ordering::Acquire);
            if turn < free {
                // The slot holds an unread record of an earlier round.
                return false;
            }
            if turn > free {
                // Another writer has claimed this slot.
                position = self.head.load(Ordering::Relaxed);
                continue;
            }
            let next = position.wrapping_add(1);
            let taken = self.head.compare_exchange_weak(position, next, Ordering::Relaxed, Ordering::Relaxed);
            match taken {
                Ok(_) => {
                    for (word, value) in slot.words.iter().zip(record) {
                        word.store(*value, Ordering::Relaxed);
                    }
                    slot.turn.store(free + 1, Ordering::Release);
                    return true;
                }
                Err(current) => position = current,
            }
        }
    }

    /// Removes and returns the oldest record. Returns `None` if the ring has no record, or if a writer has not finished the oldest
    /// record yet.
    pub fn pop(&self) -> Option<[u64; WORDS]> {
        let mut position = self.tail.load(Ordering::Relaxed);
        loop {
            let (slot, free) = self.slot(position);
            let turn = slot.turn.load(Ordering::Acquire);
            if turn < free + 1 {
                return None;
            }
            if turn > free + 1 {
                position = self.tail.load(Ordering::Relaxed);
                continue;
            }
            let next = position.wrapping_add(1);
            let taken = self.tail.compare_exchange_weak(position, next, Ordering::Relaxed, Ordering::Relaxed);
            match taken {
                Ok(_) => {
                    let record = std::array::from_fn(|word| slot.words[word].load(Ordering::Relaxed));
                    slot.turn.store(free + 2, Ordering::Release);
                    return Some(record);
                }
                Err(current) => position = current,
            }
        }
    }

    /// Returns the number of records. It is approximate while others write.
    pub fn len(&self) -> usize {
        let (tail, head) = (self.tail.load(Ordering::Relaxed), self.head.load(Ordering::Relaxed));
        usize::try_from(head.saturating_sub(tail)).unwrap_or(usize::MAX).min(SLOTS)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the slot for the record at a position. Also returns the value of the slot's `turn` at which this record may be
    /// written.
    fn slot(&self, position: u64) -> (&Slot<WORDS>, u64) {
        let slots = SLOTS as u64;
        (&self.slots[(position % slots) as usize], position / slots * 2)
    }
}

impl<const WORDS: usize, const SLOTS: usize> Default for Ring<WORDS, SLOTS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    #[test]
    fn records_come_out_in_their_order_and_a_full_ring_takes_nothing() {
        let ring = Ring::<3, 4>::new();
        for round in 0..50 {
            assert_eq!((ring.pop(), ring.len()), (None, 0));
            let kept = 1 + round % 4;
            for n in 0..kept {
                assert!(ring.push(&[round, n, round ^ n]));
            }
            if kept == 4 {
                assert!(!ring.push(&[9, 9, 9]) && !ring.push(&[9, 9, 9]));
            }
            assert_eq!(ring.len() as u64, kept);
            for n in 0..kept {
                assert_eq!(ring.pop(), Some([round, n, round ^ n]));
            }
        }
    }

    /// Eight threads write to a ring as fast as possible, and two threads read from it. The ring is always full. The test checks
    /// that every accepted record is read exactly once and is complete. It also checks that each reader sees the records of one
    /// writer in their order.
    #[test]
    fn what_many_write_comes_out_once_and_whole() {
        const WRITERS: u64 = 8;
        const RECORDS: u64 = 20_000;
        let ring = Ring::<5, 16>::new();
        let finished = AtomicBool::new(false);
        let (taken, read) = thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let ring = &ring;
                    scope.spawn(move || {
                        (0..RECORDS)
                            .filter(|n| {
                                let taken = ring.push(&[writer, *n, writer ^ n, writer + n, !n]);
                                if !taken {
                                    thread::yield_now();
                                }
                                taken
                            })
                            .count()
                    })
                })
                .collect();
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let (ring, finished) = (&ring, &finished);
                    scope.spawn(move || {
                        let mut read = Vec::new();
                        loop {
                            let is_last = finished.load(Ordering::Acquire);
                            match ring.pop() {
                                Some(record) => read.push(record),
                                None if is_last => return read,
                                None => thread::yield_now(),
                            }
                        }
                    })
                })
                .collect();
            let taken: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
            finished.store(true, Ordering::Release);
            let read: Vec<Vec<_>> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
            (taken, read)
        });
        let mut seen = BTreeMap::new();
        for read in &read {
            let mut last = [None; WRITERS as usize];
            for [writer, n, xor, sum, not] in read.iter().copied() {
                assert_eq!((xor, sum, not), (writer ^ n, writer + n, !n), "torn");
                assert!(last[writer as usize] < Some(n), "out of order");
                last[writer as usize] = Some(n);
                assert_eq!(seen.insert((writer, n), ()), None, "twice");
            }
        }
        assert_eq!(seen.len(), taken);
        assert!(ring.is_empty());
    }
}
