//! Where the capture keeps its maps and links: a folder in a BPF file system, which outlives the process.
//!
//! ```text
//! <folder>/v1/cv_pods, ...              maps
//! <folder>/v1/hooks/cv_connect4, ...    links to the node's cgroup
//! <folder>/v1/tunnels/<cgroup>/...      links to a tunnel's cgroup
//! <folder>/v1/pods/<cookie>             a pod's sk_lookup link
//! ```
//!
//! `v1` is the layout of the maps; it changes with `bpf/include/capture.h`. Two agents with folders of their own do not
//! meet.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::sys::{self, AttachType, LinkTarget};

/// The layout of the maps.
const LAYOUT: &str = "v1";

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// Make the folder of the maps if it is missing.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let existing = folder.ancestors().find(|one| one.exists()).unwrap_or(folder);
        if !sys::is_in_bpf_file_system(existing)? {
            return Err(io::Error::other(format!(
                "{} is in no BPF file system; mount -t bpf bpf /sys/fs/bpf",
                folder.display()
            )));
        }
        let pins = Self { folder: folder.to_owned() };
        fs::create_dir_all(pins.maps())?;
        Ok(pins)
    }

    /// The pins of another process, below a folder as this one sees it.
    pub(crate) fn below(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Folder of the maps.
    pub(crate) fn maps(&self) -> PathBuf {
        self.folder.join(LAYOUT)
    }

    /// Folder of the links to the node's cgroup.
    pub(crate) fn hooks(&self) -> PathBuf {
        self.maps().join("hooks")
    }

    /// Folder of the links to a tunnel's cgroup.
    pub(crate) fn tunnel(&self, cgroup: u64) -> PathBuf {
        self.maps().join("tunnels").join(cgroup.to_string())
    }

    /// Cgroups of tunnels that have links.
    pub(crate) fn tunnels(&self) -> io::Result<Vec<u64>> {
        numbers(&self.maps().join("tunnels"))
    }

    /// A pod's link.
    pub(crate) fn pod(&self, cookie: u64) -> PathBuf {
        self.maps().join("pods").join(cookie.to_string())
    }

    /// Namespaces of pods that have a link.
    pub(crate) fn pods(&self) -> io::Result<Vec<u64>> {
        numbers(&self.maps().join("pods"))
    }

    /// Remove folders of other layouts: their links end, and their maps with the last program that uses them.
    pub(crate) fn remove_other_layouts(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name() != LAYOUT {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Remove the links to the node's cgroup.
    pub(crate) fn remove_hooks(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(self.hooks()))
    }

    /// Remove everything, the folder too.
    pub(crate) fn remove(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(&self.folder))
    }
}

/// Attach a program where it is wanted: the link that is pinned there gets it, or a new link replaces what has gone.
pub(crate) fn attach(
    pin: &Path,
    program: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    at: AttachType,
    is_there: impl Fn(LinkTarget) -> bool,
) -> io::Result<()> {
    if let Some(link) = find(pin, &is_there)? {
        return sys::link_update(link.as_fd(), program);
    }
    detach(pin)?;
    if let Some(folder) = pin.parent() {
        fs::create_dir_all(folder)?;
    }
    let link = sys::link_create(program, to, at)?;
    sys::pin(link.as_fd(), pin)
}

/// The pinned link, if it is attached where it is wanted.
pub(crate) fn find(pin: &Path, is_there: impl Fn(LinkTarget) -> bool) -> io::Result<Option<OwnedFd>> {
    match sys::pinned(pin) {
        Ok(link) => Ok(Some(sys::link_target(link.as_fd())?).filter(|target| is_there(*target)).map(|_| link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the target of a pinned link has gone, or the link itself.
pub(crate) fn is_orphan(pin: &Path) -> io::Result<bool> {
    Ok(find(pin, |target| target.inode != 0)?.is_none())
}

/// Remove a pin, and thereby its link; one that is not there is fine.
pub(crate) fn detach(pin: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(pin))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    Ok(names.collect::<io::Result<Vec<_>>>()?.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}
