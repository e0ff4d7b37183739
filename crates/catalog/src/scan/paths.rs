//! Files that hold secrets: who mentions them, and whether the model is to fetch them.

use super::fields::{Field, Role};
use super::text::Text;
use super::words::COMMANDS;
use super::{Found, Rule, Severity};

/// Parts of paths, in lower case. Each is specific enough to count by itself.
#[rustfmt::skip]
const PATHS: &[&str] = &[
    "~/.ssh", "/.ssh/", ".ssh/id_", "id_rsa", "id_ed25519", "id_ecdsa", "authorized_keys", "~/.aws",
    ".aws/credentials", ".netrc", "~/.gnupg", ".kube/config", ".docker/config.json", ".git-credentials", ".npmrc",
    ".pypirc", ".pgpass", ".bash_history", ".zsh_history", "/etc/shadow", "/etc/passwd", "/etc/sudoers",
    "/proc/self/environ", "/proc/1/environ", "/var/run/secrets", "/run/secrets/", ".cursor/mcp.json",
    ".vscode/mcp.json", "claude_desktop_config.json", ".claude.json", ".config/gcloud", ".azure/", "login data",
    "cookies.sqlite", "wallet.dat", "keychain-db", "system32\\config", "ntds.dit", ".env",
];
/// At most this many mentions of one path in one field are looked at.
const MAX_MENTIONS: usize = 1_000;
/// Words that make a mention a demand: the content of the file, not the file.
const CONTENTS: &[&str] = &["content", "inhalt", "contenu", "contenido", "conteúdo", "contenuto", "содерж"];
/// Verbs of other languages in the form in which they command.
#[rustfmt::skip]
const FOREIGN: &[&str] = &[
    "lies", "lese", "öffne", "kopiere", "sende", "lee", "abre", "copia", "envía", "lis", "lisez", "ouvre", "ouvrez",
    "leia", "leggi", "прочитай", "прочитайте", "открой",
];

pub(super) fn check(field: &Field<'_>, text: &Text, found: &mut Found) {
    for needle in PATHS {
        let (mut from, mut seen) = (0, 0);
        while seen < MAX_MENTIONS
            && let Some(offset) = text.folded[from..].find(needle)
        {
            let start = from + offset;
            from = start + needle.len();
            seen += 1;
            if is_whole(&text.folded, start, from, needle) {
                let severity = severity(field, text, start, needle);
                let message = match severity {
                    Severity::High | Severity::Critical => "reaches for a file that holds secrets",
                    Severity::Medium => "names a file that holds secrets as a value",
                    Severity::Low | Severity::Info => "mentions a file that holds secrets",
                };
                found.push(Rule::Sensitive, severity, field, text.original(start..from), message);
            }
        }
    }
}

/// `.env` and the like must stand alone; `.env.example` is documentation.
fn is_whole(text: &str, start: usize, end: usize, needle: &str) -> bool {
    let (before, after) = (text[..start].chars().next_back(), &text[end..]);
    if needle.starts_with(['.', 'i', 'a', 'c', 'k', 'l', 'n', 'w', 's'])
        && before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-')
    {
        return false;
    }
    if needle != ".env" {
        return true;
    }
    let goes_on = after.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-' || c == '(' || c == '[');
    !goes_on && ![".example", ".sample", ".template", ".dist"].iter().any(|suffix| after.starts_with(suffix))
}

fn severity(field: &Field<'_>, text: &Text, start: usize, needle: &str) -> Severity {
    let at = text.word_at(start);
    let is_prose = text.words.len() > 6;
    match field.role {
        Role::Default if !is_prose => {
            let climbs = text.folded[..start].ends_with("../");
            return if needle == ".env" && !climbs { Severity::Medium } else { Severity::High };
        }
        Role::Uri => return Severity::High,
        Role::Value if !is_prose => return Severity::Medium,
        Role::Name | Role::ParameterName | Role::Machine => return Severity::Low,
        Role::Default
        | Role::Value
        | Role::Title
        | Role::Description
        | Role::Parameter
        | Role::Result
        | Role::Unlisted
        | Role::Message
        | Role::Instructions => {}
    }
    if text.words.get(at).is_none_or(|word| word.quoted) || text.is_denied(at) {
        return Severity::Info;
    }
    let before = text.sentence(at).start..at;
    let commanded = before.clone().any(|i| {
        let word = text.word(i);
        FOREIGN.contains(&word) || (COMMANDS.contains(&word) && text.begins(i) && !text.is_denied(i))
    });
    if commanded {
        return Severity::High;
    }
    if text.is_refused(at) {
        return Severity::Info;
    }
    let content = before.into_iter().any(|i| CONTENTS.iter().any(|stem| text.word(i).starts_with(stem)));
    if content { Severity::High } else { Severity::Low }
}
