//! Layer 4 authorization: who may connect to what.
//!
//! Order: a matching DENY refuses; without any ALLOW policy the connection passes; a matching ALLOW passes; else it
//! is refused. A policy is OR over rules, a rule AND over clauses, a clause OR over matches, a match AND over the
//! fields that are set. A match with no field set matches nothing; a rule without clauses matches everything.
//! Source: Istio's ztunnel. One difference on purpose: a workload that names a policy which is not known (yet) is
//! closed to everybody, because what the policy forbids cannot be known either.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_core::Rejection;
use culvert_core::identity::Identity;
use culvert_core::proto::security as wire;
use ipnet::IpNet;

use crate::parse::{known, parse_ip, parse_port};
use crate::workload::Workload;

/// What policies see of a connection.
#[derive(Debug, Clone)]
pub struct Subject {
    /// `None`: plain text, not authenticated.
    pub peer: Option<Identity>,
    /// The address of the client.
    pub source: IpAddr,
    /// The address and port of the application.
    pub destination: SocketAddr,
}

/// Why a connection is refused; texts are those that Istio's users search for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// By a DENY policy.
    #[error("explicitly denied by: {0}")]
    By(Arc<str>),
    /// Some ALLOW policy applies, and none matches.
    #[error("allow policies exist, but none allowed")]
    NotAllowed,
    /// The workload names a policy that has not arrived.
    #[error("policy {0} is not known yet")]
    Unknown(Arc<str>),
}

/// All policies, by where they apply.
#[derive(Debug, Default)]
pub struct Policies {
    all: HashMap<Arc<str>, Arc<Policy>>,
    global: Vec<Arc<Policy>>,
    by_namespace: HashMap<Arc<str>, Vec<Arc<Policy>>>,
}

impl Policies {
    /// Add a policy, or replace the one of the same key.
    pub fn insert(&mut self, policy: Policy) {
        self.remove(&policy.key);
        let policy = Arc::new(policy);
        match policy.scope {
            wire::Scope::Global => self.global.push(policy.clone()),
            wire::Scope::Namespace => {
                self.by_namespace.entry(policy.namespace.clone()).or_default().push(policy.clone());
            }
            wire::Scope::WorkloadSelector => {}
        }
        self.all.insert(policy.key.clone(), policy);
    }

