//! A name server for tests: every name is on loopback, TXT records come by signed updates or from
//! files that a program writes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::rdata::{A, CNAME, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, TSigResponseContext, TSigner};
use mcpm_shared::scope::Scope;
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

pub(crate) const KEY: &str = "relay-key";
pub(crate) const SECRET: &str = "dGhlIHNlY3JldCBvZiB0aGUgdGVzdHM=";

/// TXT records by name, without the root's dot.
type Texts = Arc<Mutex<BTreeMap<String, Vec<String>>>>;
/// What names stand for.
type Aliases = Arc<Mutex<BTreeMap<String, String>>>;

pub(crate) struct FakeDns {
    address: SocketAddr,
    texts: Texts,
    aliases: Aliases,
    /// Where a program writes records: a file for a name, a line for a record.
    pub(crate) dir: tempfile::TempDir,
    scope: Scope,
}

#[derive(Clone)]
struct Zone {
    texts: Texts,
    aliases: Aliases,
    dir: PathBuf,
}

impl FakeDns {
    pub(crate) async fn start() -> Self {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (texts, aliases, scope) = (Texts::default(), Aliases::default(), Scope::new());
        let zone = Zone {
            texts: Arc::clone(&texts),
            aliases: Arc::clone(&aliases),
            dir: dir.path().to_owned(),
        };
        let asked = zone.clone();
        scope.spawn_until_cancelled(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer).await {
                udp.send_to(&asked.answer(&buffer[..length]), peer).await.unwrap();
            }
        });
        scope.spawn_until_cancelled(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut message).await.unwrap();
                let answer = zone.answer(&message);
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        Self { address, texts, aliases, dir, scope }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the texts of a name.
    pub(crate) fn set(&self, name: &str, texts: &[&str]) {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        self.texts.lock().unwrap().insert(name.to_owned(), texts);
    }

    /// Makes a name stand for another.
    pub(crate) fn set_alias(&self, name: &str, target: &str) {
        self.aliases.lock().unwrap().insert(name.to_owned(), target.to_owned());
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        self.texts.lock().unwrap().get(name).cloned().unwrap_or_default()
    }
}

impl Drop for FakeDns {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

impl Zone {
    fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let asked = Message::from_vec(bytes).unwrap();
        match asked.metadata.op_code {
            OpCode::Update => self.update(bytes, &asked),
            _ => self.query(&asked).to_vec().unwrap(),
        }
    }

    fn query(&self, asked: &Message) -> Message {
        let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
        for query in &asked.queries {
            answer.add_query(query.clone());
            let name = query.name().clone();
            let record = |data| Record::from_rdata(name.clone(), 1, data);
            match query.query_type() {
                RecordType::A => {
                    answer.add_answer(record(RData::A(A(Ipv4Addr::LOCALHOST))));
                }
                RecordType::CNAME => {
                    let alias = self.aliases.lock().unwrap().get(&plain(&name)).cloned();
                    let alias = alias.map(|alias| Name::from_ascii(alias).unwrap());
                    answer.add_answers(alias.map(|alias| record(RData::CNAME(CNAME(alias)))));
                }
                RecordType::TXT => {
                    let texts = self.texts(&plain(&name)).into_iter();
                    answer.add_answers(texts.map(|text| record(RData::TXT(TXT::new(vec![text])))));
                }
                _ => {}
            }
        }
        answer
    }

    fn texts(&self, name: &str) -> Vec<String> {
        let mut texts = self.texts.lock().unwrap().get(name).cloned().unwrap_or_default();
        let written = std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        texts.extend(written.lines().map(str::to_owned));
        texts
    }

    fn update(&self, bytes: &[u8], asked: &Message) -> Vec<u8> {
        let mut name = Name::from_ascii(KEY).unwrap();
        name.set_fqdn(true);
        let secret = STANDARD.decode(SECRET).unwrap();
        let signer = TSigner::new(secret, TsigAlgorithm::HmacSha256, name, 300).unwrap();
        let (id, op_code) = (asked.metadata.id, asked.metadata.op_code);
        let Ok((mac, ..)) = signer.verify_message_byte(bytes, None, true) else {
            return Message::error_msg(id, op_code, ResponseCode::NotAuth).to_vec().unwrap();
        };
        for record in &asked.authorities {
            let RData::TXT(txt) = &record.data else { panic!("{record:?}") };
            let text = String::from_utf8(txt.txt_data.concat()).unwrap();
            let mut texts = self.texts.lock().unwrap();
            let texts = texts.entry(plain(&record.name)).or_default();
            texts.retain(|one| *one != text);
            if record.dns_class == DNSClass::IN {
                texts.push(text);
            }
        }
        let mut answer = Message::response(id, op_code);
        let unsigned = answer.to_vec().unwrap();
        let now = UnixTime::now().as_secs();
        let context = TSigResponseContext::new(id, now, signer, mac, None);
        answer.set_signature(context.sign(&unsigned).unwrap());
        answer.to_vec().unwrap()
    }
}

fn plain(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}
