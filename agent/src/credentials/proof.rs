//! What a relay asks for beside our key, and where it comes from each time we dial.

use mcpm_shared::assertion::Proof;

/// Where the proof for a relay comes from.
#[derive(Clone, Debug)]
pub enum ProofSource {
    /// It is kept, and the same each time.
    Kept(Proof),
    /// A command prints a token, run anew for each connection: tokens of identity providers live for
    /// minutes.
    Command(TokenCommand),
}

impl Default for ProofSource {
    fn default() -> Self {
        Self::Kept(Proof::None)
    }
}

impl From<Proof> for ProofSource {
    fn from(proof: Proof) -> Self {
        Self::Kept(proof)
    }
}

impl ProofSource {
    /// Tells whether nothing is shown.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Kept(Proof::None))
    }

    /// Tells whether another proof may come next time.
    #[must_use]
    pub fn renews(&self) -> bool {
        matches!(self, Self::Command(_))
    }
}

/// A line for the shell that prints a token and nothing else on stdout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCommand(String);

impl TokenCommand {
    /// Takes a line as it is; an empty one is none.
    #[must_use]
    pub fn new(line: &str) -> Option<Self> {
        let line = line.trim();
        (!line.is_empty()).then(|| Self(line.to_owned()))
    }

    /// Returns the line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
