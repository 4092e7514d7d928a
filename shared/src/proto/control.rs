//! The messages of the control stream and their framing.
//!
//! Unknown fields are ignored. A message of unknown type is answered with `unsupported` and changes
//! nothing, so that either side may be newer than the other.

use std::io;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{MAX_CONTROL_FRAME, Refusal, ShareMode};
use crate::access::AccessPolicy;
use crate::name::Name;

/// Agent → relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentMessage {
    /// First on every connection.
    Hello(Hello),
    /// Asks for a name.
    Claim(Claim),
    /// Changes a share that is up.
    Update(Update),
    /// Gives a share up.
    Release(Release),
    /// Shows that the agent lives.
    Ping(Beat),
    /// Answers a `decision_request`.
    Decision(Decision),
    /// Says that a message was of no known type.
    Unsupported(Unsupported),
    /// A message of a later protocol.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// Relay → agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RelayMessage {
    /// Answers `hello`.
    Welcome(Welcome),
    /// The name is the agent's.
    Claimed(Claimed),
    /// The claim, update or release with this number failed.
    Refused(Refused),
    /// A share ended at the relay.
    Revoked(Revoked),
    /// The relay is about to close: connect again, to another node where there is one.
    GoAway(GoAway),
    /// Something the user should read.
    Notice(Notice),
    /// Answers `ping`.
    Pong(Beat),
    /// Asks the agent to decide over a visitor.
    DecisionRequest(DecisionRequest),
    /// Says that a message was of no known type.
    Unsupported(Unsupported),
    /// A message of a later protocol.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// Introduces an agent, on the first connection of a session and on each further one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest protocol version the agent speaks.
    pub version: u8,
    /// Program and version, for people.
    pub agent: String,
    /// The session to join; absent on the first connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Optional features the agent has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// Opens the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both speak.
    pub version: u8,
    /// Program and version, for people.
    pub relay: String,
    /// The node that holds the session.
    pub node: String,
    /// The id of the session, which further connections name.
    pub session: String,
    /// What the agent may do.
    pub limits: Limits,
    /// Optional features the relay has: `http` when shares of mode `http` are allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// What a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections of the session.
    pub connections: u8,
    /// Streams of one connection.
    pub streams: u32,
    /// Shares of the owner.
    pub shares: u32,
    /// Bytes of a request body.
    pub body_bytes: u64,
}

/// Asks for a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The number that the answer will carry.
    pub request: u32,
    /// The name wanted.
    pub name: Name,
    /// What travels.
    #[serde(default)]
    pub mode: ShareMode,
    /// Who may visit.
    pub access: AccessPolicy,
    /// The ticket of the last `claimed`, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// After how many seconds the share shall end; the relay may shorten it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_secs: Option<u64>,
}

/// Changes a share that is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The number that a refusal will carry.
    pub request: u32,
    /// The share.
    pub share: u32,
    /// The new policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessPolicy>,
    /// The new life time, from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_secs: Option<u64>,
}

/// Gives a share up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The number that a refusal will carry.
    pub request: u32,
    /// The share.
    pub share: u32,
}

/// A sign of life; `pong` repeats the number of its `ping`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Counts up.
    pub seq: u64,
}

/// The name is the agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The number of the claim.
    pub request: u32,
    /// The id that data streams carry, unique within the session.
    pub share: u32,
    /// The name.
    pub name: Name,
    /// The endpoint visitors use.
    pub url: String,
    /// Counts the claims of this name; data streams carry it.
    pub generation: u64,
    /// Proves the lease to a relay that forgot it. Opaque to the agent.
    pub ticket: String,
    /// When the share ends unless it is renewed, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// A claim, update or release failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The number of the message that failed.
    pub request: u32,
    /// Why.
    #[serde(flatten)]
    pub refusal: Refusal,
}

/// A share ended at the relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The share.
    pub share: u32,
    /// Why.
    #[serde(flatten)]
    pub refusal: Refusal,
}

/// The relay is about to close.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoAway {
    /// Why, for people.
    pub reason: String,
    /// How long streams that are open may go on, in milliseconds.
    pub grace_ms: u64,
}

/// Something the user should read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// One or two sentences.
    pub message: String,
}

/// Asks the agent to decide over a visitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRequest {
    /// The number that the answer will carry.
    pub request: u32,
    /// The share.
    pub share: u32,
    /// What is asked, for example `consent`.
    pub kind: String,
    /// Who asks, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visitor: Option<String>,
}

/// Answers a `decision_request`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The number of the question.
    pub request: u32,
    /// Yes or no.
    pub allow: bool,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answers a message of unknown type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsupported {
    /// The type that was not understood, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_type: Option<String>,
}

/// Why a control frame could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The stream failed or ended.
    #[error("the control stream ended")]
    Io(#[from] io::Error),
    /// The frame is longer than [`MAX_CONTROL_FRAME`].
    #[error("a control frame of {0} bytes is over the limit")]
    TooLong(usize),
    /// The frame is not a message.
    #[error("a control frame is not a message of this protocol")]
    Malformed(#[source] serde_json::Error),
}

/// Encodes one frame: length and JSON.
///
/// # Errors
/// When the message is longer than a frame may be.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, ControlError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).map_err(ControlError::Malformed)?;
    let length = frame.len() - 4;
    match u32::try_from(length) {
        Ok(short) if length <= MAX_CONTROL_FRAME => {
            frame[..4].copy_from_slice(&short.to_be_bytes());
        }
        _ => return Err(ControlError::TooLong(length)),
    }
    Ok(frame)
}

/// Decodes the JSON of one frame, without its length.
///
/// # Errors
/// When it is not a message; a message of unknown type is one.
pub fn decode<M: DeserializeOwned>(json: &[u8]) -> Result<M, ControlError> {
    serde_json::from_slice(json).map_err(ControlError::Malformed)
}

/// Writes one message and flushes it.
///
/// # Errors
/// When the stream fails. Not cancel-safe: a frame may be written in part.
pub async fn write<M: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &M,
) -> Result<(), ControlError> {
    stream.write_all(&encode(message)?).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one message.
///
/// # Errors
/// When the stream ends or the frame is not a message. Not cancel-safe: keep the future across
/// turns of a `select!`.
pub async fn read<M: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<M, ControlError> {
    let length = stream.read_u32().await?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_CONTROL_FRAME {
        return Err(ControlError::TooLong(length));
    }
    let mut json = vec![0; length];
    stream.read_exact(&mut json).await?;
    decode(&json)
}

#[cfg(test)]
mod tests;
