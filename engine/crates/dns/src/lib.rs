//! DNS messages as far as a proxy must understand them: whose question it is, and how to answer it or pass it on.
//!
//! Pure: no sockets, no clock, no state; [`decide`] is the whole of it and takes any bytes. Only questions are read,
//! and names in questions must not be compressed, so no pointer is ever followed: what loops cannot be met. Answers
//! of resolvers are passed on as bytes, so whatever is in them (DNSSEC, new types) arrives whole.
//!
//! Written here and not taken from a library because this is all that is needed: general ones bring dozens of crates
//! (Unicode tables, random numbers) and the code for reading and writing every record, which is where theirs fail.

mod decide;
mod message;
pub mod names;
mod reply;
pub mod resolv_conf;

pub use decide::{Action, Decision, Lookup, decide};
pub use message::{Malformed, Query, QueryType, Question};
pub use reply::{Rcode, addresses_in, is_answer_to, is_truncated, query, refusal, rewrite_id, without_nxdomain};

/// Seconds that our own answers may be kept.
pub const TTL_S: u32 = 30;

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One datagram each.
    Udp,
    /// Each behind its length, RFC 1035 section 4.2.2.
    Tcp,
}

impl Transport {
    /// As metrics and logs call it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}
