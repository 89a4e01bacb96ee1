//! Selection among endpoints: of those not tried yet and not ejected, the best rank, by weight.

use std::net::{IpAddr, SocketAddr};

use crate::dns_cache::DnsCache;
use crate::outlier::Ejected;

/// What a selection has to respect besides the endpoints' ranks and weights.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelectionContext<'a> {
    /// Uniform in 0..1.
    pub random: f64,
    /// Endpoints that this connection has tried already.
    pub tried: &'a [SocketAddr],
    /// Endpoints that keep failing; `None` where there are none.
    pub ejected: Option<&'a Ejected>,
    /// Addresses of endpoints that have only a host name.
    pub hosts: Option<&'a DnsCache>,
}

/// The endpoint that was selected for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Its key for outlier detection: its address with the target port.
    pub address: SocketAddr,
    /// Whether there are others that have not been tried.
    pub others: bool,
}

/// An endpoint that may be selected.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<T, R> {
    /// The endpoint, as the caller knows it.
    pub endpoint: T,
    /// Only endpoints of the highest rank are selected.
    pub rank: R,
    /// Its share among those of its rank; 0 is never selected.
    pub weight: u32,
}

/// The result of [`select`].
#[derive(Debug, Clone, Copy)]
pub struct Selected<T> {
    /// The endpoint, as the caller knows it.
    pub endpoint: T,
    /// Whether there are others that have not been tried.
    pub others: bool,
}

/// Select one of `candidates`; `address` returns the socket address of an endpoint, where it is known. `None` if there is
/// none with a weight.
pub fn select<T: Copy, R: Ord + Copy>(
    candidates: Vec<Candidate<T, R>>,
    context: SelectionContext<'_>,
    address: impl Fn(&T) -> Option<SocketAddr>,
) -> Option<Selected<T>> {
    let (candidates, others) = selectable(candidates, context, address);
    let selected = by_weight(&candidates, context.random)?;
    Some(Selected { endpoint: selected.endpoint, others })
}

/// Those of `candidates` among which [`select`] selects, and whether there are others.
pub fn selectable<T: Copy, R: Ord + Copy>(
    mut candidates: Vec<Candidate<T, R>>,
    context: SelectionContext<'_>,
    address: impl Fn(&T) -> Option<SocketAddr>,
) -> (Vec<Candidate<T, R>>, bool) {
    if !context.tried.is_empty() || context.ejected.is_some() {
        context.narrow(&mut candidates, |candidate| address(&candidate.endpoint));
    }
    let best = candidates.iter().map(|candidate| candidate.rank).max();
    let others = candidates.len() > 1;
    candidates.retain(|candidate| Some(candidate.rank) == best);
    (candidates, others)
}

impl SelectionContext<'_> {
    /// Leave out the endpoints that were tried, and a share of those that are ejected: never all that are left.
    fn narrow<C>(self, candidates: &mut Vec<C>, address: impl Fn(&C) -> Option<SocketAddr>) {
        let all = candidates.len();
        candidates.retain(|one| address(one).is_none_or(|address| !self.tried.contains(&address)));
        let Some(ejected) = self.ejected else { return };
        let is_ejected = |one: &C| address(one).is_some_and(|address| ejected.contains(address));
        let mut may_leave_out = ejected.limit(all).min(candidates.len().saturating_sub(1));
        candidates.retain(|one| {
            let stays = may_leave_out == 0 || !is_ejected(one);
            if !stays {
                may_leave_out -= 1;
            }
            stays
        });
    }
}

/// The first of an endpoint's addresses that has the family of `like`, or else its first one.
pub fn preferred_address(mut addresses: impl Iterator<Item = IpAddr>, like: IpAddr) -> Option<IpAddr> {
    let first = addresses.next()?;
    let alike = |ip: &IpAddr| ip.is_ipv4() == like.is_ipv4();
    Some(if alike(&first) { first } else { addresses.find(alike).unwrap_or(first) })
}

fn by_weight<T, R>(candidates: &[Candidate<T, R>], random: f64) -> Option<&Candidate<T, R>> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "weights are small"
    )]
    let mut ticket = (random * total as f64) as u64;
    for candidate in candidates {
        let weight = u64::from(candidate.weight);
        if ticket < weight {
            return Some(candidate);
        }
        ticket -= weight;
    }
    // All weights are zero: no endpoint is meant to be used.
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(ranks_and_weights: &[(u8, u32)]) -> Vec<Candidate<u16, u8>> {
        (0..).zip(ranks_and_weights).map(|(endpoint, &(rank, weight))| Candidate { endpoint, rank, weight }).collect()
    }

    fn address(endpoint: &u16) -> Option<SocketAddr> {
        Some(SocketAddr::from(([10, 0, 0, 1], *endpoint)))
    }

    fn selected(all: &[(u8, u32)], random: f64, tried: &[SocketAddr]) -> Option<(u16, bool)> {
        let context = SelectionContext { random, tried, ..SelectionContext::default() };
        select(candidates(all), context, address).map(|selected| (selected.endpoint, selected.others))
    }

    #[test]
    fn the_highest_rank_is_shared_by_weight() {
        let all = [(0, 9), (1, 1), (1, 3)];
        assert_eq!(
            [0.0, 0.24, 0.25, 0.99].map(|random| selected(&all, random, &[])),
            [1, 1, 2, 2].map(|n| Some((n, true)))
        );
    }

    #[test]
    fn what_was_tried_is_left_out_whatever_its_rank() {
        let all = [(0, 1), (1, 1)];
        let tried: Vec<_> = [1].iter().filter_map(address).collect();
        assert_eq!(selected(&all, 0.5, &tried), Some((0, false)));
        assert_eq!(selected(&[(0, 1)], 0.5, &[SocketAddr::from(([10, 0, 0, 1], 0))]), None);
    }

    #[test]
    fn weight_zero_is_never_selected() {
        assert_eq!(selected(&[(0, 0), (0, 2)], 0.0, &[]), Some((1, true)));
        assert_eq!(selected(&[(0, 0)], 0.0, &[]), None);
    }
}
