//! The rules by name. The names are stable: operators write them in `--despite` and in configuration.

macro_rules! rules {
    ($($variant:ident $id:literal $summary:literal,)*) => {
        /// A rule of the scan.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $summary] $variant,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The rule's name.
            pub fn id(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }

            /// What it looks for, in a sentence.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$variant => $summary,)* }
            }
        }
    };
}

rules! {
    HiddenText "hidden-text" "Characters that no screen shows, or that show a text in another order.",
    HiddenMarkup "hidden-markup" "Text in comments or invisible elements that speaks to the model.",
    EncodedText "encoded-text" "An encoding (base64, hexadecimal, escapes, ROT13 …) of text that has findings itself.",
    Padding "padding" "Blank space that moves what follows out of sight.",
    Override "override-instructions" "Tells the model to set aside its instructions or its user's request, or to obey a text.",
    Secrecy "secrecy" "Tells the model to keep something from its user.",
    Consent "consent-bypass" "Tells the model that its user need not be asked.",
    Authority "false-authority" "Claims to be the system, the vendor or a new turn of the conversation.",
    Steering "tool-steering" "Puts itself before, or in the place of, tools of other servers.",
    Shadowing "shadowing" "Changes how a tool of another server is used.",
    Context "context-exfiltration" "Asks for the conversation, the system prompt, the environment or other tools' results.",
    Sensitive "sensitive-data" "Asks for keys, passwords or files that hold them.",
    ExfilLink "exfiltration-link" "A link that carries the conversation or secrets out when it is followed or rendered.",
    Misplaced "misplaced-instruction" "Speaks to the model where only data belongs: a value, a comment, a member that no form shows.",
    Split "split-instruction" "An instruction in pieces over several fields.",
    Url "dangerous-url" "An address of a metadata service, an obfuscated address, or a scheme that reaches into the machine.",
    Confusable "confusable-name" "A name that looks like that of another tool.",
    Typosquat "typosquat" "A name one typing error away from another server's tool that it imitates.",
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.id())
    }
}

impl serde::Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl<'de> serde::Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl std::str::FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|rule| rule.id() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|rule| rule.id()).collect();
            format!("the scan has no rule {text:?}; it has {}", known.join(", "))
        })
    }
}
