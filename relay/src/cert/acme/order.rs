//! One order: from a list of names to a certificate that covers them.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewOrder,
    Order, OrderStatus, Problem, RetryPolicy,
};
use zeroize::Zeroizing;

use super::dns::{Dns, DnsError, Txt};
use super::proofs::{Board, OnBoard};
use super::web::NoAnswer;
use crate::cert::CertError;

/// How long an authority may take for its checks, and for the certificate.
const POLLING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).timeout(Duration::from_secs(120));

/// Why an order came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error("{}", in_a_word(.0))]
    Acme(#[from] instant_acme::Error),
    #[error(transparent)]
    Dns(#[from] DnsError),
    #[error(transparent)]
    Cert(#[from] CertError),
    #[error("the authority does not offer {0}")]
    NotOffered(&'static str),
    #[error("the authority did not believe the proof: {0}")]
    Unproved(String),
    #[error("it took longer than {} minutes", .0.as_secs() / 60)]
    TooLong(Duration),
}

impl OrderError {
    /// Tells whether the authority does not know our account any more.
    pub(super) fn is_lost_account(&self) -> bool {
        let Self::Acme(instant_acme::Error::Api(problem)) = self else { return false };
        is(problem, "accountDoesNotExist")
    }
}

/// Says of an exchange with an authority what became of it; what it said itself is the source.
fn in_a_word(error: &instant_acme::Error) -> &'static str {
    match error {
        instant_acme::Error::Api(_) => "the authority refused",
        instant_acme::Error::Other(error) if error.is::<NoAnswer>() => {
            "the authority cannot be reached"
        }
        _ => "the exchange with the authority failed",
    }
}

/// Tells whether a problem is of a kind (RFC 8555 §6.7).
fn is(problem: &Problem, kind: &str) -> bool {
    let told = problem.r#type.as_deref().and_then(|told| told.rsplit(':').next());
    told == Some(kind)
}

/// How names are proved to be ours.
#[derive(Clone, Debug)]
pub(super) enum Prover {
    Dns { dns: Arc<dyn Dns>, wait: Duration },
    Tls(Board),
    Http(Board),
}

/// A proof that an authority may look for now.
enum Laid {
    Record(Txt),
    Shown(OnBoard),
}

/// What came of an order, in PEM.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: Zeroizing<String>,
}

impl Prover {
    fn kind(&self) -> (ChallengeType, &'static str) {
        match self {
            Self::Dns { .. } => (ChallengeType::Dns01, "dns-01"),
            Self::Tls(_) => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
            Self::Http(_) => (ChallengeType::Http01, "http-01"),
        }
    }

    /// Orders a certificate. Whatever comes of it, its proofs are taken away again.
    pub(super) async fn order(
        &self,
        account: &Account,
        names: &[String],
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Issued, OrderError> {
        let names: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
        let mut order = begin(account, &names, replaces).await?;
        let mut laid = Vec::new();
        let done = self.finish(&mut order, &mut laid).await;
        self.clear(laid).await;
        done
    }

    async fn finish(&self, order: &mut Order, laid: &mut Vec<Laid>) -> Result<Issued, OrderError> {
        if order.state().status == OrderStatus::Pending {
            self.lay(order, laid).await?;
            let wait = match self {
                Self::Dns { wait, .. } => *wait,
                Self::Tls(board) | Self::Http(board) => board.wait(),
            };
            tokio::time::sleep(wait).await;
            self.call(order).await?;
            let status = order.poll_ready(&POLLING).await;
            if !matches!(status, Ok(OrderStatus::Ready)) {
                let why = complaint(order).await;
                return Err(match (why, status) {
                    (Some(why), _) => OrderError::Unproved(why),
                    (None, Err(error)) => error.into(),
                    (None, Ok(_)) => OrderError::Unproved("it does not say why".to_owned()),
                });
            }
        }
        let key = Zeroizing::new(order.finalize().await?);
        let chain = order.poll_certificate(&POLLING).await?;
        Ok(Issued { chain, key })
    }

    /// Puts all proofs in place.
    async fn lay(&self, order: &mut Order, laid: &mut Vec<Laid>) -> Result<(), OrderError> {
        let (kind, called) = self.kind();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let Identifier::Dns(name) = authorization.identifier().identifier.clone() else {
                continue;
            };
            let challenge =
                authorization.challenge(kind.clone()).ok_or(OrderError::NotOffered(called))?;
            let key = challenge.key_authorization();
            match self {
                Self::Dns { dns, .. } => {
                    let name = format!("_acme-challenge.{name}");
                    let txt = Txt { name, value: key.dns_value() };
                    // Before it is tried, so that half a success is taken away too.
                    laid.push(Laid::Record(txt.clone()));
                    dns.add(&txt).await?;
                }
                Self::Tls(board) => {
                    let digest = key.digest();
                    laid.push(Laid::Shown(board.tls(&name, digest.as_ref()).await?));
                }
                Self::Http(board) => {
                    laid.push(Laid::Shown(board.http(&challenge.token, key.as_str()).await?));
                }
            }
        }
        Ok(())
    }

    /// Tells the authority that it may look.
    async fn call(&self, order: &mut Order) -> Result<(), OrderError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = authorization.challenge(self.kind().0)
            {
                challenge.set_ready().await?;
            }
        }
        Ok(())
    }

    async fn clear(&self, laid: Vec<Laid>) {
        for laid in laid {
            match (self, laid) {
                (Self::Dns { dns, .. }, Laid::Record(txt)) => {
                    if let Err(error) = dns.remove(&txt).await {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, record = txt.name, "a DNS record was left behind");
                    }
                }
                (Self::Tls(board) | Self::Http(board), Laid::Shown(proof)) => {
                    board.take_down(proof).await;
                }
                _ => {}
            }
        }
    }
}

/// Makes the order; one that cannot replace the present certificate replaces none.
async fn begin(
    account: &Account,
    names: &[Identifier],
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Order, instant_acme::Error> {
    let plain = NewOrder::new(names);
    let Some(replaces) = replaces else { return account.new_order(&plain).await };
    match account.new_order(&NewOrder::new(names).replaces(replaces)).await {
        // The authority has no renewal information, or does not know the certificate, or it was
        // replaced already (RFC 9773 §5): all worth an order.
        Err(instant_acme::Error::Unsupported(_)) => account.new_order(&plain).await,
        Err(instant_acme::Error::Api(problem)) if !is(&problem, "rateLimited") => {
            account.new_order(&plain).await
        }
        done => done,
    }
}

/// Returns what the authority says of the proofs that it did not believe.
async fn complaint(order: &mut Order) -> Option<String> {
    let mut told = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let failed = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        told.extend(failed.map(ToString::to_string));
    }
    (!told.is_empty()).then(|| told.join("; "))
}
