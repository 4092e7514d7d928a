//! The key of a relay: signs the tickets and tokens that the relay itself will read again.
//!
//! One secret of 32 bytes; each kind of JWT has its own HMAC key derived from it and its own
//! `typ`, so that no ticket ever passes for a token.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use mcpm_shared::token::Token;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::grants::{Grant, Ticket};

/// `typ` of a resume ticket.
const TICKET: &str = "mcpm-ticket+jwt";
/// `typ` of an agent token.
const TOKEN: &str = "mcpm-token+jwt";
/// What the key that seals files is derived for.
const STORAGE: &str = "storage";
/// What the key is derived for that makes pseudonyms.
const PSEUDONYM: &str = "pseudonym";
/// Shortest token of the admin API.
const MIN_TOKEN_BYTES: usize = 16;
/// Longest JWT that is looked at, in bytes: a full token has about 3 KiB.
const MAX_JWT_BYTES: usize = 8 * 1024;

/// The signing key of a relay.
#[derive(Clone)]
pub struct RelayKey {
    ticket: Subkey,
    token: Subkey,
    storage: Subkey,
    pseudonym: Subkey,
}

#[derive(Clone)]
struct Subkey {
    typ: &'static str,
    secret: Zeroizing<[u8; 32]>,
}

/// Why a ticket or token was not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// It is of another kind, or damaged, or signed by another key.
    #[error("not signed by this relay")]
    Invalid(#[source] Option<jsonwebtoken::errors::Error>),
    /// Its time is over.
    #[error("its time is over")]
    Expired,
}

/// The key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the relay's key file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be made.
    #[error("cannot make the relay's key file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds a token that could be guessed.
    #[error("{} holds no token of {MIN_TOKEN_BYTES} characters or more", .0.display())]
    Short(PathBuf),
    /// It holds something else.
    #[error("{} does not hold a relay's key: 43 characters of base64url", .0.display())]
    Malformed(PathBuf),
}

impl RelayKey {
    /// Makes a new key that lives in memory.
    pub fn generate() -> Self {
        Self::from_token(&Token::generate())
    }

    /// Reads the key from a file, which is made with mode 0600 when absent.
    ///
    /// # Errors
    /// Fails when the file cannot be read or made, or holds something else; it is not replaced.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                warn_of_readers(path);
                return Self::parse(path, text);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(KeyFileError::Read { path: path.to_owned(), source }),
        }
        let write = |source| KeyFileError::Write { path: path.to_owned(), source };
        create_whole(path, &Token::generate()).map_err(write)?;
        let text = std::fs::read_to_string(path).map_err(write)?;
        Self::parse(path, text)
    }

    fn parse(path: &Path, text: String) -> Result<Self, KeyFileError> {
        let token = Token::new(text);
        let bytes = URL_SAFE_NO_PAD.decode(token.expose()).map(Zeroizing::new);
        if !bytes.is_ok_and(|bytes| bytes.len() == 32) {
            return Err(KeyFileError::Malformed(path.to_owned()));
        }
        Ok(Self::from_token(&token))
    }

    /// Makes the key of several nodes out of the first line of the file with their secret.
    ///
    /// # Errors
    /// Fails when the file cannot be read or is empty.
    pub fn of_nodes(path: &Path) -> Result<Self, KeyFileError> {
        let read = |source| KeyFileError::Read { path: path.to_owned(), source };
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(read)?);
        warn_of_readers(path);
        match text.lines().map(str::trim).find(|line| !line.is_empty()) {
            Some(secret) => Ok(Self::from_token(&Token::new(secret))),
            None => Err(KeyFileError::Short(path.to_owned())),
        }
    }

    fn from_token(token: &Token) -> Self {
        let secret = token.expose().as_bytes();
        let [ticket, token, storage, pseudonym] =
            [TICKET, TOKEN, STORAGE, PSEUDONYM].map(|purpose| Subkey::derive(secret, purpose));
        Self { ticket, token, storage, pseudonym }
    }

    /// Returns the key under which the relay seals what it keeps in files.
    pub fn storage_key(&self) -> &[u8; 32] {
        &self.storage.secret
    }

    /// Returns what stands for a text where the text itself must not be kept: the same at all nodes,
    /// and without the key it tells nothing.
    #[must_use]
    pub fn pseudonym(&self, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.pseudonym.secret.as_ref())
            .expect("HMAC takes keys of any size");
        mac.update(text.as_bytes());
        URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..16])
    }

    /// Signs a resume ticket.
    pub fn sign_ticket(&self, ticket: &Ticket) -> String {
        self.ticket.sign(ticket)
    }

    /// Reads a resume ticket.
    ///
    /// # Errors
    /// Fails when this relay did not sign it, or its time is over.
    pub fn verify_ticket(&self, jwt: &str, now: u64) -> Result<Ticket, SealError> {
        let ticket: Ticket = self.ticket.verify(jwt)?;
        if now < ticket.expires_at { Ok(ticket) } else { Err(SealError::Expired) }
    }

    /// Signs an agent token.
    pub fn sign_token(&self, grant: &Grant) -> Token {
        Token::new(self.token.sign(grant))
    }

    /// Reads an agent token. Its time and its binding are [`Grant::check`]'s part.
    ///
    /// # Errors
    /// Fails when this relay did not sign it.
    pub fn verify_token(&self, token: &Token) -> Result<Grant, SealError> {
        self.token.verify(token.expose())
    }
}

