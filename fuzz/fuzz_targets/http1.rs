//! HTTP/1.1 framing: a reader and a tracker of the same body agree on where it ends, however it is cut.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mcpm_shared::http1::{BodyLength, BodyReader, BodyTracker, request_head, response_head};

fuzz_target!(|input: (Vec<u8>, usize)| {
    let (wire, cut) = input;
    let _request = request_head(&wire);
    let _response = response_head(&wire, "GET");
    let mut tracker = BodyTracker::new(BodyLength::Chunked);
    let tracked = tracker.feed(&wire);
    let mut reader = BodyReader::new(BodyLength::Chunked);
    let cut = cut % (wire.len() + 1);
    let mut left = Bytes::new();
    let mut failed = false;
    for part in [&wire[..cut], &wire[cut..]] {
        left = [&left[..], part].concat().into();
        loop {
            match reader.take(&mut left) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
    }
    assert_eq!(tracked.is_err(), failed);
    if let Ok(body) = tracked {
        assert_eq!(tracker.is_done(), reader.is_done());
        assert!(!tracker.is_done() || left.len() == wire.len() - body);
    }
});
