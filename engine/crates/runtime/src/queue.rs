//! Who is served next: of those that wait, the one that has had least time.
//!
//! Fair queueing by virtual time, as for packets (Demers, Keshav, Shenker: Analysis and Simulation of a Fair Queueing
//! Algorithm, 1989), with time in place of bytes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use slab::Slab;

/// Nanoseconds that somebody who has not been there for a while is ahead of the others: served at once, but not for long.
const CREDIT_NS: u64 = 1_000_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    shares: Slab<Share<T>>,
    /// Those that have something waiting, except the one that is being served.
    waiting: BinaryHeap<Reverse<(u64, usize)>>,
    /// What the one that was served last had used by then: the others are measured by it.
    now_ns: u64,
}

#[derive(Debug)]
struct Share<T> {
    items: VecDeque<T>,
    used_ns: u64,
    /// It waits, or it is being served.
    listed: bool,
    holders: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { shares: Slab::new(), waiting: BinaryHeap::new(), now_ns: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Make a share; it has nothing, and one holder.
    pub(crate) fn add(&mut self) -> usize {
        self.shares.insert(Share { items: VecDeque::new(), used_ns: self.now_ns, listed: false, holders: 1 })
    }

    /// One more holder.
    pub(crate) fn hold(&mut self, key: usize) {
        if let Some(share) = self.shares.get_mut(key) {
            share.holders += 1;
        }
    }

    /// One holder less. A share without any is forgotten, when it has been served.
    pub(crate) fn release(&mut self, key: usize) {
        if let Some(share) = self.shares.get_mut(key) {
            share.holders -= 1;
            self.forget_released(key);
        }
    }

    /// Put an item at the end of a share's.
    pub(crate) fn push(&mut self, key: usize, item: T) {
        let Some(share) = self.shares.get_mut(key) else { return };
        share.items.push_back(item);
        if !share.listed {
            share.listed = true;
            share.used_ns = share.used_ns.max(self.now_ns.saturating_sub(CREDIT_NS));
            self.waiting.push(Reverse((share.used_ns, key)));
        }
    }

    /// Take an item and its share's key; [`FairQueue::served`] must follow.
    pub(crate) fn pop(&mut self) -> Option<(usize, T)> {
        let Reverse((used_ns, key)) = self.waiting.pop()?;
        self.now_ns = self.now_ns.max(used_ns);
        let item = self.shares.get_mut(key)?.items.pop_front()?;
        Some((key, item))
    }

    /// Count what the share's item has taken.
    pub(crate) fn served(&mut self, key: usize, took_ns: u64) {
        let Some(share) = self.shares.get_mut(key) else { return };
        share.used_ns += took_ns;
        share.listed = !share.items.is_empty();
        if share.listed {
            self.waiting.push(Reverse((share.used_ns, key)));
        }
        self.forget_released(key);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn forget_released(&mut self, key: usize) {
        if self.shares.get(key).is_some_and(|share| share.holders == 0 && !share.listed) {
            self.shares.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    /// Serve `times` items that take `costs_ns` each, by share; who is served always has another. Returns who was.
    fn serve(queue: &mut FairQueue<()>, times: usize, cost_ns: impl Fn(usize) -> u64) -> Vec<usize> {
        let serve_one = |_| {
            let (key, ()) = queue.pop().unwrap();
            queue.push(key, ());
            queue.served(key, cost_ns(key));
            key
        };
        (0..times).map(serve_one).collect()
    }

    #[test]
    fn each_has_the_same_time_whatever_it_has_waiting() {
        let mut queue = FairQueue::default();
        let (many, one) = (queue.add(), queue.add());
        (0..500).for_each(|_| queue.push(many, ()));
        queue.push(one, ());
        let served = serve(&mut queue, 100, |_| 10);
        assert_eq!(served.iter().filter(|key| **key == one).count(), 50);
    }

    #[test]
    fn who_takes_longer_is_served_less_often() {
        let mut queue = FairQueue::default();
        let (slow, quick) = (queue.add(), queue.add());
        queue.push(slow, ());
        queue.push(quick, ());
        let served = serve(&mut queue, 400, |key| if key == slow { 300 } else { 100 });
        assert_eq!(served.iter().filter(|key| **key == slow).count(), 100);
    }

    #[test]
    fn who_comes_back_is_next_but_not_for_what_was_missed() {
        let mut queue = FairQueue::default();
        let (busy, back) = (queue.add(), queue.add());
        queue.push(busy, ());
        serve(&mut queue, 100, |_| CREDIT_NS);
        queue.push(back, ());
        let served = serve(&mut queue, 20, |_| CREDIT_NS / 2);
        assert_eq!(served.first(), Some(&back));
        assert!(served.iter().filter(|key| **key == back).count() <= 12, "{served:?}");
    }

    #[test]
    fn items_of_one_share_come_in_order() {
        let mut queue = FairQueue::default();
        let key = queue.add();
        (0..5).for_each(|item| queue.push(key, item));
        let mut order = Vec::new();
        while let Some((key, item)) = queue.pop() {
            order.push(item);
            queue.served(key, 10);
        }
        assert_eq!(order, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_share_that_is_released_while_it_is_served_is_forgotten_then() {
        let mut queue = FairQueue::default();
        let key = queue.add();
        queue.push(key, ());
        queue.pop().unwrap();
        queue.release(key);
        assert_ne!(queue.add(), key);
        queue.served(key, 10);
        assert!(queue.is_empty());
        assert_eq!(queue.add(), key);
    }
}
