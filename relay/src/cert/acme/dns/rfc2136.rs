//! A name server that takes updates (RFC 2136), signed with a shared key (TSIG, RFC 8945).

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::op::{Message, ResponseCode, update_message};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, RData, Record, RecordSet, TSigner};
use mcpm_shared::token::Token;
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Dns, DnsError, Txt};
use crate::config::Rfc2136;

/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How far the clocks may be apart, in seconds: what RFC 8945 §10 recommends.
const FUDGE: u16 = 300;
/// Of the records, in seconds: they live for a minute.
const TTL: u32 = 60;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Server {
    host: String,
    port: u16,
    zone: Name,
    signer: TSigner,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({}:{})", self.host, self.port)
    }
}

impl Server {
    /// Prepares a server. The secret is base64, with `hmac-sha384:` or `hmac-sha512:` before it
    /// where the key is not one of hmac-sha256.
    pub(super) fn new(server: &Rfc2136, secret: &Token) -> Result<Self, DnsError> {
        let wrong = |error: BoxError| DnsError::new("use the settings of the name server", error);
        let zone = absolute(&server.zone).map_err(wrong)?;
        let signer = signer(&server.key, secret.expose()).map_err(wrong)?;
        Ok(Self { host: server.server.clone(), port: server.port, zone, signer })
    }

    async fn update(&self, txt: &Txt, add: bool) -> Result<(), DnsError> {
        let told = || {
            let action = if add { "add a record to" } else { "remove a record from" };
            format!("{action} {} at {}:{}", self.zone, self.host, self.port)
        };
        match tokio::time::timeout(PATIENCE, self.exchange(txt, add)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(DnsError::new(told(), error)),
            Err(_) => Err(DnsError::new(told(), "no answer")),
        }
    }

    async fn exchange(&self, txt: &Txt, add: bool) -> Result<(), BoxError> {
        let name = absolute(&txt.name)?;
        if !self.zone.zone_of(&name) {
            return Err(format!("{name} is not in the zone").into());
        }
        let data = RData::TXT(TXT::new(vec![txt.value.clone()]));
        let records = RecordSet::from(Record::from_rdata(name, TTL, data));
        let mut message = if add {
            update_message::append(records, self.zone.clone(), false, false)
        } else {
            update_message::delete_by_rdata(records, self.zone.clone(), false)
        };
        let verifier = message.finalize(&self.signer, UnixTime::now().as_secs())?;
        let answer = ask(&self.host, self.port, &message.to_vec()?).await?;
        let code = Message::from_vec(&answer)?.metadata.response_code;
        // An answer that says no may have no signature; one that says yes must.
        if code != ResponseCode::NoError {
            return Err(format!("the server says {code}").into());
        }
        verifier.ok_or("the update was not signed")?.verify(&answer)?;
        Ok(())
    }
}

#[async_trait]
impl Dns for Server {
    async fn add(&self, txt: &Txt) -> Result<(), DnsError> {
        self.update(txt, true).await
    }

    async fn remove(&self, txt: &Txt) -> Result<(), DnsError> {
        self.update(txt, false).await
    }

    /// Secondaries are told at once (RFC 1996) and ask within seconds.
    fn usual_wait(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// Sends a message by TCP, which has no size to care for (RFC 1035 §4.2.2).
async fn ask(host: &str, port: u16, message: &[u8]) -> Result<Vec<u8>, BoxError> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(&u16::try_from(message.len())?.to_be_bytes()).await?;
    stream.write_all(message).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn absolute(name: &str) -> Result<Name, BoxError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    Ok(name)
}

fn signer(key: &str, secret: &str) -> Result<TSigner, BoxError> {
    let (algorithm, secret) = match secret.trim().split_once(':') {
        None | Some(("hmac-sha256", _)) => (TsigAlgorithm::HmacSha256, secret),
        Some(("hmac-sha384", _)) => (TsigAlgorithm::HmacSha384, secret),
        Some(("hmac-sha512", _)) => (TsigAlgorithm::HmacSha512, secret),
        Some(_) => return Err("the secret names an algorithm that is not known".into()),
    };
    let secret = secret.rsplit(':').next().unwrap_or_default().trim();
    // The library's error would repeat a part of the secret.
    let secret = STANDARD.decode(secret).map_err(|_| "the secret is not base64")?;
    Ok(TSigner::new(secret, algorithm, absolute(key)?, FUDGE)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domains::fake_dns::{FakeDns, KEY, SECRET};

    fn server(fake: &FakeDns, secret: &str) -> Server {
        let address = fake.address();
        let server = format!("{KEY}@{address}/example.com").parse().unwrap();
        Server::new(&server, &Token::new(secret.to_owned())).unwrap()
    }

    fn txt(value: &str) -> Txt {
        Txt { name: "_acme-challenge.a.example.com".to_owned(), value: value.to_owned() }
    }

    #[tokio::test]
    async fn records_of_one_name_are_added_and_removed_each_for_itself() {
        let fake = FakeDns::start().await;
        let server = server(&fake, SECRET);
        for value in ["one", "two"] {
            server.add(&txt(value)).await.unwrap();
        }
        assert_eq!(fake.texts("_acme-challenge.a.example.com"), ["one", "two"]);
        server.remove(&txt("one")).await.unwrap();
        server.remove(&txt("one")).await.unwrap();
        assert_eq!(fake.texts("_acme-challenge.a.example.com"), ["two"]);
    }

    #[tokio::test]
    async fn a_server_that_does_not_know_the_key_is_an_error() {
        let fake = FakeDns::start().await;
        let error = server(&fake, "b3RoZXI=").add(&txt("one")).await.unwrap_err();
        assert!(crate::cert::in_full(&error).contains("server says"), "{error:?}");
        let outside = Txt { name: "_acme-challenge.a.example.org".to_owned(), ..txt("one") };
        let error = server(&fake, SECRET).add(&outside).await.unwrap_err();
        assert!(crate::cert::in_full(&error).ends_with("is not in the zone"), "{error:?}");
    }

    #[test]
    fn a_bad_secret_is_not_repeated() {
        for secret in ["hmac-md5:AAAA", "not base64 at all!"] {
            let error = signer(KEY, secret).err().unwrap().to_string();
            assert!(!error.contains("AAAA") && !error.contains("at all"), "{error}");
        }
        for secret in ["c2VjcmV0", "hmac-sha512:c2VjcmV0", "hmac-sha256: c2VjcmV0\n"] {
            assert_eq!(signer(KEY, secret).unwrap().key(), b"secret");
        }
    }
}
