use super::*;

fn read(text: &str) -> Invitation {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The ways as `URL HEADER=VALUE`.
fn ways_of(invitation: &Invitation) -> Vec<String> {
    let way = |(url, headers): &(String, Vars)| {
        let headers: Vec<_> = headers.iter().map(|(n, v)| format!(" {n}={v}")).collect();
        format!("{url}{}", headers.concat())
    };
    invitation.ways().map(way).collect()
}

#[test]
fn the_secret_of_a_link_goes_into_a_header_where_that_is_understood() {
    let v1 = read("https://work-abc.r.example?s=S1&profile=my%20work");
    assert_eq!(
        ways_of(&v1),
        [
            "https://work-abc.r.example/mcp?profile=my%20work X-MCPM-SECRET=S1",
            "https://work-abc.r.example/sse?s=S1&profile=my%20work",
            "https://work-abc.r.example/?s=S1&profile=my%20work",
        ]
    );
    assert_eq!(v1.called(), "my work");
    assert_eq!(v1.credential(), Credential::Link);
    let by_path = read("http://localhost:8080/s/work-abc?s=S1&profile=work");
    assert_eq!(
        ways_of(&by_path)[0],
        "http://localhost:8080/s/work-abc/mcp?profile=work X-MCPM-SECRET=S1"
    );
    let ours = read("https://time-abc.r.example/mcp?s=S1");
    assert_eq!(
        ways_of(&ours),
        ["https://time-abc.r.example/mcp X-MCPM-SECRET=S1", "https://time-abc.r.example/mcp?s=S1"]
    );
}

#[test]
fn a_token_is_a_bearer_and_a_url_alone_is_tried_as_it_is() {
    let url = read("https://time-abc.r.example/mcp/?a=1#x");
    assert_eq!(ways_of(&url), ["https://time-abc.r.example/mcp/?a=1"]);
    let root = read("https://time-abc.r.example");
    assert_eq!(ways_of(&root), ["https://time-abc.r.example/mcp", "https://time-abc.r.example/"]);
    let told = url.with_token(&Token::new("T1")).unwrap();
    assert_eq!(ways_of(&told), ["https://time-abc.r.example/mcp/?a=1 Authorization=Bearer T1"]);
    assert_eq!(told.credential(), Credential::Token);
    let twice = read("https://x.example/mcp?s=S1").with_token(&Token::new("T1"));
    assert_eq!(twice.unwrap_err(), LinkError::Twice);
}

#[test]
fn a_share_is_named_after_its_profile_or_its_host() {
    for (url, name) in [
        ("https://time-abc.r.example/mcp", "time-abc"),
        ("https://time-abc.r.example?s=x&profile=%25work", "time-abc"),
        ("http://localhost:8080/s/notes-abc/mcp", "notes-abc"),
        ("https://mcp.linear.app/mcp", "linear"),
        ("http://127.0.0.1:6276/mcp", "share"),
        ("http://[::1]:6276/mcp", "share"),
    ] {
        assert_eq!(read(url).called(), name, "{url}");
    }
}

#[test]
fn what_would_be_looked_up_here_and_sent_there_is_refused() {
    for (url, what) in [
        ("https://evil.example/mcp?s=${AWS_SECRET}", LinkError::Reference("URL")),
        (
            "https://evil.example/mcp?s=%24%7BAWS_SECRET%7D",
            LinkError::Reference("secret of the link"),
        ),
        ("https://evil.example/mcp?s=file:~/.ssh/id", LinkError::Reference("secret of the link")),
        ("https://evil.example/mcp?s=keyring:mcpm/x", LinkError::Reference("secret of the link")),
        ("https://evil.example/mcp?x=${HOME}", LinkError::Reference("URL")),
        ("https://evil.example/mcp?s=a%0Ab", LinkError::NoSecret("secret of the link")),
    ] {
        assert_eq!(url.parse::<Invitation>().unwrap_err(), what, "{url}");
    }
    let url = read("https://x.example/mcp");
    for token in ["${HOME}", "file:/etc/passwd", "a b", ""] {
        assert!(url.clone().with_token(&Token::new(token)).is_err(), "{token}");
    }
    assert!(url.with_token(&Token::new("1|a:b/c+d=")).is_ok());
}

proptest::proptest! {
    #[test]
    fn no_link_whatsoever_makes_us_look_up_what_is_ours(
        secret in r"(\$\{[A-Z]{1,4}\}|file:/x|keyring:a/b|[ -~]{0,12}){0,3}",
        rest in r"(\$\{[A-Z]{1,4}\}|[!-~]{0,12}){0,3}",
        escaped in proptest::bool::ANY,
    ) {
        use crate::model::reference;
        let secret = match escaped {
            true => url::form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
            false => secret,
        };
        let link = format!("https://evil.example/{rest}?s={secret}&profile={rest}");
        if let Ok(invitation) = link.parse::<Invitation>() {
            for (url, headers) in invitation.ways() {
                let values = headers.iter().map(|(_, value)| value.into_owned());
                for value in values.chain([url.clone()]) {
                    let kept = reference::resolve(&value, |_| Err("looked up")).unwrap();
                    proptest::prop_assert_eq!(kept.as_ref(), &value);
                }
            }
        }
    }
}

#[test]
fn what_is_no_link_is_refused_without_being_repeated() {
    for text in ["time", "x.example/mcp?s=S1", "ftp://x?s=S1", "https://", "https://u:S1@x.example"]
    {
        let error = text.parse::<Invitation>().unwrap_err();
        assert!(!error.to_string().contains("S1") && error.hint().is_some(), "{text}");
    }
}

#[test]
fn the_same_share_is_known_again_whatever_its_secret() {
    let link = read("https://work-abc.r.example?s=NEW&profile=work");
    assert!(link.is_at("https://work-abc.r.example/mcp?profile=work"));
    assert!(link.is_at("https://work-abc.r.example/sse?s=OLD&profile=work"));
    assert!(!link.is_at("https://work-abc.r.example/mcp?profile=home"));
}

#[test]
fn a_secret_over_plain_http_is_told_of_unless_it_stays_on_this_machine() {
    assert!(read("http://r.example/mcp?s=S1").is_in_clear());
    for url in ["http://localhost/mcp?s=S1", "https://r.example/mcp?s=S1", "http://r.example/mcp"] {
        assert!(!read(url).is_in_clear(), "{url}");
    }
}

#[test]
fn debug_output_shows_no_secret() {
    let told = read("https://x.example/mcp").with_token(&Token::new("S3CRET")).unwrap();
    for invitation in [told, read("https://x.example/mcp?s=S3CRET")] {
        assert!(!format!("{invitation:?}").contains("S3CRET"));
    }
}
