//! Labels that nobody gets without an operator's word: those that pass for somebody else, and those
//! of the operator's own list. Pure.
//!
//! Names are ASCII, and `xn--` is none (see [`mcpm_shared::name`]), so what can deceive is what looks
//! alike in ASCII: digits for letters, `rn` for `m`, hyphens in between.

use std::fmt;
use std::str::FromStr;

use mcpm_shared::name::Name;

use super::is_reserved;

/// Names that many trust with money, mail or credentials.
const BRANDS: &[&str] = &[
    "adobe",
    "airbnb",
    "alibaba",
    "alipay",
    "amazon",
    "amex",
    "anthropic",
    "apple",
    "appleid",
    "atlassian",
    "aws",
    "azure",
    "bankofamerica",
    "barclays",
    "binance",
    "bitbucket",
    "bitwarden",
    "booking",
    "chase",
    "chatgpt",
    "citibank",
    "claude",
    "cloudflare",
    "coinbase",
    "commerzbank",
    "deepseek",
    "deutschebank",
    "dhl",
    "discord",
    "docusign",
    "dropbox",
    "ebay",
    "facebook",
    "fedex",
    "gemini",
    "github",
    "gitlab",
    "gmail",
    "godaddy",
    "google",
    "hotmail",
    "hsbc",
    "icloud",
    "instagram",
    "intuit",
    "kraken",
    "lastpass",
    "linkedin",
    "mastercard",
    "metamask",
    "microsoft",
    "mistral",
    "netflix",
    "notion",
    "office365",
    "okta",
    "onedrive",
    "openai",
    "outlook",
    "paypal",
    "proton",
    "protonmail",
    "quickbooks",
    "revolut",
    "roblox",
    "salesforce",
    "santander",
    "sharepoint",
    "shopify",
    "skype",
    "slack",
    "snapchat",
    "spotify",
    "stripe",
    "telegram",
    "tiktok",
    "trustwallet",
    "twitter",
    "uber",
    "usps",
    "visa",
    "wechat",
    "wellsfargo",
    "whatsapp",
    "wise",
    "yahoo",
    "youtube",
    "zoom",
];

/// What turns a brand into a trap. A server that works with a brand has its name too (`github-a1b2c3`
/// is what `mcpm share` makes of `github`), so a brand alone within a label is no reason.
const BAIT: &[&str] = &[
    "account", "accounts", "auth", "bank", "billing", "confirm", "help", "helpdesk", "id",
    "invoice", "login", "logon", "mail", "official", "online", "password", "pay", "payment",
    "portal", "recover", "recovery", "reset", "secure", "security", "service", "signin", "sso",
    "support", "unlock", "update", "validate", "verify", "wallet", "web",
];

/// Most patterns that an operator's list holds: it is looked through for each claim of a new name.
pub const MAX_PATTERNS: usize = 10_000;

/// Why a label is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The relay needs it, or it would look official.
    Reserved,
    /// It looks like a name that many trust.
    Brand,
    /// It is on the operator's list.
    Listed,
}

/// Which labels are not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Whether labels are kept that look like names which many trust.
    pub brands: bool,
    /// The operator's own list.
    pub listed: Vec<LabelPattern>,
}

impl Labels {
    /// Returns why a name is not given, if it is not.
    #[must_use]
    pub fn keep(&self, name: &Name) -> Option<Kept> {
        if is_reserved(name) {
            return Some(Kept::Reserved);
        }
        let folded = fold(name.as_str());
        if self.listed.iter().any(|pattern| pattern.matches(name.as_str(), &folded)) {
            return Some(Kept::Listed);
        }
        (self.brands && deceives(name.as_str(), &folded)).then_some(Kept::Brand)
    }
}

/// Tells whether a label is a brand, or one with a word beside it that asks for trust.
fn deceives(label: &str, folded: &str) -> bool {
    let parts: Vec<String> = label.split('-').map(fold).collect();
    let baits: Vec<String> = BAIT.iter().map(|bait| fold(bait)).collect();
    let is_bait = |text: &str| baits.iter().any(|bait| bait == text);
    let baited = parts.iter().any(|part| is_bait(part));
    BRANDS.iter().map(|brand| fold(brand)).any(|brand| {
        let beside = folded.strip_prefix(&brand).or_else(|| folded.strip_suffix(&brand));
        beside.is_some_and(|rest| rest.is_empty() || is_bait(rest))
            || (baited && parts.contains(&brand))
    })
}

/// Folds what looks alike into one form; hyphens go. The result is for comparing only.
fn fold(label: &str) -> String {
    let label = label.replace('-', "").replace("rn", "m").replace("vv", "w");
    let alike = |c: char| match c {
        '0' => 'o',
        '1' | 'i' | 'j' => 'l',
        '2' => 'z',
        '3' => 'e',
        '4' => 'a',
        '5' => 's',
        '6' | '9' => 'g',
        '7' => 't',
        '8' => 'b',
        c => c,
    };
    label.chars().map(alike).collect()
}

