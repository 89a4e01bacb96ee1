//! Reading a query: header, one question, EDNS (RFC 1035 section 4.1, RFC 6891).

/// Bytes of a header.
pub(crate) const HEADER: usize = 12;

/// Of a name on the wire, its root label included (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;

const CLASS_IN: u16 = 1;
const TYPE_OPT: u16 = 41;

/// The bytes are no query that has exactly one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed query")]
pub struct Malformed;

/// A type of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueryType(pub u16);

impl QueryType {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// IPv6 address.
    pub const AAAA: Self = Self(28);

    /// Its name in metrics and logs; unusual types share one.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self.0 {
            1 => "A",
            2 => "NS",
            5 => "CNAME",
            6 => "SOA",
            12 => "PTR",
            15 => "MX",
            16 => "TXT",
            28 => "AAAA",
            33 => "SRV",
            35 => "NAPTR",
            43 => "DS",
            48 => "DNSKEY",
            64 => "SVCB",
            65 => "HTTPS",
            255 => "ANY",
            _ => "OTHER",
        }
    }
}

/// The query's question section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Lower case, without the last dot; `None` where the name could not be a host's (class other than IN included).
    pub host: Option<String>,
    /// Which records.
    pub query_type: QueryType,
}

/// A readable query.
#[derive(Debug)]
pub struct Query<'a> {
    /// The queried type.
    pub question: Question,
    pub(crate) flags: [u8; 2],
    pub(crate) id: [u8; 2],
    /// The question section as received, to be repeated in the answer.
    pub(crate) question_bytes: &'a [u8],
    /// Largest datagram that the asker takes, where it speaks EDNS version 0.
    pub(crate) edns_size: Option<u16>,
    pub(crate) edns_is_newer: bool,
}

/// A resource record without its name.
pub(crate) struct Record<'a> {
    pub kind: u16,
    pub class: u16,
    pub ttl: [u8; 4],
    pub data: &'a [u8],
}

/// A cursor that never reads past the end.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?;
        bytes.try_into().map(u16::from_be_bytes).map_err(|_| Malformed)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take(1)?.first().copied().ok_or(Malformed)
    }

    /// A name without pointers: its labels as text where all of them could be a host's.
    fn plain_name(&mut self) -> Result<Option<String>, Malformed> {
        let (began, mut text, mut is_host) = (self.at, String::new(), true);
        loop {
            let length = self.u8()?;
            // The two high bits would be a pointer or a kind of label that was given up (RFC 6891 section 5).
            if length > 63 {
                return Err(Malformed);
            }
            if length == 0 {
                break;
            }
            let label = self.take(usize::from(length))?;
            if self.at - began >= LONGEST_NAME {
                return Err(Malformed);
            }
            if !text.is_empty() {
                text.push('.');
            }
            for &byte in label {
                is_host &= byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
                text.push(char::from(byte.to_ascii_lowercase()));
            }
        }
        Ok(Some(text).filter(|text| is_host && !text.is_empty()))
    }

    /// Step over a name; a pointer ends it and is not followed.
    pub(crate) fn skip_name(&mut self) -> Result<(), Malformed> {
        let began = self.at;
        loop {
            match self.u8()? {
                0 => return Ok(()),
                length @ 1..=63 => drop(self.take(usize::from(length))?),
                192.. => return self.take(1).map(drop),
                _ => return Err(Malformed),
            }
            if self.at - began >= LONGEST_NAME {
                return Err(Malformed);
            }
        }
    }

    /// Step over a question, which begins with a plain name.
    fn question(&mut self) -> Result<(Question, &'a [u8]), Malformed> {
        let began = self.at;
        let host = self.plain_name()?;
        let query_type = QueryType(self.u16()?);
        let class = self.u16()?;
        let bytes = self.bytes.get(began..self.at).ok_or(Malformed)?;
        Ok((Question { host: host.filter(|_| class == CLASS_IN), query_type }, bytes))
    }

    /// Step over a record.
    pub(crate) fn record(&mut self) -> Result<Record<'a>, Malformed> {
        self.skip_name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        let ttl = self.take(4)?.try_into().map_err(|_| Malformed)?;
        let length = self.u16()?;
        Ok(Record { kind, class, ttl, data: self.take(usize::from(length))? })
    }
}

/// The six 16-bit fields of a header.
pub(crate) fn header(bytes: &[u8]) -> Option<[u16; 6]> {
    let mut reader = Reader::at(bytes, 0);
    let mut fields = [0; 6];
    for field in &mut fields {
        *field = reader.u16().ok()?;
    }
    Some(fields)
}

impl<'a> Query<'a> {
    /// Read a query.
    ///
    /// # Errors
    /// [`Malformed`]; there may still be a header to answer to.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let [id, flags, questions, answers, authorities, additional] = header(bytes).ok_or(Malformed)?;
        if questions != 1 {
            return Err(Malformed);
        }
        let mut reader = Reader::at(bytes, HEADER);
        let (question, question_bytes) = reader.question()?;
        let (mut edns_size, mut edns_is_newer) = (None, false);
        // Each takes at least eleven bytes, so the message bounds the work, not the numbers that it claims.
        for _ in 0..u32::from(answers) + u32::from(authorities) + u32::from(additional) {
            let record = reader.record()?;
            if record.kind == TYPE_OPT {
                edns_size = Some(record.class);
                let [_, version, ..] = record.ttl;
                edns_is_newer = version != 0;
            }
        }
        let (id, flags) = (id.to_be_bytes(), flags.to_be_bytes());
        Ok(Self { question, flags, id, question_bytes, edns_size, edns_is_newer })
    }
}

#[cfg(test)]
#[path = "message/tests.rs"]
mod tests;
