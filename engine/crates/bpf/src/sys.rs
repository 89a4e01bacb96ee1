//! The system call `bpf(2)`, as far as aya does not offer it: links that are pinned, replaced and asked where they are.
//!
//! Layouts are those of `union bpf_attr` in `linux/bpf.h`; the kernel takes what is shorter than its own as zero.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_TEST_RUN: libc::c_int = 10;
const PROG_QUERY: libc::c_int = 16;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;

/// The kernel attaches no more to one cgroup (`BPF_CGROUP_MAX_PROGS`).
const MOST_PROGRAMS: usize = 64;

/// `BPF_FS_MAGIC`.
const BPF_FS_MAGIC: libc::__fsword_t = 0xCAFE_4A11;

/// Where a program of the capture is attached: values of `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AttachType {
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    Sendmsg4 = 14,
    Sendmsg6 = 15,
    Recvmsg4 = 19,
    Recvmsg6 = 20,
    Getsockopt = 21,
    Getpeername4 = 29,
    Getpeername6 = 30,
    SkLookup = 36,
}

#[repr(C)]
struct Object {
    path: u64,
    descriptor: u32,
    flags: u32,
}

#[repr(C)]
struct Info {
    descriptor: u32,
    length: u32,
    address: u64,
}

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
struct TestRun {
    program: u32,
    result: u32,
    input_length: u32,
    output_length: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
}

/// `struct bpf_link_info`, of a link to a cgroup or to a network namespace.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    /// `cgroup_id`; or `netns_ino`, followed by `attach_type`.
    target: [u32; 2],
    rest: [u32; 10],
}

/// `BPF_LINK_TYPE_NETNS`.
const NETNS_LINK: u32 = 5;

/// What a link is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkTarget {
    /// Of the cgroup's folder or of the network namespace; 0 where that has gone.
    pub(crate) inode: u64,
}

/// Attach a program to a cgroup or to a network namespace. The link ends with its last descriptor and pin.
pub(crate) fn link_create(program: BorrowedFd<'_>, to: BorrowedFd<'_>, at: AttachType) -> io::Result<OwnedFd> {
    let mut attributes = [number(program), number(to), at as u32, 0];
    call(LINK_CREATE, &mut attributes).map(owned)
}

/// Replace a link's program, at once and without a gap.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    call(LINK_UPDATE, &mut [number(link), number(program), 0, 0]).map(drop)
}

/// What a link is attached to.
pub(crate) fn link_target(link: BorrowedFd<'_>) -> io::Result<LinkTarget> {
    let mut info = LinkInfo::default();
    let length = u32::try_from(size_of::<LinkInfo>()).unwrap_or_default();
    let mut attributes =
        Info { descriptor: number(link), length, address: std::ptr::from_mut(&mut info).expose_provenance() as u64 };
    call(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    let [low, high] = info.target.map(u64::from);
    Ok(LinkTarget { inode: if info.kind == NETNS_LINK { low } else { low | high << 32 } })
}

/// Ids of the programs that are attached to a cgroup itself.
pub(crate) fn programs_at(cgroup: BorrowedFd<'_>, at: AttachType) -> io::Result<Vec<u32>> {
    let mut programs = [0_u32; MOST_PROGRAMS];
    let mut attributes = Query {
        target: number(cgroup),
        attach_type: at as u32,
        query_flags: 0,
        attach_flags: 0,
        programs: std::ptr::from_mut(&mut programs).expose_provenance() as u64,
        count: u32::try_from(MOST_PROGRAMS).unwrap_or_default(),
        padding: 0,
    };
    call(PROG_QUERY, &mut attributes)?;
    Ok(programs.into_iter().take(attributes.count as usize).collect())
}

/// Keep an object alive by a name in a BPF file system.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_string(path)?;
    call(OBJ_PIN, &mut Object { path: path.as_ptr() as u64, descriptor: number(object), flags: 0 }).map(drop)
}

/// Open a pinned object.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    call(OBJ_GET, &mut Object { path: path.as_ptr() as u64, descriptor: 0, flags: 0 }).map(owned)
}

/// Run a program for traffic control once, with a packet on the loopback link of the calling thread's namespace.
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    let mut attributes = TestRun {
        program: number(program),
        result: 0,
        input_length: u32::try_from(packet.len()).unwrap_or_default(),
        output_length: 0,
        input: packet.as_ptr() as u64,
        output: 0,
        repeat: 1,
        duration: 0,
    };
    call(PROG_TEST_RUN, &mut attributes)?;
    Ok(attributes.result)
}

/// Whether a path is in a BPF file system.
pub(crate) fn is_in_bpf_file_system(path: &Path) -> io::Result<bool> {
    let path = c_string(path)?;
    // SAFETY: all zero is a valid value of the struct, which is all numbers.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are of values that outlive the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.f_type == BPF_FS_MAGIC)
}

fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    let length = libc::c_uint::try_from(size_of::<T>()).unwrap_or_default();
    // SAFETY: the pointer and length describe `attributes`, whose addresses, if any, are of values that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or_default()) }
}

fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for this caller alone.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    u32::try_from(descriptor.as_raw_fd()).unwrap_or_default()
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}
