//! Counters of the engine, and the metric families that the host exposes.
//!
//! A family without labels is made by [`single`], one whose label has a few fixed values by [`by_label`]. Label sets that
//! traffic chooses are in a [`SeriesTable`], which bounds their number and evicts those that are idle. This crate does not
//! know what is counted.

mod family;
mod histogram;
mod series;

pub use family::{by_label, single};
pub use histogram::{Histogram, HistogramValues};
pub use series::{Instrument, LabelSet, SeriesLimits, SeriesTable, Snapshot};
