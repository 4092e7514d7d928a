//! Sealed handles: what we give to clients to keep for us, and get back.
//!
//! The modern era has no sessions, so where a request goes on (2026-07-28 §Multi round-trip
//! requests), where a list goes on and whose task it is travels through the client, who may be an
//! attacker. A handle is encrypted and authenticated with a key that lives as long as the process,
//! and is bound to who got it and for what; a process that was restarted refuses those of before.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mcpm_shared::access::Principal;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::mcp::message;
use crate::mcp::object::Object;

/// What is authenticated with every handle: a change of the layout must change it.
const LAYOUT: &[u8] = b"mcpm handle 1";
/// Kind, upstream, expiry and two digests; then the inner text.
const FIXED: usize = 1 + 4 + 8 + 32 + 32;
/// How deep arguments are compared by value; what is deeper is compared as it is written.
const MAX_DEPTH: usize = 32;

/// What a handle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// The `requestState` of a question that an upstream asked in the modern way.
    State,
    /// The `requestState` of an upstream request that is parked here.
    Parked,
    /// The cursor of a list.
    Cursor,
    /// The id of a task.
    Task,
}

const KINDS: [Kind; 4] = [Kind::State, Kind::Parked, Kind::Cursor, Kind::Task];

/// A digest of whom or what a handle is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

/// Who may use a handle, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    /// What it is for.
    pub(super) kind: Kind,
    /// Who got it.
    pub(super) principal: Digest,
    /// The request that it belongs to.
    pub(super) request: Digest,
}

/// What a handle holds.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Payload {
    /// Who may use it, and for what.
    pub(super) binding: Binding,
    /// The index of the upstream that it is about.
    pub(super) upstream: u32,
    /// What the upstream gave us, or our own key.
    pub(super) inner: String,
    /// When it ends, in seconds since 1970.
    pub(super) expires: u64,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The inner text belongs to the upstream, and may be a secret.
        let Self { binding, upstream, inner: _, expires } = self;
        f.debug_struct("Payload")
            .field("kind", &binding.kind)
            .field("upstream", upstream)
            .field("expires", expires)
            .finish_non_exhaustive()
    }
}

/// Why a handle is refused. Clients are to be told -32602 and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SealError {
    /// It is not one of this process, or was changed.
    #[error("the handle was not made by this process, or was changed")]
    Forged,
    /// It was made for somebody else, or for another request.
    #[error("the handle belongs to somebody or something else")]
    Foreign,
    /// Its time is over.
    #[error("the handle has expired")]
    Expired,
}

/// Seals and opens handles with the key of this process.
#[derive(Debug)]
pub(super) struct Sealer {
    key: LessSafeKey,
    /// How many nonces were used; a count cannot repeat one, and the key is never used twice.
    nonces: AtomicU64,
}

impl Sealer {
    /// Makes a sealer of a key that nobody used before.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the right length");
        Self { key: LessSafeKey::new(key), nonces: AtomicU64::new(0) }
    }

    /// Makes a sealer with a random key.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self::new(&key))
    }

    /// Seals a payload: unpadded base64url, fit for JSON, headers and URLs.
    pub(super) fn seal(&self, payload: &Payload) -> String {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..]
            .copy_from_slice(&self.nonces.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut sealed = payload.to_bytes();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(LAYOUT),
                &mut sealed,
            )
            .expect("a message is far below the limit of the cipher");
        sealed.splice(..0, nonce);
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// Opens a handle for one who may use it; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// The handle was not made here, or not for this binding, or is too old.
    pub(super) fn open(
        &self,
        handle: &str,
        binding: &Binding,
        now: u64,
    ) -> Result<Payload, SealError> {
        let mut sealed = URL_SAFE_NO_PAD.decode(handle).map_err(|_| SealError::Forged)?;
        let (nonce, sealed) =
            sealed.split_first_chunk_mut::<NONCE_LEN>().ok_or(SealError::Forged)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let bytes = self.key.open_in_place(nonce, Aad::from(LAYOUT), sealed);
        let bytes = bytes.map_err(|_| SealError::Forged)?;
        let payload = Payload::of_bytes(bytes).ok_or(SealError::Forged)?;
        if payload.binding != *binding {
            return Err(SealError::Foreign);
        }
        if now >= payload.expires {
            return Err(SealError::Expired);
        }
        Ok(payload)
    }
}

