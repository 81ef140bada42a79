//! What goes over `/messagehub/media/1`: a few pieces of a file are asked for by a ticket, and given.
//!
//! A ticket was given in the answer to a signed request, so whoever has one may have the file; that the
//! bytes are right is seen from their hashes. Numbers are big-endian.

use super::PIECE;

/// Bytes of a ticket.
pub const TICKET_LEN: usize = 16;
/// Pieces that are asked for at once.
pub const AT_ONCE: u64 = 4;
/// Length of a request: the ticket, the number of the first piece, how many.
pub const REQUEST_LEN: usize = TICKET_LEN + 8 + 1;
/// Longest answer.
pub const ANSWER_LEN: usize = 1 + (AT_ONCE as usize) * PIECE;

/// A ticket.
pub type Ticket = [u8; 16];

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Which file.
    pub ticket: Ticket,
    /// From which piece on.
    pub first: u64,
    /// How many pieces.
    pub count: u64,
}

impl Asked {
    /// As it is sent.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.ticket.to_vec();
        bytes.extend_from_slice(&self.first.to_be_bytes());
        bytes.push(u8::try_from(self.count).unwrap_or(u8::MAX));
        bytes
    }

    /// Reads what came.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (ticket, rest) = bytes.split_first_chunk::<TICKET_LEN>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let [count] = rest else { return None };
        let count = u64::from(*count);
        let asked = Self { ticket: *ticket, first: u64::from_be_bytes(*first), count };
        (1..=AT_ONCE).contains(&count).then_some(asked)
    }
}

/// What is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// The bytes of the pieces.
    Pieces(Vec<u8>),
    /// The ticket is not known, or there are no such pieces.
    Unknown,
    /// Too much is asked: later.
    Busy,
}

impl Given {
    /// As it is sent.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Pieces(pieces) => {
                let mut bytes = Vec::with_capacity(pieces.len().saturating_add(1));
                bytes.push(0);
                bytes.extend_from_slice(&pieces);
                bytes
            }
            Self::Unknown => vec![1],
            Self::Busy => vec![2],
        }
    }

    /// Reads what came. What nobody knows is no answer.
    pub fn read(bytes: Vec<u8>) -> Option<Self> {
        match bytes.split_first()? {
            (0, pieces) => Some(Self::Pieces(pieces.to_vec())),
            (1, []) => Some(Self::Unknown),
            (2, []) => Some(Self::Busy),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let asked = Asked { ticket: [7; TICKET_LEN], first: u64::MAX, count: AT_ONCE };
        let bytes = asked.to_bytes();
        assert_eq!((bytes.len(), Asked::read(&bytes)), (REQUEST_LEN, Some(asked)));
        for given in [Given::Pieces(vec![1, 2]), Given::Pieces(vec![]), Given::Unknown, Given::Busy]
        {
            assert_eq!(Given::read(given.clone().into_bytes()), Some(given));
        }
    }

    #[test]
    fn fuzz_pieces_asked() {
        let good = Asked { ticket: [7; TICKET_LEN], first: 3, count: 1 }.to_bytes();
        crate::fuzz::bytes("pieces_asked", vec![good, vec![0; REQUEST_LEN]], |bytes| {
            let asked = Asked::read(bytes);
            assert!(asked.is_none_or(|asked| (1..=AT_ONCE).contains(&asked.count)));
            format!(
                "{asked:?} {:?}",
                Given::read(bytes.to_vec()).map(|given| given.into_bytes().len())
            )
        });
    }
}
