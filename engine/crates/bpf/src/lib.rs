//! BPF programs: their objects (compiled from `bpf/`), how they are loaded, and what they have counted.
//!
//! - `loader`: loads any of the objects. Always in this order: open, set constants and sizes of maps, load, fill maps.
//! - `guard`: the guard program of a captured pod.
//! - `drops`: what guards have dropped.
//! - `layout`: mirrors of the structs and enums in `bpf/include`, compared with the objects' type information by a test.
//!
//! No module here knows what is to be captured.

pub mod drops;
mod error;
pub mod guard;
mod layout;
mod loader;

pub use error::BpfError;