    /// Remove a policy; returns whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let Some(policy) = self.all.remove(key) else { return false };
        self.global.retain(|other| !Arc::ptr_eq(other, &policy));
        if let Some(list) = self.by_namespace.get_mut(&policy.namespace) {
            list.retain(|other| !Arc::ptr_eq(other, &policy));
        }
        true
    }

    /// All policies.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.all.values()
    }

    /// Decide for a connection to `workload`.
    ///
    /// # Errors
    /// The reason of the denial.
    pub fn authorize(&self, workload: &Workload, subject: &Subject) -> Result<(), Denied> {
        self.evaluate(workload, subject).map(drop)
    }

    /// The same with the ALLOW policy that let the connection through; `None` where there is no ALLOW policy at all.
    ///
    /// # Errors
    /// The reason of the denial.
    pub fn evaluate(&self, workload: &Workload, subject: &Subject) -> Result<Option<Arc<str>>, Denied> {
        decide(&self.applying(workload)?, subject, |policy| !policy.dry_run)
    }

    /// Evaluate policy, and return why a connection that passes would be denied if dry-run policies were enforced.
    ///
    /// # Errors
    /// The reason of the denial.
    pub fn evaluate_with_shadow(&self, workload: &Workload, subject: &Subject) -> Result<Option<Denied>, Denied> {
        let applying = self.applying(workload)?;
        decide(&applying, subject, |policy| !policy.dry_run)?;
        if applying.iter().all(|policy| !policy.dry_run) {
            return Ok(None);
        }
        Ok(decide(&applying, subject, |_| true).err())
    }

    /// The policies in dry run that match a connection to `workload`, by name.
    #[must_use]
    pub fn dry_run(&self, workload: &Workload, subject: &Subject) -> Vec<Arc<str>> {
        let named = workload.policies.iter().filter_map(|key| self.all.get(key));
        let matching =
            self.everywhere(workload).chain(named).filter(|policy| policy.dry_run && policy.matches(subject));
        let mut keys: Vec<_> = matching.map(|policy| policy.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn applying(&self, workload: &Workload) -> Result<Vec<&Arc<Policy>>, Denied> {
        let mut applying: Vec<&Arc<Policy>> = self.everywhere(workload).collect();
        for key in &workload.policies {
            applying.push(self.all.get(key).ok_or_else(|| Denied::Unknown(key.clone()))?);
        }
        Ok(applying)
    }

    /// Policies that no workload needs to name.
    fn everywhere(&self, workload: &Workload) -> impl Iterator<Item = &Arc<Policy>> {
        self.global.iter().chain(self.by_namespace.get(&workload.namespace).into_iter().flatten())
    }
}

/// Decide by the policies that count; a connection that passes comes with the ALLOW policy that let it through, if any.
fn decide(
    applying: &[&Arc<Policy>],
    subject: &Subject,
    counts: impl Fn(&Policy) -> bool,
) -> Result<Option<Arc<str>>, Denied> {
    let of = |action| applying.iter().filter(|policy| counts(policy)).filter(move |policy| policy.action == action);
    if let Some(policy) = of(wire::Action::Deny).find(|policy| policy.matches(subject)) {
        return Err(Denied::By(policy.key.clone()));
    }
    let mut allows = of(wire::Action::Allow).peekable();
    if allows.peek().is_none() {
        return Ok(None);
    }
    allows.find(|policy| policy.matches(subject)).map(|policy| Some(policy.key.clone())).ok_or(Denied::NotAllowed)
}

/// One policy, ready to be matched.
#[derive(Debug)]
pub struct Policy {
    /// `namespace/name`.
    pub key: Arc<str>,
    /// The name of its resource.
    pub name: String,
    /// The namespace of its resource.
    pub namespace: Arc<str>,
    /// Where it applies.
    pub scope: wire::Scope,
    /// What a match means.
    pub action: wire::Action,
    /// Whether its verdict is only counted and logged.
    pub dry_run: bool,
    /// Rules of clauses of matches.
    pub rules: Vec<Vec<Vec<Match>>>,
}

impl Policy {
    /// Read a policy as the control plane sends it.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn parse(wire: wire::Authorization) -> Result<Self, Rejection> {
        let scope = known("scope", wire.scope)?;
        let action = known("action", wire.action)?;
        let clause = |clause: wire::Clause| clause.matches.into_iter().map(Match::parse).collect::<Result<_, _>>();
        let rules = wire
            .rules
            .into_iter()
            .map(|rule| rule.clauses.into_iter().map(clause).collect::<Result<Vec<_>, _>>())
            .collect::<Result<_, Rejection>>()?;
        Ok(Self {
            key: format!("{}/{}", wire.namespace, wire.name).into(),
            name: wire.name,
            namespace: wire.namespace.into(),
            scope,
            action,
            dry_run: wire.dry_run,
            rules,
        })
    }

    fn matches(&self, subject: &Subject) -> bool {
        let clause = |clause: &Vec<Match>| clause.is_empty() || clause.iter().any(|one| one.matches(subject));
        self.rules.iter().any(|rule| rule.iter().all(clause))
    }
}

/// Values to match and values not to match; both empty: no condition.
#[derive(Debug)]
pub struct Condition<T> {
    /// One of these must match.
    pub any_of: Vec<T>,
    /// None of these may match.
    pub none_of: Vec<T>,
}

impl<T> Condition<T> {
    fn parse<W>(any_of: Vec<W>, none_of: Vec<W>, parse: impl Fn(W) -> Result<T, Rejection>) -> Result<Self, Rejection> {
        let list = |values: Vec<W>| values.into_iter().map(&parse).collect::<Result<Vec<_>, _>>();
        Ok(Self { any_of: list(any_of)?, none_of: list(none_of)? })
    }

    const fn is_empty(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }

    fn holds(&self, test: impl Fn(&T) -> bool) -> bool {
        (self.any_of.is_empty() || self.any_of.iter().any(&test)) && !self.none_of.iter().any(&test)
    }
}

