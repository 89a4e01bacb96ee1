//! What is counted and logged.

use std::sync::Arc;

use crate::line_format::{FormatError, LineFormat};
use crate::tcp::SeriesSettings;

/// Settings that hold as long as the process runs. See the fields of `EngineConfig` in `meshapi/proto/engine.proto`.
#[derive(Debug, Clone, Default)]
pub struct TelemetrySettings {
    /// Whether entries of the access log are OpenTelemetry records too.
    pub access_log_records: bool,
    /// Whether DNS queries are logged.
    pub dns_log: bool,
    /// The time series of connections.
    pub series: SeriesSettings,
}

/// Lines as text or as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Text.
    Text,
    /// JSON.
    Json,
}

/// Which lines are written.
#[derive(Debug, Clone)]
pub enum AccessLogSettings {
    /// None.
    Off,
    /// The fields of Istio's ztunnel.
    Fields(Encoding),
    /// A format of the mesh's own. Lines that are not about the end of a connection have ztunnel's fields.
    Format(Arc<LineFormat>, Encoding),
}

impl AccessLogSettings {
    /// Lines in the mesh's encoding and format; an empty format means the fields of Istio's ztunnel.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn parse(encoding: Encoding, format: &str) -> Result<Self, FormatError> {
        if format.is_empty() {
            return Ok(Self::Fields(encoding));
        }
        let parsed = match encoding {
            Encoding::Text => LineFormat::text(format),
            Encoding::Json => LineFormat::json(format),
        };
        Ok(Self::Format(Arc::new(parsed?), encoding))
    }

    /// Whether lines may show more than the fields of Istio's ztunnel.
    #[must_use]
    pub const fn has_format(&self) -> bool {
        matches!(self, Self::Format(..))
    }

    pub(crate) const fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    pub(crate) const fn encoding(&self) -> Encoding {
        match self {
            Self::Off => Encoding::Text,
            Self::Fields(encoding) | Self::Format(_, encoding) => *encoding,
        }
    }
}
