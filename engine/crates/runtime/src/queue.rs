//! Picks the group that runs next: of those with ready items, the one that has used the least time.
//!
//! Fair queueing by virtual time, as for packets (Demers, Keshav, Shenker: Analysis and Simulation of a Fair Queueing
//! Algorithm, 1989), with time in place of bytes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use slab::Slab;

/// Maximum credit, in nanoseconds, granted to a group that was idle: it runs at once, but not for long.
const CREDIT_NS: u64 = 1_000_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    groups: Slab<Group<T>>,
    /// Groups with ready items, except the one that runs.
    waiting: BinaryHeap<Reverse<(u64, usize)>>,
    /// Virtual time: what the group that ran last had used before it ran.
    now_ns: u64,
}

#[derive(Debug)]
struct Group<T> {
    items: VecDeque<T>,
    used_ns: u64,
    /// Whether the group waits in the heap or runs.
    scheduled: bool,
    holders: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { groups: Slab::new(), waiting: BinaryHeap::new(), now_ns: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Add a group without items; it has one holder.
    pub(crate) fn add(&mut self) -> usize {
        self.groups.insert(Group { items: VecDeque::new(), used_ns: self.now_ns, scheduled: false, holders: 1 })
    }

    /// Add a holder.
    pub(crate) fn hold(&mut self, key: usize) {
        if let Some(group) = self.groups.get_mut(key) {
            group.holders += 1;
        }
    }

    /// Remove a holder. A group without holders is removed once it does not run.
    pub(crate) fn release(&mut self, key: usize) {
        if let Some(group) = self.groups.get_mut(key) {
            group.holders -= 1;
            self.remove_released(key);
        }
    }

    /// Append an item to a group's queue.
    pub(crate) fn push(&mut self, key: usize, item: T) {
        let Some(group) = self.groups.get_mut(key) else { return };
        group.items.push_back(item);
        if !group.scheduled {
            group.scheduled = true;
            group.used_ns = group.used_ns.max(self.now_ns.saturating_sub(CREDIT_NS));
            self.waiting.push(Reverse((group.used_ns, key)));
        }
    }

    /// Take the next item and its group's key; [`FairQueue::served`] must follow.
    pub(crate) fn pop(&mut self) -> Option<(usize, T)> {
        let Reverse((used_ns, key)) = self.waiting.pop()?;
        self.now_ns = self.now_ns.max(used_ns);
        let item = self.groups.get_mut(key)?.items.pop_front()?;
        Some((key, item))
    }

    /// Charge the group for the time that its item took.
    pub(crate) fn served(&mut self, key: usize, took_ns: u64) {
        let Some(group) = self.groups.get_mut(key) else { return };
        group.used_ns += took_ns;
        group.scheduled = !group.items.is_empty();
        if group.scheduled {
            self.waiting.push(Reverse((group.used_ns, key)));
        }
        self.remove_released(key);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn remove_released(&mut self, key: usize) {
        if self.groups.get(key).is_some_and(|group| group.holders == 0 && !group.scheduled) {
            self.groups.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    /// Serve `times` items that take `cost_ns` each; a served group always has another. Returns the groups.
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
    fn groups_get_equal_time_however_many_items_they_have() {
        let mut queue = FairQueue::default();
        let (many, one) = (queue.add(), queue.add());
        (0..500).for_each(|_| queue.push(many, ()));
        queue.push(one, ());
        let served = serve(&mut queue, 100, |_| 10);
        assert_eq!(served.iter().filter(|key| **key == one).count(), 50);
    }

    #[test]
    fn a_group_with_long_items_is_served_less_often() {
        let mut queue = FairQueue::default();
        let (slow, quick) = (queue.add(), queue.add());
        queue.push(slow, ());
        queue.push(quick, ());
        let served = serve(&mut queue, 400, |key| if key == slow { 300 } else { 100 });
        assert_eq!(served.iter().filter(|key| **key == slow).count(), 100);
    }

    #[test]
    fn an_idle_group_runs_next_but_does_not_catch_up() {
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
    fn items_of_a_group_run_in_order() {
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
    fn a_group_released_while_it_runs_is_removed_afterwards() {
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