/// Conditions that must all hold.
#[derive(Debug)]
pub struct Match {
    /// The peer's namespace.
    pub namespaces: Condition<Pattern>,
    /// The peer's identity without `spiffe://`.
    pub principals: Condition<Pattern>,
    /// The peer's namespace and service account.
    pub service_accounts: Condition<(String, String)>,
    /// The client's address.
    pub sources: Condition<IpNet>,
    /// The application's address.
    pub destinations: Condition<IpNet>,
    /// The application's port.
    pub ports: Condition<u16>,
}

impl Match {
    fn parse(wire: wire::Match) -> Result<Self, Rejection> {
        let account = |account: wire::ServiceAccountMatch| Ok((account.namespace, account.service_account));
        Ok(Self {
            namespaces: Condition::parse(wire.namespaces, wire.not_namespaces, |v| Pattern::parse("namespaces", v))?,
            principals: Condition::parse(wire.principals, wire.not_principals, |v| Pattern::parse("principals", v))?,
            service_accounts: Condition::parse(wire.service_accounts, wire.not_service_accounts, account)?,
            sources: Condition::parse(wire.source_ips, wire.not_source_ips, |v| parse_range("source_ips", &v))?,
            destinations: Condition::parse(wire.destination_ips, wire.not_destination_ips, |v| {
                parse_range("destination_ips", &v)
            })?,
            ports: Condition::parse(wire.destination_ports, wire.not_destination_ports, |v| {
                parse_port("destination_ports", v)
            })?,
        })
    }

    fn matches(&self, subject: &Subject) -> bool {
        let asks_nothing = self.namespaces.is_empty()
            && self.principals.is_empty()
            && self.service_accounts.is_empty()
            && self.sources.is_empty()
            && self.destinations.is_empty()
            && self.ports.is_empty();
        if asks_nothing {
            return false;
        }
        let peer = subject.peer.as_ref();
        let namespace = peer.map_or("", Identity::namespace);
        let principal = peer.map_or("", Identity::principal);
        let account = peer.map_or("", Identity::service_account);
        self.namespaces.holds(|pattern| peer.is_some() && pattern.matches(namespace))
            && self.principals.holds(|pattern| peer.is_some() && pattern.matches(principal))
            && self.service_accounts.holds(|(ns, sa)| peer.is_some() && ns == namespace && sa == account)
            && self.sources.holds(|range| range.contains(&subject.source))
            && self.destinations.holds(|range| range.contains(&subject.destination.ip()))
            && self.ports.holds(|&port| port == subject.destination.port())
    }
}

/// How a string is compared; always with case.
#[derive(Debug)]
pub enum Pattern {
    /// The whole string.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// Any string that is not empty.
    Presence,
}

impl Pattern {
    fn parse(field: &str, wire: wire::StringMatch) -> Result<Self, Rejection> {
        use wire::string_match::MatchType;
        match wire.match_type {
            Some(MatchType::Exact(text)) => Ok(Self::Exact(text)),
            Some(MatchType::Prefix(text)) => Ok(Self::Prefix(text)),
            Some(MatchType::Suffix(text)) => Ok(Self::Suffix(text)),
            Some(MatchType::Presence(())) => Ok(Self::Presence),
            None => Err(Rejection::new(field, "a string match says nothing")),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_str()),
            Self::Presence => !text.is_empty(),
        }
    }
}

fn parse_range(field: &str, wire: &wire::Address) -> Result<IpNet, Rejection> {
    let ip = parse_ip(field, &wire.address)?;
    let length = u8::try_from(wire.length).unwrap_or(u8::MAX);
    // Connections are seen with IPv4 as IPv4; a range of IPv4 in IPv6's clothes would match none of them.
    let (ip, length) = match (ip.to_canonical(), length.checked_sub(96)) {
        (plain @ IpAddr::V4(_), Some(shorter)) if ip.is_ipv6() => (plain, shorter),
        _ => (ip, length),
    };
    IpNet::new(ip, length)
        .map(|range| range.trunc())
        .map_err(|_| Rejection::new(field, format!("{} is no prefix length of {ip}", wire.length)))
}

#[cfg(test)]
#[path = "policy/tests.rs"]
mod tests;
