//! Loads an object of `bpf/`: open, set constants and sizes of maps, load, fill maps, load a program.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::maps::Map;
use aya::programs::{Program, ProgramError, ProgramFd};
use aya::{Ebpf, EbpfLoader, Pod};

use crate::error::{BpfError, reason};

/// A compiled object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object {
    /// Its file's name without suffixes, for messages.
    pub(crate) name: &'static str,
    /// The ELF file, aligned.
    pub(crate) bytes: &'static [u8],
}

/// The object of a program, which the build script has compiled.
macro_rules! object {
    ($name:literal) => {
        $crate::loader::Object {
            name: $name,
            bytes: aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/", $name, ".o")),
        }
    };
}
pub(crate) use object;

/// An object that is being prepared.
pub(crate) struct Loader<'a> {
    object: Object,
    inner: EbpfLoader<'a>,
}

impl<'a> Loader<'a> {
    /// Open an object.
    pub(crate) fn open(object: Object) -> Self {
        let mut inner = EbpfLoader::new();
        inner.btf(None); // nothing here depends on the kernel's types
        Self { object, inner }
    }

    /// Set a constant (`volatile const`), which has to exist.
    pub(crate) fn constant<T: Pod>(mut self, name: &'a str, value: &'a T) -> Self {
        self.inner.set_global(name, value, true);
        self
    }

    /// Set the number of entries of a map.
    pub(crate) fn max_entries(mut self, map: &'a str, entries: u32) -> Self {
        self.inner.set_max_entries(map, entries);
        self
    }

    /// Take the maps that are marked for it from a folder of pins, or make them there.
    pub(crate) fn pins(mut self, folder: &Path) -> Self {
        self.inner.map_pin_path(folder);
        self.inner.allow_unsupported_maps(); // socket storage: aya creates it and cannot read it, which this crate never does
        self
    }

    /// Create the maps and relocate the programs.
    pub(crate) fn load(mut self) -> Result<Loaded, BpfError> {
        let object = self.object;
        let inner = self.inner.load(object.bytes).map_err(|error| failed(object, &error))?;
        Ok(Loaded { object, inner })
    }
}

/// An object whose maps exist. They live while a program that uses them does.
pub(crate) struct Loaded {
    object: Object,
    inner: Ebpf,
}

impl Loaded {
    /// One of its maps, by name.
    pub(crate) fn map(&mut self, name: &'static str) -> Result<&mut Map, BpfError> {
        let object = self.object;
        self.inner.map_mut(name).ok_or_else(|| missing(object, name))
    }

    /// One of its maps, to keep.
    pub(crate) fn take_map(&mut self, name: &'static str) -> Result<Map, BpfError> {
        let object = self.object;
        self.inner.take_map(name).ok_or_else(|| missing(object, name))
    }

    /// Load a program. It lives while its descriptor is open or it is attached.
    pub(crate) fn program(&mut self, name: &'static str) -> Result<OwnedFd, BpfError> {
        let object = self.object;
        let program = self.inner.program_mut(name).ok_or_else(|| missing(object, name))?;
        let loaded = load(program).map_err(|error| failed(object, &error))?;
        loaded.as_fd().try_clone_to_owned().map_err(|error| failed(object, &error))
    }

    /// The error of something that was refused for this object.
    pub(crate) fn failed(&self, error: &dyn Error) -> BpfError {
        failed(self.object, error)
    }
}

fn load(program: &mut Program) -> Result<&ProgramFd, ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        Program::CgroupSockopt(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        Program::SkLookup(program) => program.load()?,
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    program.fd()
}

fn failed(object: Object, error: &dyn Error) -> BpfError {
    BpfError::NotLoaded { object: object.name, reason: reason(error) }
}

fn missing(object: Object, name: &str) -> BpfError {
    failed(object, &io::Error::other(format!("it has no program or map {name}")))
}