impl fmt::Debug for RelayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayKey(…)")
    }
}

impl Subkey {
    fn derive(secret: &[u8], typ: &'static str) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any size");
        mac.update(b"mcpm-relay/1/");
        mac.update(typ.as_bytes());
        Self { typ, secret: Zeroizing::new(mac.finalize().into_bytes().into()) }
    }

    fn sign(&self, claims: &impl Serialize) -> String {
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(self.typ.to_owned());
        let key = EncodingKey::from_secret(self.secret.as_ref());
        jsonwebtoken::encode(&header, claims, &key).expect("HS256 signs any claims that serialize")
    }

    fn verify<T: DeserializeOwned>(&self, jwt: &str) -> Result<T, SealError> {
        if jwt.len() > MAX_JWT_BYTES {
            return Err(SealError::Invalid(None));
        }
        let mut validation = Validation::new(Algorithm::HS256);
        // The clock is the caller's, and these JWTs have no audience but this relay.
        validation.validate_exp = false;
        validation.validate_aud = false;
        let key = DecodingKey::from_secret(self.secret.as_ref());
        let data = jsonwebtoken::decode::<T>(jwt, &key, &validation)
            .map_err(|error| SealError::Invalid(Some(error)))?;
        if data.header.typ.as_deref() != Some(self.typ) {
            return Err(SealError::Invalid(None));
        }
        Ok(data.claims)
    }
}

/// Reads the token of the admin API from a file, which is made with mode 0600 when absent.
///
/// # Errors
/// Fails when the file cannot be read or made, or holds a token that could be guessed.
pub fn open_admin_token(path: &Path) -> Result<Token, KeyFileError> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let write = |source| KeyFileError::Write { path: path.to_owned(), source };
            create_whole(path, &Token::generate()).map_err(write)?;
            read_admin_token(path)
        }
        _ => read_admin_token(path),
    }
}

/// Reads the token of the admin API from a file that a relay made.
///
/// # Errors
/// Fails when the file cannot be read, or holds a token that could be guessed.
pub fn read_admin_token(path: &Path) -> Result<Token, KeyFileError> {
    let read = |source| KeyFileError::Read { path: path.to_owned(), source };
    let token = Token::new(std::fs::read_to_string(path).map_err(read)?);
    match token.expose().len() {
        0..MIN_TOKEN_BYTES => Err(KeyFileError::Short(path.to_owned())),
        _ => Ok(token),
    }
}

/// Says when others on the machine can read the key, as they can from a careless backup.
fn warn_of_readers(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            let path = path.display();
            tracing::warn!(%path, "others can read the relay's key: chmod it to 0600");
        }
    }
    #[cfg(not(unix))]
    let _same_everywhere = path;
}

