//! The 16 bytes that open a data stream, and the byte that answers them.

use super::PROTOCOL_VERSION;

/// The length of an encoded [`StreamHead`].
pub const HEAD_LEN: usize = 16;

/// What follows on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamKind {
    /// HTTP/1.1 exchanges, one after the other.
    Http,
}

/// Opens a data stream: which share it is for, and which generation of its lease.
///
/// Layout, big-endian: version `u8` (1), kind `u8` (1 = HTTP), flags `u16` (0), share `u32`,
/// generation `u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHead {
    /// What follows.
    pub kind: StreamKind,
    /// Bits without meaning in version 1: sent as 0, ignored when read.
    pub flags: u16,
    /// The id that `claimed` gave the share.
    pub share: u32,
    /// The generation of the lease: an older one is refused.
    pub generation: u64,
}

/// Why 16 bytes are not a [`StreamHead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// Another protocol version.
    #[error("stream head of version {0}")]
    Version(u8),
    /// A kind of stream that version 1 does not have.
    #[error("stream of unknown kind {0}")]
    Kind(u8),
}

impl StreamHead {
    /// Makes the head of an HTTP stream.
    #[must_use]
    pub fn http(share: u32, generation: u64) -> Self {
        Self { kind: StreamKind::Http, flags: 0, share, generation }
    }

    /// Encodes the head.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[0] = PROTOCOL_VERSION;
        out[1] = match self.kind {
            StreamKind::Http => 1,
        };
        out[2..4].copy_from_slice(&self.flags.to_be_bytes());
        out[4..8].copy_from_slice(&self.share.to_be_bytes());
        out[8..].copy_from_slice(&self.generation.to_be_bytes());
        out
    }

    /// Decodes a head.
    ///
    /// # Errors
    /// When version or kind are not of this protocol.
    pub fn decode(bytes: [u8; HEAD_LEN]) -> Result<Self, HeadError> {
        let [version, kind, f0, f1, s0, s1, s2, s3, generation @ ..] = bytes;
        if version != PROTOCOL_VERSION {
            return Err(HeadError::Version(version));
        }
        let kind = match kind {
            1 => StreamKind::Http,
            other => return Err(HeadError::Kind(other)),
        };
        Ok(Self {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            share: u32::from_be_bytes([s0, s1, s2, s3]),
            generation: u64::from_be_bytes(generation),
        })
    }
}

/// The agent's one-byte answer to a [`StreamHead`], written before its first HTTP byte.
///
/// It also acknowledges the yamux stream at once: calls that wait for minutes must not use up the
/// 256 streams that may be unacknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Verdict {
    /// HTTP follows.
    #[error("accepted")]
    Accepted,
    /// The agent has no share of that id.
    #[error("the agent does not know the share")]
    UnknownShare,
    /// The agent holds another generation of the lease.
    #[error("the agent holds another generation of the lease")]
    StaleGeneration,
    /// The agent has as many streams as it takes.
    #[error("the agent is busy")]
    Busy,
    /// The agent does not speak this version or kind.
    #[error("the agent does not support the stream")]
    Unsupported,
}

impl Verdict {
    /// Encodes the verdict.
    #[must_use]
    pub fn encode(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::UnknownShare => 1,
            Self::StaleGeneration => 2,
            Self::Busy => 3,
            Self::Unsupported => 4,
        }
    }

    /// Decodes a verdict; a byte of a later protocol counts as a refusal.
    #[must_use]
    pub fn decode(byte: u8) -> Self {
        match byte {
            0 => Self::Accepted,
            1 => Self::UnknownShare,
            2 => Self::StaleGeneration,
            3 => Self::Busy,
            _ => Self::Unsupported,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_head_has_these_bytes() {
        let head = StreamHead::http(0x0102_0304, 0x0506_0708_090a_0b0c);
        assert_eq!(head.encode(), [1, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn another_version_or_kind_is_refused() {
        let mut bytes = StreamHead::http(1, 1).encode();
        bytes[1] = 9;
        assert_eq!(StreamHead::decode(bytes), Err(HeadError::Kind(9)));
        bytes[0] = 2;
        assert_eq!(StreamHead::decode(bytes), Err(HeadError::Version(2)));
    }

    #[test]
    fn verdicts_have_these_bytes() {
        for byte in 0..=4 {
            assert_eq!(Verdict::decode(byte).encode(), byte);
        }
        assert_eq!(Verdict::decode(200), Verdict::Unsupported);
    }

    proptest! {
        #[test]
        fn heads_survive_the_wire(share: u32, generation: u64, flags: u16) {
            let head = StreamHead { kind: StreamKind::Http, flags, share, generation };
            prop_assert_eq!(StreamHead::decode(head.encode()), Ok(head));
        }

        #[test]
        fn no_bytes_make_decode_panic(bytes: [u8; HEAD_LEN]) {
            let _decoded = StreamHead::decode(bytes);
        }
    }
}
