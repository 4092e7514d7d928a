//! Golden bytes: these texts are what other implementations see. Add, never change.

use proptest::prelude::*;

use super::*;
use crate::access::TokenGrant;
use crate::proto::code;
use crate::token::Digest;

fn name() -> Name {
    "time-abc234".parse().unwrap()
}

fn golden<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: &M, json: &str) {
    let frame = encode(message).unwrap();
    assert_eq!(std::str::from_utf8(&frame[4..]).unwrap(), json);
    assert_eq!(frame[..4], u32::try_from(json.len()).unwrap().to_be_bytes());
    assert_eq!(&decode::<M>(json.as_bytes()).unwrap(), message);
}

#[test]
fn agent_messages_have_these_bytes() {
    golden(
        &AgentMessage::Hello(Hello {
            version: 1,
            agent: "mcpm/3.0.0".to_owned(),
            session: Some("s1".to_owned()),
            capabilities: vec![],
        }),
        r#"{"type":"hello","version":1,"agent":"mcpm/3.0.0","session":"s1"}"#,
    );
    let access = AccessPolicy {
        public: false,
        tokens: vec![TokenGrant {
            id: "k1".to_owned(),
            label: Some("phone".to_owned()),
            digest: Digest::of(b"abc"),
            expires_at: Some(9),
        }],
        link: None,
    };
    golden(
        &AgentMessage::Claim(Claim {
            request: 1,
            name: name(),
            mode: ShareMode::Mcp,
            access,
            ticket: None,
            expires_in_secs: Some(60),
        }),
        concat!(
            r#"{"type":"claim","request":1,"name":"time-abc234","mode":"mcp","access":{"public":false,"#,
            r#""tokens":[{"id":"k1","label":"phone","digest":"#,
            r#""ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","expires_at":9}]},"#,
            r#""expires_in_secs":60}"#,
        ),
    );
    golden(
        &AgentMessage::Update(Update {
            request: 2,
            share: 7,
            access: Some(AccessPolicy::public()),
            expires_in_secs: None,
        }),
        r#"{"type":"update","request":2,"share":7,"access":{"public":true,"tokens":[]}}"#,
    );
    golden(
        &AgentMessage::Release(Release { request: 3, share: 7 }),
        r#"{"type":"release","request":3,"share":7}"#,
    );
    golden(&AgentMessage::Ping(Beat { seq: 4 }), r#"{"type":"ping","seq":4}"#);
    golden(
        &AgentMessage::Decision(Decision { request: 5, allow: false, reason: None }),
        r#"{"type":"decision","request":5,"allow":false}"#,
    );
    golden(
        &AgentMessage::Unsupported(Unsupported { message_type: Some("x".to_owned()) }),
        r#"{"type":"unsupported","message_type":"x"}"#,
    );
}

#[test]
fn relay_messages_have_these_bytes() {
    golden(
        &RelayMessage::Welcome(Welcome {
            version: 1,
            relay: "mcpm-relay/3.0.0".to_owned(),
            node: "n1".to_owned(),
            session: "s1".to_owned(),
            limits: Limits { connections: 8, streams: 4096, shares: 5, body_bytes: 10 },
            capabilities: vec!["http".to_owned()],
        }),
        concat!(
            r#"{"type":"welcome","version":1,"relay":"mcpm-relay/3.0.0","node":"n1","session":"s1","#,
            r#""limits":{"connections":8,"streams":4096,"shares":5,"body_bytes":10},"#,
            r#""capabilities":["http"]}"#,
        ),
    );
    golden(
        &RelayMessage::Claimed(Claimed {
            request: 1,
            share: 7,
            name: name(),
            url: "https://time-abc234.relay.example/mcp".to_owned(),
            generation: 3,
            ticket: "t".to_owned(),
            expires_at: None,
        }),
        concat!(
            r#"{"type":"claimed","request":1,"share":7,"name":"time-abc234","#,
            r#""url":"https://time-abc234.relay.example/mcp","generation":3,"ticket":"t"}"#,
        ),
    );
    let refusal = Refusal::new(code::NAME_TAKEN, "taken").hint("choose another");
    golden(
        &RelayMessage::Refused(Refused { request: 1, refusal: refusal.clone() }),
        r#"{"type":"refused","request":1,"code":"name_taken","message":"taken","hint":"choose another"}"#,
    );
    golden(
        &RelayMessage::Revoked(Revoked { share: 7, refusal }),
        r#"{"type":"revoked","share":7,"code":"name_taken","message":"taken","hint":"choose another"}"#,
    );
    golden(
        &RelayMessage::GoAway(GoAway { reason: "restart".to_owned(), grace_ms: 30_000 }),
        r#"{"type":"go_away","reason":"restart","grace_ms":30000}"#,
    );
    golden(
        &RelayMessage::Notice(Notice { message: "hi".to_owned() }),
        r#"{"type":"notice","message":"hi"}"#,
    );
    golden(&RelayMessage::Pong(Beat { seq: 4 }), r#"{"type":"pong","seq":4}"#);
    golden(
        &RelayMessage::DecisionRequest(DecisionRequest {
            request: 5,
            share: 7,
            kind: "consent".to_owned(),
            visitor: None,
        }),
        r#"{"type":"decision_request","request":5,"share":7,"kind":"consent"}"#,
    );
    golden(
        &RelayMessage::Unsupported(Unsupported { message_type: None }),
        r#"{"type":"unsupported"}"#,
    );
}

#[test]
fn unknown_fields_are_ignored_and_unknown_types_are_told_apart() {
    let ping = decode::<AgentMessage>(br#"{"type":"ping","seq":1,"later":{}}"#).unwrap();
    assert_eq!(ping, AgentMessage::Ping(Beat { seq: 1 }));
    let later = decode::<AgentMessage>(br#"{"type":"teleport","to":"mars"}"#).unwrap();
    assert_eq!(later, AgentMessage::Unknown);
    assert!(decode::<AgentMessage>(b"[]").is_err());
}

#[test]
fn a_message_over_the_limit_is_not_sent() {
    let notice = RelayMessage::Notice(Notice { message: "x".repeat(MAX_CONTROL_FRAME) });
    assert!(matches!(encode(&notice), Err(ControlError::TooLong(_))));
}

#[tokio::test]
async fn a_frame_longer_than_the_limit_is_refused_before_it_is_read() {
    let mut bytes: &[u8] = &[0, 2, 0, 0, b'{'];
    let error = read::<AgentMessage>(&mut bytes).await.unwrap_err();
    assert!(matches!(error, ControlError::TooLong(131_072)), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_decode_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _agent = decode::<AgentMessage>(&bytes);
        let _relay = decode::<RelayMessage>(&bytes);
    }

    #[test]
    fn beats_survive_the_wire(seq: u64) {
        let frame = encode(&AgentMessage::Ping(Beat { seq })).unwrap();
        let back = decode::<AgentMessage>(&frame[4..]).unwrap();
        prop_assert_eq!(back, AgentMessage::Ping(Beat { seq }));
    }
}