/// One line of an operator's list: a label, or a part of one with `*` for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelPattern {
    text: String,
    /// What must stand there, hyphens and all.
    plain: String,
    /// The same in the form that what looks alike has too.
    folded: String,
    /// Whether anything may stand before and after it.
    open: (bool, bool),
}

/// A line that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no label of a-z, 0-9 and `-`, with `*` at its ends at most")]
pub struct LabelPatternError(String);

impl LabelPattern {
    fn matches(&self, label: &str, folded: &str) -> bool {
        // A part is taken by its letters: what looks like a short one by chance would be too much.
        match self.open {
            (false, false) => folded == self.folded,
            (false, true) => label.starts_with(&self.plain),
            (true, false) => label.ends_with(&self.plain),
            (true, true) => label.contains(&self.plain),
        }
    }
}

impl FromStr for LabelPattern {
    type Err = LabelPatternError;

    fn from_str(text: &str) -> Result<Self, LabelPatternError> {
        let text = text.trim().to_ascii_lowercase();
        let (front, rest) = match text.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, text.as_str()),
        };
        let (back, plain) = match rest.strip_suffix('*') {
            Some(plain) => (true, plain),
            None => (false, rest),
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if plain.is_empty() || plain.len() > 63 || !plain.bytes().all(fits) {
            return Err(LabelPatternError(text));
        }
        let (plain, folded) = (plain.to_owned(), fold(plain));
        Ok(Self { plain, folded, open: (front, back), text })
    }
}

impl fmt::Display for LabelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn labels(brands: bool, listed: &[&str]) -> Labels {
        let listed = listed.iter().map(|text| text.parse().unwrap()).collect();
        Labels { brands, listed }
    }

    #[test]
    fn what_passes_for_a_brand_is_kept() {
        let labels = labels(true, &[]);
        for text in [
            "paypal",
            "pay-pal",
            "paypa1",
            "paypai",
            "g00gle",
            "goog1e",
            "micros0ft",
            "rnicrosoft",
            "paypal-login",
            "login-paypal",
            "paypallogin",
            "secure-paypal-eu",
            "app1e-id",
            "wise-account",
            "claude-support",
        ] {
            assert_eq!(labels.keep(&name(text)), Some(Kept::Brand), "{text}");
        }
    }

    #[test]
    fn a_server_that_works_with_a_brand_may_be_called_so() {
        let labels = labels(true, &[]);
        for text in [
            "github-a1b2c3",
            "google-maps-x7k2qp",
            "notion-notes",
            "slack-abc234",
            "wisely",
            "apple-pie",
            "time",
            "calc-a1b2c3",
            "stripe-api-k2m4ab",
        ] {
            assert_eq!(labels.keep(&name(text)), None, "{text}");
        }
        assert_eq!(Labels::default().keep(&name("paypal")), None, "only where it is asked for");
        assert_eq!(Labels::default().keep(&name("www")), Some(Kept::Reserved));
    }

    #[test]
    fn an_operators_list_has_labels_and_parts_of_them() {
        let labels = labels(false, &["contoso", "corp-*", "*-prod", "*bank*"]);
        for text in ["contoso", "con-toso", "c0ntoso", "corp-x", "db-prod", "mybank2"] {
            assert_eq!(labels.keep(&name(text)), Some(Kept::Listed), "{text}");
        }
        for text in ["contoso-x", "corporate", "prod", "ban-k"] {
            assert_eq!(labels.keep(&name(text)), None, "{text}");
        }
    }

    #[test]
    fn lines_that_are_no_labels_are_refused() {
        for text in ["", "*", "**", "a*b", "a.b", "ä", "a b"] {
            assert!(text.parse::<LabelPattern>().is_err(), "{text}");
        }
        assert_eq!(" Corp-* ".parse::<LabelPattern>().unwrap().to_string(), "corp-*");
    }

    #[test]
    fn no_brand_is_kept_by_another_list() {
        for brand in BRANDS {
            assert!(!is_reserved(&name(brand)), "{brand}");
        }
        assert!(BRANDS.is_sorted() && BAIT.is_sorted());
    }

    proptest! {
        #[test]
        fn no_label_makes_it_panic(text in "[a-z0-9-]{1,63}", line in ".{0,20}") {
            let listed = line.parse::<LabelPattern>().into_iter().collect();
            if let Ok(name) = text.parse::<Name>() {
                let _kept = Labels { brands: true, listed }.keep(&name);
            }
        }
    }
}
