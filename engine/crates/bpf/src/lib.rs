//! Programs of the kernel's fast path: their objects (from `bpf/`), and how they are loaded.

pub mod guard;
