//! The head of a data stream: 16 bytes are a head or an error, and a head is encoded as it came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpm_shared::proto::head::{HEAD_LEN, StreamHead};

fuzz_target!(|bytes: [u8; HEAD_LEN]| {
    if let Ok(head) = StreamHead::decode(bytes) {
        assert_eq!(head.encode(), bytes);
    }
});
