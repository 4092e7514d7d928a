//! The PROXY protocol, version 2: by it a proxy that passes bytes on says who is behind them
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, §2.2).
//!
//! Read only from networks that the operator named. There it must be the first thing that comes:
//! the protocol forbids to guess.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part: signature, version and command, family, length.
const FIXED: usize = 16;
/// The longest rest, in bytes: addresses have up to 216, and load balancers add some hundred.
const MAX_REST: usize = 4096;

/// What came is no header that we may believe.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyHeaderError {
    #[error("no PROXY header of version 2 came first")]
    Missing,
    #[error("a PROXY header of {0} bytes")]
    TooLong(usize),
    #[error("a PROXY header with an unknown command or family, or cut short")]
    Malformed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header and not a byte more. Returns the visitor's address; `None` when the proxy
/// speaks for itself, as in its health checks.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).await?;
    let (kind, length) = parse_fixed(&fixed)?;
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    kind.map_or(Ok(None), |kind| parse_addresses(kind, &rest).map(Some))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

fn parse_fixed(fixed: &[u8; FIXED]) -> Result<(Option<Family>, usize), ProxyHeaderError> {
    let [signature @ .., command, family, high, low] = fixed;
    if *signature != SIGNATURE || command >> 4 != 2 {
        return Err(ProxyHeaderError::Missing);
    }
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > MAX_REST {
        return Err(ProxyHeaderError::TooLong(length));
    }
    let kind = match (command & 0xF, family) {
        // LOCAL: whatever the rest says is not to be used.
        (0, _) => None,
        // PROXY of an unknown family, or of a Unix socket: nothing that has an address.
        (1, 0x00 | 0x31) => None,
        (1, 0x11) => Some(Family::V4),
        (1, 0x21) => Some(Family::V6),
        _ => return Err(ProxyHeaderError::Malformed),
    };
    Ok((kind, length))
}

/// Reads source and destination; what comes behind them (TLVs) is not for us.
fn parse_addresses(family: Family, rest: &[u8]) -> Result<SocketAddr, ProxyHeaderError> {
    let short = || ProxyHeaderError::Malformed;
    match family {
        Family::V4 => {
            let ([address @ .., _, _, _, _, high, low, _, _], _) =
                rest.split_first_chunk::<12>().ok_or_else(short)?;
            let port = u16::from_be_bytes([*high, *low]);
            Ok(SocketAddr::from((Ipv4Addr::from(*address), port)))
        }
        Family::V6 => {
            let (addresses, _) = rest.split_first_chunk::<36>().ok_or_else(short)?;
            let (address, rest) = addresses.split_first_chunk::<16>().ok_or_else(short)?;
            let port = u16::from_be_bytes([rest[16], rest[17]]);
            Ok(SocketAddr::from((Ipv6Addr::from(*address), port)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
    }

    /// Returns what is read of `bytes`, and how many bytes are left.
    fn read_all(bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyHeaderError>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut left = bytes;
        (runtime.block_on(read(&mut left)), left.len())
    }

    #[test]
    fn the_visitor_behind_the_proxy_is_told() {
        // 192.0.2.1:4660 → 198.51.100.2:443, from the specification's layout.
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 1, 0xBB];
        let (source, left) = read_all(&[header(1, 0x11, &v4), b"GET /".to_vec()].concat());
        assert_eq!(source.unwrap(), Some("192.0.2.1:4660".parse().unwrap()));
        assert_eq!(left, 5, "what follows is the visitor's");
        let mut v6 = [0; 36 + 7];
        v6[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&[0x12, 0x34]);
        let source = read_all(&header(1, 0x21, &v6)).0.unwrap();
        assert_eq!(source, Some("[2001:db8::1]:4660".parse().unwrap()));
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_names_nobody() {
        for bytes in [header(0, 0, &[]), header(0, 0x11, &[9; 12]), header(1, 0, &[1, 2, 3])] {
            assert_eq!(read_all(&bytes).0.unwrap(), None);
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let (refused, _) = read_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n");
        assert!(matches!(refused, Err(ProxyHeaderError::Missing)));
        let (refused, _) = read_all(b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n");
        assert!(matches!(refused, Err(ProxyHeaderError::Missing)), "version 1");
        for bytes in
            [header(2, 0x11, &[0; 12]), header(1, 0x12, &[0; 12]), header(1, 0x11, &[0; 11])]
        {
            let (refused, _) = read_all(&bytes);
            assert!(matches!(refused, Err(ProxyHeaderError::Malformed)), "{refused:?}");
        }
        let (refused, _) = read_all(&header(1, 0x11, &[0; 4097]));
        assert!(matches!(refused, Err(ProxyHeaderError::TooLong(4097))));
        let (refused, _) = read_all(&header(1, 0x11, &[0; 12])[..20]);
        assert!(matches!(refused, Err(ProxyHeaderError::Io(_))));
    }

    proptest! {
        #[test]
        fn any_address_survives(
            address: [u8; 16], port: u16, v4: bool, tlvs in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut rest = if v4 { address[..4].to_vec() } else { address.to_vec() };
            rest.extend(vec![7; rest.len()]);
            rest.extend(port.to_be_bytes());
            rest.extend([1, 2]);
            rest.extend(tlvs);
            let family = if v4 { 0x11 } else { 0x21 };
            let told = read_all(&header(1, family, &rest)).0.unwrap().unwrap();
            let expected = if v4 {
                SocketAddr::from((Ipv4Addr::from(*address.first_chunk().unwrap()), port))
            } else {
                SocketAddr::from((Ipv6Addr::from(address), port))
            };
            prop_assert_eq!(told, expected);
        }

        #[test]
        fn no_bytes_make_it_panic_or_read_too_far(
            signed: bool, bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = if signed { [&SIGNATURE[..], &bytes].concat() } else { bytes };
            let (read, left) = read_all(&bytes);
            if read.is_ok() {
                let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
                prop_assert_eq!(bytes.len() - left, FIXED + length);
            }
        }
    }
}
