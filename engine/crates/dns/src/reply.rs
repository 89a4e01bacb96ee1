//! Writing answers of our own, and looking at a resolver's as far as needed.

use std::net::IpAddr;

use crate::message::{HEADER, Malformed, Query, QueryType, Reader, header};
use crate::{TTL_S, Transport};

/// Without EDNS, RFC 1035 section 4.2.1.
const SMALLEST_DATAGRAM: usize = 512;
/// What we write at most; the way is the pod's own loopback, so nothing is fragmented.
const LARGEST_DATAGRAM: usize = 4096;
/// The UDP size that we advertise (DNS flag day 2020).
const OUR_DATAGRAM: u16 = 1232;
const OPT_RECORD: usize = 11;

/// A response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// Good, even where there is nothing.
    NoError = 0,
    /// The query cannot be read.
    FormErr = 1,
    /// We failed.
    ServFail = 2,
    /// No such name.
    NxDomain = 3,
    /// Another kind of message than a query.
    NotImp = 4,
}

const QR: u8 = 0x80;
const AA: u8 = 0x04;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const OPCODE: u8 = 0x78;
const RA: u8 = 0x80;
const CD: u8 = 0x10;

/// Answer `query` with addresses; those that do not fit are left out, and over UDP the truncation bit asks the client to retry over TCP.
pub(crate) fn answer(query: &Query<'_>, addresses: &[IpAddr], transport: Transport) -> Vec<u8> {
    let limit = match transport {
        Transport::Udp => usize::from(query.edns_size.unwrap_or_default()).clamp(SMALLEST_DATAGRAM, LARGEST_DATAGRAM),
        Transport::Tcp => usize::from(u16::MAX),
    };
    let record = 12 + if query.question.query_type == QueryType::A { 4 } else { 16 };
    let opt = if query.edns_size.is_some() { OPT_RECORD } else { 0 };
    let capacity = limit.saturating_sub(HEADER + query.question_bytes.len() + opt) / record;
    let included = addresses.get(..addresses.len().min(capacity)).unwrap_or(addresses);
    let truncated = transport == Transport::Udp && included.len() < addresses.len();

    let count = u16::try_from(included.len()).unwrap_or(u16::MAX);
    let mut bytes = head(query.id, query.flags, Rcode::NoError, AA | if truncated { TC } else { 0 });
    bytes.extend([0, 1]);
    bytes.extend(count.to_be_bytes());
    bytes.extend([0, 0, 0, u8::from(opt > 0)]);
    bytes.extend(query.question_bytes);
    for address in included {
        // The name is the question's, which begins behind the header.
        bytes.extend([0xC0, 0x0C]);
        bytes.extend(query.question.query_type.0.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(TTL_S.to_be_bytes());
        match address {
            IpAddr::V4(ip) => {
                bytes.extend([0, 4]);
                bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.extend([0, 16]);
                bytes.extend(ip.octets());
            }
        }
    }
    if opt > 0 {
        bytes.extend([0, 0, 41]);
        bytes.extend(OUR_DATAGRAM.to_be_bytes());
        bytes.extend([0; 6]);
    }
    bytes
}

/// An answer that says only what is wrong; `None` where there is not even a header, or it is no query.
#[must_use]
pub fn refusal(packet: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let [id, flags, ..] = header(packet)?;
    let (id, flags) = (id.to_be_bytes(), flags.to_be_bytes());
    if flags[0] & QR != 0 {
        return None;
    }
    let question = Query::parse(packet).ok().map_or(&[] as &[u8], |query| query.question_bytes);
    let mut bytes = head(id, flags, rcode, 0);
    bytes.extend([0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, 0]);
    bytes.extend(question);
    Some(bytes)
}

/// Identifier and flags of an answer.
fn head(id: [u8; 2], flags: [u8; 2], rcode: Rcode, more: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SMALLEST_DATAGRAM);
    bytes.extend(id);
    bytes.extend([QR | (flags[0] & (OPCODE | RD)) | more, RA | (flags[1] & CD) | rcode as u8]);
    bytes
}

/// A query for a host's addresses; `None` where the name cannot be one. The identifier is the sender's to put.
#[must_use]
pub fn query(host: &str, query_type: QueryType) -> Option<Vec<u8>> {
    let mut bytes = vec![0, 0, RD, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in host.split('.') {
        bytes.push(u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(query_type.0.to_be_bytes());
    bytes.extend([0, 1]);
    let is_whole = Query::parse(&bytes).is_ok_and(|query| query.question.host.is_some());
    is_whole.then_some(bytes)
}

/// Whether a resolver's answer is truncated, so that the query has to be repeated over TCP.
#[must_use]
pub fn is_truncated(response: &[u8]) -> bool {
    response.get(2).is_some_and(|flags| flags & TC != 0)
}

/// Put another identifier on a message.
pub fn rewrite_id(message: &mut [u8], id: u16) {
    for (byte, new) in message.iter_mut().zip(id.to_be_bytes()) {
        *byte = new;
    }
}

/// Whether `response` answers `query`: identifier, direction, operation, and the question, letter case aside.
///
/// A resolver that could not read the question may leave it out.
#[must_use]
pub fn is_answer_to(query: &[u8], response: &[u8]) -> bool {
    let (Some(sent), Some(received)) = (header(query), header(response)) else { return false };
    let [flags, _] = received[1].to_be_bytes();
    let [sent_flags, _] = sent[1].to_be_bytes();
    if sent[0] != received[0] || flags & QR == 0 || (flags ^ sent_flags) & OPCODE != 0 {
        return false;
    }
    let rcode = received[1] & 0xF;
    match received[2] {
        0 => rcode != 0,
        1 => Query::parse(query).is_ok_and(|query| {
            let length = query.question_bytes.len();
            let question = response.get(HEADER..HEADER + length);
            question.is_some_and(|question| question.eq_ignore_ascii_case(query.question_bytes))
        }),
        _ => false,
    }
}

/// Make "no such name" into "nothing of that type", for a name that we have records of.
pub fn without_nxdomain(response: &mut [u8]) {
    if let Some(flags) = response.get_mut(3)
        && *flags & 0xF == Rcode::NxDomain as u8
    {
        *flags &= 0xF0;
    }
}

/// The addresses in a resolver's answer and the seconds that the shortest-lived may be kept.
///
/// # Errors
/// [`Malformed`].
pub fn addresses_in(response: &[u8]) -> Result<(Vec<IpAddr>, u32), Malformed> {
    let [_, _, questions, answers, ..] = header(response).ok_or(Malformed)?;
    let mut reader = Reader::at(response, HEADER);
    for _ in 0..questions {
        reader.skip_name()?;
        reader.take(4)?;
    }
    let (mut found, mut ttl) = (Vec::new(), u32::MAX);
    for _ in 0..answers {
        let record = reader.record()?;
        let ip: Option<IpAddr> = match (record.kind, record.class) {
            (1, 1) => <[u8; 4]>::try_from(record.data).ok().map(IpAddr::from),
            (28, 1) => <[u8; 16]>::try_from(record.data).ok().map(IpAddr::from),
            _ => None,
        };
        if let Some(ip) = ip {
            found.push(ip);
            ttl = ttl.min(u32::from_be_bytes(record.ttl));
        }
    }
    Ok((found, ttl))
}
