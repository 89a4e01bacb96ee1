//! A format of the mesh's own for lines of the access log: Envoy's command operators.
//!
//! Source: Envoy, "Access logging": `%NAME%`, `%NAME(argument)%`, `%NAME(argument):LENGTH%`; `%%` is a percent sign. The
//! control plane compares names with those that Envoy knows; here an operator that layer 4 cannot know the value of
//! prints `-` in text and `null` in JSON, as Envoy does for a value that is absent.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use culvert_net::transfer::Transfer;
use serde_json::Value;

use crate::flow::{Direction, Flow};
use crate::outcome::{FlowEnd, ResponseFlag};
use crate::time_format::TimeFormat;

/// Why a format cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// An operator has another form.
    #[error("{0:?} is not an operator; write %NAME%, %NAME(argument)% or %% for a percent sign")]
    Operator(String),
    /// A conversion of a time is not known.
    #[error("{0:?} is not a time that can be written; use %Y %m %d %H %M %S %F %T %f %s")]
    Time(String),
    /// A JSON format is something else.
    #[error("is not a JSON object: {0}")]
    Json(String),
}

/// A connection that has ended.
pub(crate) struct Ended<'a> {
    pub flow: &'a Flow,
    pub end: &'a FlowEnd,
    pub duration: Duration,
    pub transfer: Transfer,
    pub now: SystemTime,
}

/// The form of one line.
#[derive(Debug, Clone)]
pub enum LineFormat {
    /// Text.
    Text(Template),
    /// A JSON object.
    Json(Node),
}

/// Text with operators.
#[derive(Debug, Clone)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Literal(String),
    Operator { operator: Operator, length: Option<usize> },
}

/// A value of a JSON format.
#[derive(Debug, Clone)]
pub enum Node {
    /// A value without operators.
    Fixed(Value),
    /// Text.
    Text(Template),
    /// An array.
    List(Vec<Node>),
    /// An object.
    Object(Vec<(String, Node)>),
}

#[derive(Debug, Clone)]
enum Operator {
    StartTime(TimeFormat),
    Duration,
    BytesReceived,
    BytesSent,
    ResponseFlags,
    TerminationDetails,
    TransportFailure,
    Address(End, Shown),
    Identity(Side),
    /// Layer 4 does not know it.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Downstream,
    /// The address that the client connected to.
    Local,
    Upstream,
}

#[derive(Debug, Clone, Copy)]
enum Shown {
    Both,
    Ip,
    Port,
}

#[derive(Debug, Clone, Copy)]
enum Side {
    DownstreamPeer,
    DownstreamLocal,
    UpstreamPeer,
    UpstreamLocal,
}

/// The value of one operator.
enum Known<'a> {
    Text(Cow<'a, str>),
    Number(u64),
    Absent,
}

impl LineFormat {
    pub(crate) fn text(format: &str) -> Result<Self, FormatError> {
        let mut template = Template::parse(format)?;
        if !format.ends_with('\n') {
            template.0.push(Part::Literal("\n".to_owned()));
        }
        Ok(Self::Text(template))
    }

    pub(crate) fn json(format: &str) -> Result<Self, FormatError> {
        match serde_json::from_str(format) {
            Ok(value @ Value::Object(_)) => Node::parse(value).map(Self::Json),
            Ok(_) => Err(FormatError::Json("it has another type".to_owned())),
            Err(error) => Err(FormatError::Json(error.to_string())),
        }
    }

    /// The line of a connection, which ends with a newline.
    pub(crate) fn line(&self, ended: &Ended<'_>) -> Vec<u8> {
        match self {
            Self::Text(template) => template.text(ended).into_bytes(),
            Self::Json(node) => {
                let mut line = node.value(ended).to_string();
                line.push('\n');
                line.into_bytes()
            }
        }
    }
}

impl Node {
    fn parse(value: Value) -> Result<Self, FormatError> {
        Ok(match value {
            Value::String(text) => Self::Text(Template::parse(&text)?),
            Value::Array(values) => Self::List(values.into_iter().map(Self::parse).collect::<Result<_, _>>()?),
            Value::Object(fields) => {
                let parse = |(name, value)| Self::parse(value).map(|node| (name, node));
                Self::Object(fields.into_iter().map(parse).collect::<Result<_, _>>()?)
            }
            fixed => Self::Fixed(fixed),
        })
    }