impl Payload {
    fn to_bytes(&self) -> Vec<u8> {
        let Binding { kind, principal, request } = self.binding;
        // The nonce and the tag are added to it.
        let mut bytes = Vec::with_capacity(FIXED + self.inner.len() + 32);
        bytes.push(kind as u8);
        bytes.extend_from_slice(&self.upstream.to_be_bytes());
        bytes.extend_from_slice(&self.expires.to_be_bytes());
        bytes.extend_from_slice(&principal.0);
        bytes.extend_from_slice(&request.0);
        bytes.extend_from_slice(self.inner.as_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (upstream, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (principal, rest) = rest.split_first_chunk()?;
        let (request, inner) = rest.split_first_chunk()?;
        Some(Self {
            binding: Binding {
                kind: *KINDS.get(usize::from(*kind))?,
                principal: Digest(*principal),
                request: Digest(*request),
            },
            upstream: u32::from_be_bytes(*upstream),
            inner: String::from_utf8(inner.to_vec()).ok()?,
            expires: u64::from_be_bytes(*expires),
        })
    }
}

impl Digest {
    /// Returns the digest of who a visitor is.
    pub(super) fn of_principal(principal: &Principal) -> Self {
        let mut hasher = Sha256::new();
        let (kind, id) = match principal {
            Principal::Anonymous => (b'a', ""),
            Principal::Token(id) => (b't', id.as_str()),
            Principal::Link => (b'l', ""),
        };
        hasher.update([kind]);
        text(&mut hasher, id);
        Self(hasher.finalize().into())
    }

    /// Returns the digest of what a request is about: its method, and `name`, `uri` and
    /// `arguments` of its parameters.
    ///
    /// Arguments count by value, so that a client may write them anew for the retry: the order of
    /// members and white space make no difference. Numbers count as they are written.
    pub(super) fn of_request(method: &str, params: Option<&RawValue>) -> Self {
        let mut hasher = Sha256::new();
        text(&mut hasher, method);
        let params = params.and_then(Object::of).unwrap_or_default();
        for name in ["name", "uri", "arguments"] {
            match params.get(name) {
                Some(member) => value(&mut hasher, member, 0),
                None => hasher.update(b"-"),
            }
        }
        Self(hasher.finalize().into())
    }
}

/// Hashes a text so that where it ends is part of the digest.
fn text(hasher: &mut Sha256, text: &str) {
    count(hasher, text.len());
    hasher.update(text);
}

fn count(hasher: &mut Sha256, count: usize) {
    hasher.update((count as u64).to_be_bytes());
}

fn value(hasher: &mut Sha256, raw: &RawValue, depth: usize) {
    if depth < MAX_DEPTH {
        if let Some(string) = message::string(raw) {
            hasher.update(b"s");
            return text(hasher, &string);
        }
        if let Some(object) = Object::of(raw) {
            let mut members: Vec<_> = object.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            hasher.update(b"o");
            count(hasher, members.len());
            for (name, member) in members {
                text(hasher, name);
                value(hasher, member, depth + 1);
            }
            return;
        }
        if let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
            hasher.update(b"a");
            count(hasher, elements.len());
            return elements.into_iter().for_each(|element| value(hasher, element, depth + 1));
        }
    }
    hasher.update(b"r");
    text(hasher, raw.get());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn binding() -> Binding {
        Binding {
            kind: Kind::Parked,
            principal: Digest::of_principal(&Principal::Token("ann".into())),
            request: Digest::of_request("tools/call", Some(&raw(r#"{"name":"x"}"#))),
        }
    }

    fn payload(inner: &str) -> Payload {
        Payload { binding: binding(), upstream: 7, inner: inner.to_owned(), expires: NOW + 60 }
    }

    #[test]
    fn a_handle_opens_for_whom_it_was_made_until_it_expires() {
        let sealer = Sealer::random().unwrap();
        for kind in KINDS {
            let mut payload = payload("é opaque");
            payload.binding.kind = kind;
            let handle = sealer.seal(&payload);
            assert_eq!(sealer.open(&handle, &payload.binding, NOW), Ok(payload.clone()));
            let end = sealer.open(&handle, &payload.binding, NOW + 60);
            assert_eq!(end, Err(SealError::Expired));
        }
    }

    #[test]
    fn a_handle_is_of_this_layout_golden() {
        let sealer = Sealer::new(&[7; 32]);
        let mut payload = payload("state");
        payload.binding.principal = Digest([1; 32]);
        payload.binding.request = Digest([2; 32]);
        assert_eq!(
            payload.to_bytes(),
            [&[1, 0, 0, 0, 7][..], &(NOW + 60).to_be_bytes(), &[1; 32], &[2; 32], b"state"]
                .concat()
        );
        let handle = sealer.seal(&payload);
        assert!(handle.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_ne!(handle, sealer.seal(&payload), "no nonce is used twice");
        assert_eq!(URL_SAFE_NO_PAD.decode(handle).unwrap().len(), 12 + FIXED + 5 + 16);
    }

    #[test]
    fn somebody_elses_handle_and_one_of_another_request_are_refused() {
        let sealer = Sealer::random().unwrap();
        let handle = sealer.seal(&payload("s"));
        let refused = |binding: Binding| sealer.open(&handle, &binding, NOW).unwrap_err();
        let bob = Digest::of_principal(&Principal::Token("bob".into()));
        assert_eq!(refused(Binding { principal: bob, ..binding() }), SealError::Foreign);
        assert_eq!(refused(Binding { kind: Kind::State, ..binding() }), SealError::Foreign);
        assert_eq!(
            refused(Binding { request: Digest::of_request("", None), ..binding() }),
            SealError::Foreign
        );
    }

    #[test]
    fn a_handle_of_another_process_is_refused() {
        let handle = Sealer::random().unwrap().seal(&payload("s"));
        let other = Sealer::random().unwrap();
        assert_eq!(other.open(&handle, &binding(), NOW), Err(SealError::Forged));
    }

    #[test]
    fn a_handle_says_nothing_of_what_it_holds() {
        let sealer = Sealer::new(&[7; 32]);
        let sealed = URL_SAFE_NO_PAD.decode(sealer.seal(&payload("needle"))).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"needle"));
        assert!(!format!("{:?}", payload("needle")).contains("needle"));
    }

    #[test]
    fn principals_differ_in_kind_and_id() {
        let all = [
            Principal::Anonymous,
            Principal::Link,
            Principal::Token(String::new()),
            Principal::Token("anonymous".into()),
            Principal::Token("link".into()),
        ];
        let digests: std::collections::HashSet<_> = all.iter().map(Digest::of_principal).collect();
        assert_eq!(digests.len(), all.len());
    }

    #[test]
    fn a_retry_is_the_same_request_however_it_is_written() {
        let of = |params: &str| Digest::of_request("tools/call", Some(&raw(params)));
        let first = of(r#"{"name":"x","arguments":{"a":[1,{"b":"é"}],"c":{}},"_meta":{"p":1}}"#);
        let again = r#"{"requestState":"s","arguments":{ "c":{ }, "a":[ 1, {"b":"\u00e9"} ]},"name":"x","inputResponses":{}}"#;
        assert_eq!(of(again), first);
        for other in [
            r#"{"name":"y","arguments":{"a":[1,{"b":"é"}],"c":{}}}"#,
            r#"{"name":"x","arguments":{"a":[{"b":"é"},1],"c":{}}}"#,
            r#"{"name":"x","arguments":{"a":[2,{"b":"é"}],"c":{}}}"#,
            r#"{"name":"x","arguments":{"a":["1",{"b":"é"}],"c":{}}}"#,
            r#"{"name":"x","arguments":{"a":[1,{"b":"é"}],"c":[]}}"#,
            r#"{"name":"x"}"#,
            r#"{"uri":"x"}"#,
        ] {
            assert_ne!(of(other), first, "{other}");
        }
        assert_ne!(of(r#"{"name":"x"}"#), of(r#"{"uri":"x"}"#));
        assert_ne!(of("{}"), Digest::of_request("prompts/get", Some(&raw("{}"))));
    }

    #[test]
    fn arguments_of_any_depth_and_numbers_of_any_size_have_a_digest() {
        let deep = |leaf: &str| {
            let text = format!("{}{leaf}{}", "[".repeat(50_000), "]".repeat(50_000));
            Digest::of_request("m", Some(&raw(&format!(r#"{{"arguments":{text}}}"#))))
        };
        assert_ne!(deep("1"), deep("2"));
        let large = |number: &str| {
            Digest::of_request("m", Some(&raw(&format!(r#"{{"arguments":{number}}}"#))))
        };
        assert_ne!(large("12345678901234567890123"), large("12345678901234567890124"));
        assert_ne!(large("1e400"), large("1e401"));
    }

    proptest! {
        #[test]
        fn whatever_is_sealed_is_opened(
            inner in any::<String>(), upstream in any::<u32>(), expires in 1..u64::MAX
        ) {
            let sealer = Sealer::new(&[9; 32]);
            let payload = Payload { binding: binding(), upstream, inner, expires };
            let opened = sealer.open(&sealer.seal(&payload), &binding(), expires - 1);
            prop_assert_eq!(opened, Ok(payload));
        }

        #[test]
        fn a_handle_that_was_changed_is_refused(at in 0..1000_usize, bit in 0..8_u32, cut in 0..2_usize) {
            let sealer = Sealer::new(&[9; 32]);
            let mut bytes = URL_SAFE_NO_PAD.decode(sealer.seal(&payload("inner"))).unwrap();
            let at = at % bytes.len();
            if cut == 1 { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            let handle = URL_SAFE_NO_PAD.encode(bytes);
            prop_assert_eq!(sealer.open(&handle, &binding(), NOW), Err(SealError::Forged));
        }

        #[test]
        fn no_text_makes_it_panic(handle in any::<String>()) {
            let sealer = Sealer::new(&[9; 32]);
            prop_assert_eq!(sealer.open(&handle, &binding(), NOW), Err(SealError::Forged));
        }
    }
}
