//! What to do with a packet from a pod.

use std::net::IpAddr;

use crate::Transport;
use crate::message::{Query, QueryType, Question, header};
use crate::reply::{Rcode, answer, refusal};

/// What the mesh says of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Not a name of the mesh: forward the query.
    Unknown,
    /// A name of the mesh, with its addresses of the queried type.
    Known(Vec<IpAddr>),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// No answer: it has no receiver, or is itself a response.
    Ignore,
    /// Send this back.
    Reply(Vec<u8>),
    /// Forward the same bytes to the pod's own resolver.
    Forward {
        /// The mesh has records of this name, though not of this type: there is no "no such name".
        exists: bool,
    },
}

/// What to do and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// `None` where it cannot be read.
    pub question: Option<Question>,
    /// What to do.
    pub action: Action,
    /// Addresses in a reply of ours.
    pub answers: usize,
}

/// Decide what to do with a packet, whatever its bytes. `lookup` is called for host names only.
pub fn decide(packet: &[u8], transport: Transport, lookup: impl FnOnce(&str, QueryType) -> Lookup) -> Decision {
    let only = |action| Decision { question: None, action, answers: 0 };
    let refuse = |rcode| only(refusal(packet, rcode).map_or(Action::Ignore, Action::Reply));
    let Some([_, flags, ..]) = header(packet) else { return only(Action::Ignore) };
    let (is_response, operation) = (flags >> 15 == 1, (flags >> 11) & 0xF);
    if is_response {
        return only(Action::Ignore);
    }
    if operation != 0 {
        return refuse(Rcode::NotImp);
    }
    let Ok(query) = Query::parse(packet) else { return refuse(Rcode::FormErr) };
    // A later version of EDNS may mean anything: the resolver knows how to say which versions there are.
    let host = query.question.host.as_deref().filter(|_| !query.edns_is_newer);
    let found = host.map_or(Lookup::Unknown, |host| lookup(host, query.question.query_type));
    let is_address = matches!(query.question.query_type, QueryType::A | QueryType::AAAA);
    let (action, answers) = match found {
        Lookup::Unknown => (Action::Forward { exists: false }, 0),
        Lookup::Known(addresses) if is_address => {
            (Action::Reply(answer(&query, &addresses, transport)), addresses.len())
        }
        Lookup::Known(_) => (Action::Forward { exists: true }, 0),
    };
    Decision { question: Some(query.question), action, answers }
}

#[cfg(test)]
#[path = "decide/tests.rs"]
mod tests;