    fn value(&self, ended: &Ended<'_>) -> Value {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Text(template) => template.value(ended),
            Self::List(nodes) => nodes.iter().map(|node| node.value(ended)).collect(),
            Self::Object(fields) => {
                Value::Object(fields.iter().map(|(name, node)| (name.clone(), node.value(ended))).collect())
            }
        }
    }
}

impl Template {
    fn parse(format: &str) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut rest = format;
        while let Some((literal, after)) = rest.split_once('%') {
            push_literal(&mut parts, literal);
            let Some(after_percent) = after.strip_prefix('%') else {
                let (part, after) = parse_operator(after)?;
                parts.push(part);
                rest = after;
                continue;
            };
            push_literal(&mut parts, "%");
            rest = after_percent;
        }
        push_literal(&mut parts, rest);
        Ok(Self(parts))
    }

    fn text(&self, ended: &Ended<'_>) -> String {
        let mut line = String::with_capacity(256);
        for part in &self.0 {
            match part {
                Part::Literal(text) => line.push_str(text),
                Part::Operator { operator, length } => match operator.value(ended) {
                    Known::Absent => line.push('-'),
                    Known::Number(number) => line.push_str(&number.to_string()),
                    Known::Text(text) => push_escaped(&mut line, cut(&text, *length)),
                },
            }
        }
        line
    }

    /// One operator alone keeps its type; everything else is text.
    fn value(&self, ended: &Ended<'_>) -> Value {
        let [Part::Operator { operator, length }] = self.0.as_slice() else { return self.plain(ended).into() };
        match operator.value(ended) {
            Known::Absent => Value::Null,
            Known::Number(number) => number.into(),
            Known::Text(text) => cut(&text, *length).into(),
        }
    }

    /// As text, but for JSON, which escapes by itself.
    fn plain(&self, ended: &Ended<'_>) -> String {
        let part = |part: &Part| match part {
            Part::Literal(text) => text.clone(),
            Part::Operator { operator, length } => match operator.value(ended) {
                Known::Absent => "-".to_owned(),
                Known::Number(number) => number.to_string(),
                Known::Text(text) => cut(&text, *length).to_owned(),
            },
        };
        self.0.iter().map(part).collect()
    }
}

fn push_literal(parts: &mut Vec<Part>, literal: &str) {
    match parts.last_mut() {
        _ if literal.is_empty() => {}
        Some(Part::Literal(before)) => before.push_str(literal),
        _ => parts.push(Part::Literal(literal.to_owned())),
    }
}

/// No value can end the line: control characters are escaped.
fn push_escaped(line: &mut String, text: &str) {
    for char in text.chars() {
        if char.is_control() { line.extend(char.escape_default()) } else { line.push(char) }
    }
}

fn cut(text: &str, length: Option<usize>) -> &str {
    let length = length.unwrap_or(usize::MAX);
    text.char_indices().nth(length).and_then(|(at, _)| text.get(..at)).unwrap_or(text)
}

/// Parse what follows a percent sign; returns the rest.
fn parse_operator(format: &str) -> Result<(Part, &str), FormatError> {
    let bad = || FormatError::Operator(format!("%{}", format.chars().take(80).collect::<String>()));
    let is_name = |char: char| char.is_ascii_uppercase() || char.is_ascii_digit() || char == '_';
    let end = format.find(|char| !is_name(char)).ok_or_else(bad)?;
    let (name, mut rest) = format.split_at_checked(end).ok_or_else(bad)?;
    if !name.starts_with(|char: char| char.is_ascii_uppercase()) {
        return Err(bad());
    }
    let mut argument = "";
    if let Some(inner) = rest.strip_prefix('(') {
        (argument, rest) = inner.split_once(')').ok_or_else(bad)?;
    }
    let mut length = None;
    if let Some(after) = rest.strip_prefix(':') {
        let (digits, _) = after.split_once('%').ok_or_else(bad)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        length = Some(digits.parse().unwrap_or(usize::MAX));
        rest = after.strip_prefix(digits).unwrap_or(after);
    }
    let rest = rest.strip_prefix('%').ok_or_else(bad)?;
    Ok((Part::Operator { operator: Operator::parse(name, argument)?, length }, rest))
}

