//! The bytes of a connection, by direction. Named by where they go, at both ends of a tunnel: the client opened the
//! connection, the destination accepted it.

/// How many bytes a connection has carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transfer {
    /// From the client to the destination: requests.
    pub to_destination: u64,
    /// From the destination to the client: responses.
    pub to_client: u64,
}

/// Counts the bytes of a connection while they are carried.
pub trait TransferCounter {
    /// Count bytes that were carried from the client to the destination.
    fn to_destination(&self, bytes: u64);

    /// Count bytes that were carried from the destination to the client.
    fn to_client(&self, bytes: u64);
}
