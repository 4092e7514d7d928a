//! What a registry says of a server, in one form for all registries: what it is, the ways to
//! install it, and what each of them asks for.

use serde::{Deserialize, Serialize};

use super::template::placeholders;

/// One server of a registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// What `install` takes.
    pub name: String,
    /// The name of the entry that it becomes, unless the user chooses another.
    pub alias: String,
    /// Its name for people.
    pub title: String,
    /// What it does.
    pub description: String,
    /// The version that the registry offers.
    pub version: Option<String>,
    /// Who says all this.
    pub origin: Origin,
    /// Where people read about it.
    pub homepage: Option<String>,
    /// Where its source is.
    pub repository: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// Its license.
    pub license: Option<String>,
    /// What it is about.
    pub categories: Vec<String>,
    /// What it is about, in the words of its maker.
    pub tags: Vec<String>,
    /// Whether who makes the service also makes the server.
    pub official: bool,
    /// Whether nobody maintains it any more.
    pub archived: bool,
    /// The ways to install it, in the order of the registry.
    pub methods: Vec<Method>,
    /// The ways that we cannot go.
    pub unusable: Vec<Unusable>,
    /// What it can be asked.
    pub examples: Vec<String>,
}

/// Who says what a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The mcpm.sh catalogue, or one of the same form.
    Catalogue,
    /// The official MCP Registry.
    Official,
    /// The list in this program.
    BuiltIn,
    /// The user, who named a package, an address or a place.
    Reference,
}

impl Origin {
    /// Returns the word for this origin.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Catalogue => "catalogue",
            Self::Official => "official",
            Self::BuiltIn => "built-in",
            Self::Reference => "reference",
        }
    }
}

/// A way of the registry that we cannot go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Its name.
    pub id: String,
    /// Why not.
    pub reason: String,
}

/// One way to install a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// Its name among the methods of the server.
    pub id: String,
    /// What kind it is: the registry's word for it.
    pub kind: String,
    /// What the registry says of it.
    pub description: Option<String>,
    /// Whether the registry prefers it.
    pub recommended: bool,
    /// What it asks for, in the order to ask.
    pub inputs: Vec<Input>,
    /// What becomes of it.
    pub launch: Launch,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// What a method asks for. The texts of its [`Launch`] name it as `${NAME}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: Option<String>,
    /// Whether nothing works without it.
    pub required: bool,
    /// Whether it must not be seen.
    pub secret: bool,
    /// What it is when nobody says otherwise; not an example.
    pub default: Option<String>,
    /// What it might look like. It is shown and never used.
    pub example: Option<String>,
    /// The only values it may have, if there are any.
    pub choices: Vec<String>,
}

/// What a method becomes. All texts may have placeholders, except where it is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Launch {
    /// A child process.
    Stdio {
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<Arg>,
        /// Its variables.
        env: Vec<Var>,
        /// Its working directory, without placeholders.
        cwd: Option<String>,
    },
    /// A remote server.
    Remote {
        /// The address.
        url: String,
        /// The headers.
        headers: Vec<Var>,
    },
    /// A bundle to download, which says the rest itself.
    Bundle {
        /// The address, without placeholders.
        url: String,
        /// The SHA-256 that the registry gives, in hexadecimal.
        sha256: Option<String>,
    },
}

/// A part of a command line that is there as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// Words, left out when one of their placeholders has no value.
    Words(Vec<String>),
    /// A word that is there when an input is `true`.
    Switch {
        /// The word.
        word: String,
        /// The name of the input.
        input: String,
    },
    /// One word for each value of an input, which are separated by commas.
    Spread(String),
    /// `-e NAME`, when this variable is set: hands it on into a container without showing it.
    PassEnv(String),
    /// A word of the user, taken as it is.
    Literal(String),
}

/// A variable or a header, left out when a placeholder of its value has no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Var {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Manifest {
    /// Makes one of which nothing but a name is known.
    pub(super) fn named(name: &str, origin: Origin) -> Self {
        Self {
            name: name.to_owned(),
            alias: name.to_owned(),
            title: name.to_owned(),
            description: String::new(),
            version: None,
            origin,
            homepage: None,
            repository: None,
            author: None,
            license: None,
            categories: Vec::new(),
            tags: Vec::new(),
            official: false,
            archived: false,
            methods: Vec::new(),
            unusable: Vec::new(),
            examples: Vec::new(),
        }
    }

    /// Returns the method to take when nobody chooses: the first one that is recommended, else
    /// the first one.
    #[must_use]
    pub fn preferred(&self) -> Option<&Method> {
        self.methods.iter().find(|method| method.recommended).or_else(|| self.methods.first())
    }

    /// Tells whether a name, the description, a tag or a category has `query` in it, whatever the
    /// case of its letters.
    #[must_use]
    pub fn matches(&self, query: &str) -> bool {
        let query = query.to_lowercase();
        let names = [&self.name, &self.title, &self.description];
        let mut texts = names.into_iter().chain(&self.tags).chain(&self.categories);
        texts.any(|text| text.to_lowercase().contains(&query))
    }
}

impl Launch {
    /// Returns the placeholders of all texts, each once.
    pub(super) fn placeholders(&self) -> Vec<String> {
        let mut texts: Vec<&str> = Vec::new();
        let vars = match self {
            Self::Stdio { command, args, env, .. } => {
                texts.push(command);
                for arg in args {
                    if let Arg::Words(words) = arg {
                        texts.extend(words.iter().map(String::as_str));
                    }
                }
                env.as_slice()
            }
            Self::Remote { url, headers } => {
                texts.push(url);
                headers.as_slice()
            }
            Self::Bundle { .. } => &[],
        };
        texts.extend(vars.iter().map(|var| var.value.as_str()));
        let mut named: Vec<String> = Vec::new();
        for name in texts.into_iter().flat_map(placeholders) {
            if !named.iter().any(|known| known == name) {
                named.push(name.to_owned());
            }
        }
        named
    }
}

/// Tells whether something of this name is likely to be a secret.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase();
    let words = ["token", "key", "secret", "password", "passwd", "credential", "authorization"];
    words.iter().any(|word| name.contains(word))
}
