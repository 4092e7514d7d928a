//! Two questions to the DNS: which texts a name has, and which name it stands for.
//!
//! Asked by TCP, which nobody can forge who is not on the way: the answer decides whose a domain is.
//! Nothing is kept: who asks wants to know what is there now. The name servers do the search for us
//! (RFC 1034 §4.3.1), so this is all that it takes.

use std::net::SocketAddr;

/// The DNS gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot look up {name} in the DNS")]
pub struct LookupError {
    name: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Name servers to ask.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    #[cfg_attr(not(feature = "acme"), expect(dead_code, reason = "the DNS is asked with `acme`"))]
    servers: Vec<SocketAddr>,
}

impl Dns {
    /// Asks these servers, one after the other; without any, those of the system.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }
}

#[cfg(not(feature = "acme"))]
impl Dns {
    #[expect(clippy::unused_async, reason = "the other features' signature")]
    pub(super) async fn texts(&self, name: &str) -> Result<Vec<String>, LookupError> {
        Err(LookupError {
            name: name.to_owned(),
            source: "built without the feature `acme`".into(),
        })
    }

    #[expect(clippy::unused_async, reason = "the other features' signature")]
    pub(super) async fn alias(&self, name: &str) -> Result<Option<String>, LookupError> {
        Err(LookupError {
            name: name.to_owned(),
            source: "built without the feature `acme`".into(),
        })
    }
}

#[cfg(feature = "acme")]
mod asking {
    use std::net::IpAddr;
    use std::time::Duration;

    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::{Name, RData, RecordType};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::{Dns, LookupError, SocketAddr};

    /// How long one server may take.
    const PATIENCE: Duration = Duration::from_secs(5);
    /// Where the system says which servers to ask (resolv.conf(5)), and their port.
    const SYSTEM: &str = "/etc/resolv.conf";
    const PORT: u16 = 53;

    type BoxError = Box<dyn std::error::Error + Send + Sync>;

    impl Dns {
        /// Returns the texts of a name; none where there is no such name.
        pub(in crate::domains) async fn texts(
            &self,
            name: &str,
        ) -> Result<Vec<String>, LookupError> {
            let answer = self.ask(name, RecordType::TXT).await?;
            let text = |data: &RData| match data {
                RData::TXT(txt) => {
                    Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned())
                }
                _ => None,
            };
            Ok(answer.answers.iter().filter_map(|record| text(&record.data)).collect())
        }

        /// Returns the name that a name stands for, in lower case and without the final dot.
        pub(in crate::domains) async fn alias(
            &self,
            name: &str,
        ) -> Result<Option<String>, LookupError> {
            let answer = self.ask(name, RecordType::CNAME).await?;
            let alias = |data: &RData| match data {
                RData::CNAME(alias) => Some(alias.0.to_ascii()),
                _ => None,
            };
            let alias = answer.answers.iter().find_map(|record| alias(&record.data));
            Ok(alias.map(|alias| alias.trim_end_matches('.').to_ascii_lowercase()))
        }

        async fn ask(&self, name: &str, kind: RecordType) -> Result<Message, LookupError> {
            let mut last: BoxError = "no name server is known: name one with --dns-servers".into();
            let servers = match self.servers.as_slice() {
                [] => of_the_system().await,
                servers => servers.to_vec(),
            };
            for server in servers {
                let asked = tokio::time::timeout(PATIENCE, exchange(server, name, kind)).await;
                match asked.unwrap_or_else(|_| Err("no answer".into())) {
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = format!("{server}: {error}").into(),
                }
            }
            Err(LookupError { name: name.to_owned(), source: last })
        }
    }

    async fn exchange(
        server: SocketAddr,
        name: &str,
        kind: RecordType,
    ) -> Result<Message, BoxError> {
        let mut absolute = Name::from_ascii(name)?;
        absolute.set_fqdn(true);
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(absolute, kind));
        let id = question.metadata.id;
        let bytes = question.to_vec()?;
        let mut stream = TcpStream::connect(server).await?;
        stream
            .write_all(&[&u16::try_from(bytes.len())?.to_be_bytes()[..], &bytes].concat())
            .await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        let answer = Message::from_vec(&answer)?;
        let same = answer.queries.iter().map(|query| (query.name(), query.query_type()));
        if answer.metadata.id != id
            || !same.eq(question.queries.iter().map(|query| (query.name(), query.query_type())))
        {
            return Err("it answers another question".into());
        }
        match answer.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
            code => Err(format!("it says {code}").into()),
        }
    }

    /// Read each time, because it changes with the network.
    async fn of_the_system() -> Vec<SocketAddr> {
        parse(&tokio::fs::read_to_string(SYSTEM).await.unwrap_or_default())
    }

    fn parse(text: &str) -> Vec<SocketAddr> {
        let server = |line: &str| {
            let mut words = line.split_whitespace();
            let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
            Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, PORT))
        };
        text.lines().filter_map(server).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::domains::fake_dns::FakeDns;

        #[test]
        fn the_systems_servers_are_those_of_its_file() {
            let text =
                "# by hand\nsearch example\nnameserver 192.0.2.1\n nameserver ::1\nnameserver x\n";
            let servers: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
            assert_eq!(servers, ["192.0.2.1:53", "[::1]:53"]);
        }

        #[tokio::test]
        async fn texts_and_aliases_are_read_and_silence_is_an_error() {
            let fake = FakeDns::start().await;
            fake.set("a.example.org", &["one", "two"]);
            fake.set_alias("www.example.org", "A.Example.org");
            let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let dns = Dns::new(vec![dead, fake.address()]);
            assert_eq!(dns.texts("a.example.org").await.unwrap(), ["one", "two"]);
            assert_eq!(dns.texts("b.example.org").await.unwrap(), Vec::<String>::new());
            let alias = dns.alias("www.example.org").await.unwrap();
            assert_eq!(alias.as_deref(), Some("a.example.org"));
            assert_eq!(dns.alias("a.example.org").await.unwrap(), None);
            let error = Dns::new(vec![dead]).texts("a.example.org").await.unwrap_err();
            assert_eq!(error.to_string(), "cannot look up a.example.org in the DNS");
        }
    }
}
