//! Log records that wait for the host, in portions that fit a request.

use culvert_core::proto::engine::LogRecords;

/// Kept for the host at most; about 6,000 connections.
const BYTES: usize = 4 * 1024 * 1024;

/// Size limit of a batch. gRPC servers take messages of up to 4 MiB by default.
const PORTION_BYTES: usize = 256 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Records {
    closed: Vec<LogRecords>,
    closed_bytes: usize,
    open: Vec<u8>,
    open_count: u32,
    dropped: u64,
}

impl Records {
    /// Add one record; false if the buffer is full, which is counted.
    pub(super) fn add(&mut self, record: &[u8]) -> bool {
        if self.len() + record.len() > BYTES {
            self.dropped += 1;
            return false;
        }
        self.open.extend_from_slice(record);
        self.open_count += 1;
        if self.open.len() >= PORTION_BYTES {
            self.close();
        }
        true
    }

    /// Take all portions.
    pub(super) fn take(&mut self) -> Vec<LogRecords> {
        self.close();
        self.closed_bytes = 0;
        std::mem::take(&mut self.closed)
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.closed_bytes + self.open.len()
    }

    /// Records that were lost since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn close(&mut self) {
        if self.open_count > 0 {
            self.closed_bytes += self.open.len();
            let records = std::mem::take(&mut self.open).into();
            self.closed.push(LogRecords { records, count: std::mem::take(&mut self.open_count) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_fits_a_request_and_nothing_is_lost_uncounted() {
        let mut records = Records::default();
        let record = [7; 1000];
        let offered = 5000;
        let kept = (0..offered).filter(|_| records.add(&record)).count();
        assert_eq!(kept, BYTES / record.len());
        assert_eq!(usize::try_from(records.dropped()), Ok(offered - kept));
        let portions = records.take();
        assert!(portions.iter().all(|one| one.records.len() < PORTION_BYTES + record.len()));
        assert_eq!(portions.iter().map(|one| one.count as usize).sum::<usize>(), kept);
        assert_eq!(portions.iter().map(|one| one.records.len()).sum::<usize>(), kept * record.len());
        assert!(records.take().is_empty());
        assert!(records.add(&record));
    }
}