impl Operator {
    fn parse(name: &str, argument: &str) -> Result<Self, FormatError> {
        use {End as E, Shown as S};
        Ok(match name {
            "START_TIME" => {
                let format = TimeFormat::parse(argument);
                Self::StartTime(format.ok_or_else(|| FormatError::Time(argument.to_owned()))?)
            }
            "DURATION" => Self::Duration,
            "BYTES_RECEIVED" => Self::BytesReceived,
            "BYTES_SENT" => Self::BytesSent,
            "RESPONSE_FLAGS" => Self::ResponseFlags,
            "CONNECTION_TERMINATION_DETAILS" => Self::TerminationDetails,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Self::TransportFailure,
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Self::Address(E::Downstream, S::Both),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                Self::Address(E::Downstream, S::Ip)
            }
            "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => Self::Address(E::Downstream, S::Port),
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::Address(E::Local, S::Both),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::Address(E::Local, S::Ip),
            "DOWNSTREAM_LOCAL_PORT" => Self::Address(E::Local, S::Port),
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Self::Address(E::Upstream, S::Both),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::Address(E::Upstream, S::Ip),
            "UPSTREAM_REMOTE_PORT" => Self::Address(E::Upstream, S::Port),
            "DOWNSTREAM_PEER_URI_SAN" => Self::Identity(Side::DownstreamPeer),
            "DOWNSTREAM_LOCAL_URI_SAN" => Self::Identity(Side::DownstreamLocal),
            "UPSTREAM_PEER_URI_SAN" => Self::Identity(Side::UpstreamPeer),
            "UPSTREAM_LOCAL_URI_SAN" => Self::Identity(Side::UpstreamLocal),
            _ => Self::Unknown,
        })
    }

    fn value<'a>(&self, ended: &Ended<'a>) -> Known<'a> {
        let Ended { flow, end, .. } = *ended;
        match self {
            Self::StartTime(format) => Known::Text(format.write(ended.now - ended.duration).into()),
            Self::Duration => Known::Number(u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX)),
            Self::BytesReceived => Known::Number(ended.transfer.to_destination),
            Self::BytesSent => Known::Number(ended.transfer.to_client),
            Self::ResponseFlags if end.flag == ResponseFlag::None => Known::Absent,
            Self::ResponseFlags => Known::Text(end.flag.label().into()),
            Self::TerminationDetails => text(end.error.as_deref()),
            Self::TransportFailure => text(end.error.as_deref().filter(|_| end.flag.is_of_transport())),
            Self::Address(of, shown) => address(*of, flow, end).map_or(Known::Absent, |address| match shown {
                Shown::Both => Known::Text(address.to_string().into()),
                Shown::Ip => Known::Text(address.ip().to_string().into()),
                Shown::Port => Known::Number(address.port().into()),
            }),
            Self::Identity(side) => text(identity(*side, flow)),
            Self::Unknown => Known::Absent,
        }
    }
}

fn text(value: Option<&str>) -> Known<'_> {
    value.filter(|value| !value.is_empty()).map_or(Known::Absent, |value| Known::Text(value.into()))
}

fn address(of: End, flow: &Flow, end: &FlowEnd) -> Option<SocketAddr> {
    let application = flow.hbone_address.unwrap_or(flow.destination_address);
    match (of, flow.direction) {
        (End::Downstream, _) => Some(flow.source_address),
        (End::Local, Direction::Inbound) => Some(application),
        (End::Local, Direction::Outbound) => Some(flow.original_destination().unwrap_or(application)),
        // Refused before anything was chosen or connected to.
        (End::Upstream, _) if matches!(end.flag, ResponseFlag::NotInRegistry) => None,
        (End::Upstream, Direction::Inbound) if matches!(end.flag, ResponseFlag::Denied) => None,
        (End::Upstream, Direction::Inbound) => Some(application),
        (End::Upstream, Direction::Outbound) => Some(flow.destination_address),
    }
}

/// Identities that TLS or the kernel has proved, each at the side where the tunnel is.
fn identity(side: Side, flow: &Flow) -> Option<&str> {
    let peer = match (side, flow.direction) {
        (Side::DownstreamPeer, Direction::Inbound) | (Side::UpstreamLocal, Direction::Outbound) => &flow.source,
        (Side::DownstreamLocal, Direction::Inbound) | (Side::UpstreamPeer, Direction::Outbound) => &flow.destination,
        _ => return None,
    };
    let is_authenticated = flow.security != crate::flow::Security::Plain;
    peer.identity.as_ref().filter(|_| is_authenticated).map(culvert_core::identity::Identity::as_str)
}

#[cfg(test)]
#[path = "line_format/tests.rs"]
mod tests;
