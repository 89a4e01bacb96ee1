//! Programs of the kernel's fast path: their objects (from `bpf/`), and how they are loaded.

mod guard;

pub use guard::{Guard, LoadError, Older, Signs};
