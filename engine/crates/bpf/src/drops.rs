//! What guards have dropped, by reason: the sum over all guard programs that the owner knows.
//!
//! Every guard program has a map of counters of its own, `cv_guard_drops`. A program is named by the kernel's id, so
//! those count too that an earlier process has attached. The descriptor of a map is kept while the program exists, and
//! what it has counted until then stays in the sum.

use std::collections::{HashMap, HashSet};

use aya::maps::{Map, MapData, MapInfo, PerCpuArray};
use aya::programs::loaded_programs;

use crate::error::{BpfError, reason};

const MAP: &[u8] = b"cv_guard_drops";

/// Why a guard drops a packet: `enum guard_drop` of `bpf/include/guard.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// The application's, and no TCP header can be found.
    Unreadable = 0,
    /// The application's, and the capture rules have not passed it.
    Unmarked = 1,
    /// The tunnel's, and the capture rules have not translated its addresses.
    Untranslated = 2,
}

impl Reason {
    /// All of them, in the order of their values.
    pub const ALL: [Self; 3] = [Self::Unreadable, Self::Unmarked, Self::Untranslated];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Unmarked => "unmarked",
            Self::Untranslated => "untranslated",
        }
    }
}

/// Packets, in the order of `Reason::ALL`.
pub type Counts = [u64; Reason::ALL.len()];

/// Sums up the drops of guard programs.
#[derive(Default)]
pub struct Drops {
    /// The counters of programs that exist, by the program's id.
    counters: HashMap<u32, PerCpuArray<MapData, u64>>,
    /// Known programs without counters: those of an older release.
    without: HashSet<u32>,
    /// What programs have counted that exist no longer.
    ended: Counts,
}

impl Drops {
    /// Count a program from now on; one that is known already costs nothing.
    ///
    /// # Errors
    /// Loaded programs cannot be read: the process lacks `CAP_SYS_ADMIN`.
    pub fn add(&mut self, program: u32) -> Result<(), BpfError> {
        if self.counters.contains_key(&program) || self.without.contains(&program) {
            return Ok(());
        }
        match counters_of(program)? {
            Some(map) => drop(self.counters.insert(program, map)),
            None => drop(self.without.insert(program)),
        }
        Ok(())
    }

    /// Return the sums, and let go of programs that exist no longer.
    ///
    /// # Errors
    /// Loaded programs or their maps cannot be read.
    pub fn totals(&mut self) -> Result<Counts, BpfError> {
        let existing = existing_programs()?;
        let mut sum = self.ended;
        for (program, map) in &self.counters {
            let counts = read(map)?;
            add(&mut sum, &counts);
            if !existing.contains(program) {
                add(&mut self.ended, &counts);
            }
        }
        self.counters.retain(|program, _| existing.contains(program));
        self.without.retain(|program| existing.contains(program));
        Ok(sum)
    }
}

fn add(sum: &mut Counts, counts: &Counts) {
    for (total, count) in sum.iter_mut().zip(counts) {
        *total = total.saturating_add(*count);
    }
}

fn read(map: &PerCpuArray<MapData, u64>) -> Result<Counts, BpfError> {
    let mut counts = Counts::default();
    for (reason, count) in Reason::ALL.iter().zip(&mut counts) {
        let of_cpus = map.get(&(*reason as u32), 0).map_err(unreadable)?;
        *count = of_cpus.iter().copied().fold(0, u64::saturating_add);
    }
    Ok(counts)
}

/// The ids of all loaded programs. One that ends meanwhile is left out.
fn existing_programs() -> Result<HashSet<u32>, BpfError> {
    let mut refused = None;
    let mut found = HashSet::new();
    for one in loaded_programs() {
        match one {
            Ok(info) => drop(found.insert(info.id())),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if found.is_empty() => Err(unreadable(error)),
        _ => Ok(found),
    }
}

fn counters_of(program: u32) -> Result<Option<PerCpuArray<MapData, u64>>, BpfError> {
    let Some(info) = loaded_programs().flatten().find(|info| info.id() == program) else {
        return Ok(None);
    };
    for map in info.map_ids().map_err(unreadable)?.unwrap_or_default() {
        let map = MapInfo::from_id(map).map_err(unreadable)?;
        if map.name() == MAP {
            let data = MapData::from_id(map.id()).map_err(unreadable)?;
            return PerCpuArray::try_from(Map::PerCpuArray(data)).map(Some).map_err(unreadable);
        }
    }
    Ok(None)
}

fn unreadable(error: impl std::error::Error) -> BpfError {
    BpfError::Unreadable { reason: reason(&error) }
}