/// Makes a private file that is whole from its first moment; an existing one is left alone.
fn create_whole(path: &Path, secret: &Token) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(draft);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    writeln!(file, "{}", secret.expose())?;
    file.sync_all()?;
    // A link never replaces: of two relays that start at once, one makes the key.
    let linked = match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // File systems without links.
            return std::fs::rename(&draft, path);
        }
        _ => Ok(()),
    };
    std::fs::remove_file(&draft)?;
    linked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grants::{GrantRequest, NamePatterns};

    fn ticket() -> Ticket {
        Ticket {
            name: "calc".parse().unwrap(),
            owner: "key:x".to_owned(),
            generation: 7,
            expires_at: 100,
        }
    }

    fn grant() -> Grant {
        let request = GrantRequest {
            subject: "ada".to_owned(),
            names: NamePatterns::any(),
            max_shares: None,
            bound_to: None,
            expires_at: 100,
        };
        request.grant("t1".to_owned(), 1).unwrap()
    }

    #[test]
    fn a_ticket_is_good_until_its_end() {
        let key = RelayKey::generate();
        let jwt = key.sign_ticket(&ticket());
        assert_eq!(key.verify_ticket(&jwt, 99).unwrap(), ticket());
        assert!(matches!(key.verify_ticket(&jwt, 100), Err(SealError::Expired)));
    }

    #[test]
    fn another_relay_believes_neither_tickets_nor_tokens() {
        let (ours, theirs) = (RelayKey::generate(), RelayKey::generate());
        assert!(theirs.verify_ticket(&ours.sign_ticket(&ticket()), 1).is_err());
        assert!(theirs.verify_token(&ours.sign_token(&grant())).is_err());
        assert_eq!(ours.verify_token(&ours.sign_token(&grant())).unwrap(), grant());
    }

    #[test]
    fn nodes_with_one_secret_believe_each_others_tickets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.secret");
        let key = |text: &str| {
            std::fs::write(&path, text).unwrap();
            RelayKey::of_nodes(&path)
        };
        let (first, second) = ("a".repeat(32), "b".repeat(32));
        let jwt = key(&first).unwrap().sign_ticket(&ticket());
        let rotating = key(&format!("\n{first}\n{second}\n")).unwrap();
        assert_eq!(rotating.verify_ticket(&jwt, 1).unwrap(), ticket());
        assert!(key(&second).unwrap().verify_ticket(&jwt, 1).is_err());
        assert!(matches!(key("\n"), Err(KeyFileError::Short(_))));
    }

    #[test]
    fn a_ticket_is_no_token_and_a_token_no_ticket() {
        let key = RelayKey::generate();
        assert!(key.verify_token(&Token::new(key.sign_ticket(&ticket()))).is_err());
        assert!(key.verify_ticket(key.sign_token(&grant()).expose(), 1).is_err());
        // Even with equal claims and the right type in the header, the keys differ.
        let forged = Subkey { typ: TOKEN, ..key.ticket.clone() }.sign(&grant());
        assert!(key.verify_token(&Token::new(forged)).is_err());
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"none","typ":"{TOKEN}"}}"#));
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&grant()).unwrap());
        let error = RelayKey::generate().verify_token(&Token::new(format!("{header}.{claims}.")));
        assert!(matches!(error, Err(SealError::Invalid(_))));
    }

    #[test]
    fn the_key_file_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.key");
        let jwt = RelayKey::open(&path).unwrap().sign_ticket(&ticket());
        assert!(RelayKey::open(&path).unwrap().verify_ticket(&jwt, 1).is_ok());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.key");
        std::fs::write(&path, "hello\n").unwrap();
        assert!(matches!(RelayKey::open(&path), Err(KeyFileError::Malformed(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello\n");
        let nowhere = dir.path().join("none/relay.key");
        assert!(matches!(RelayKey::open(&nowhere), Err(KeyFileError::Write { .. })));
    }

    #[test]
    fn a_pseudonym_is_the_same_under_one_key_alone() {
        let (one, other) = (RelayKey::generate(), RelayKey::generate());
        assert_eq!(one.pseudonym("192.0.2.1"), one.pseudonym("192.0.2.1"));
        assert_ne!(one.pseudonym("192.0.2.1"), one.pseudonym("192.0.2.2"));
        assert_ne!(one.pseudonym("192.0.2.1"), other.pseudonym("192.0.2.1"));
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", RelayKey::generate()), "RelayKey(…)");
    }

    proptest! {
        #[test]
        fn no_text_makes_verify_panic(text in "[A-Za-z0-9_.-]{0,200}") {
            let key = RelayKey::generate();
            prop_assert!(key.verify_ticket(&text, 1).is_err());
        }
    }
}
