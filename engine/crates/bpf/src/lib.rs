//! BPF programs: their objects (compiled from `bpf/`), how they are loaded, and what they have counted.
//!
//! - `loader`: loads any of the objects. Always in this order: open, set constants and sizes of maps, load, fill maps.
//! - `guard`: the guard program of a captured pod.
//! - `capture`: capture by BPF; `plans` writes what is wanted into its maps.
//! - `direct`: the maps of connections that do without the tunnel, for the engine.
//! - `egress`: default deny for what leaves a pod.
//! - `pins`: where maps and links are kept; `sys`: the system call that keeps them.
//! - `drops`: what guards have dropped.
//! - `layout`: mirrors of the structs and enums in `bpf/include`, compared with the objects' type information by a test.
//!
//! No module here decides what is to be captured.

pub mod capture;
pub mod direct;
pub mod drops;
pub mod egress;
mod error;
pub mod guard;
mod layout;
mod loader;
mod pins;
pub mod plans;
mod sys;

pub use error::BpfError;
