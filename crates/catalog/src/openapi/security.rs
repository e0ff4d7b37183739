//! Security schemes into places for credentials: the secrets themselves come from the node's environment.

use std::collections::BTreeSet;

use countersign_domain::UpstreamName;
use serde_json::{Map, Value};

use super::Note;
use super::document::Document;

/// Headers with `${VARIABLE}` for each scheme that can be expressed; a note for each.
pub(super) fn headers(
    document: &Document,
    schemes: &BTreeSet<String>,
    upstream: &UpstreamName,
    notes: &mut Vec<Note>,
) -> Map<String, Value> {
    let mut headers = Map::new();
    for name in schemes {
        let place = format!("security scheme {name}");
        let mut note = |text: String| notes.push(Note { place: place.clone(), text });
        let scheme = match document.resolve(&document.root["components"]["securitySchemes"][name.as_str()]) {
            Ok(scheme) => scheme,
            Err(why) => {
                note(why);
                continue;
            }
        };
        let variable = variable(upstream, name);
        let (header, value) = match (scheme["type"].as_str(), scheme["scheme"].as_str(), scheme["in"].as_str()) {
            (Some("apiKey"), _, Some("header")) => {
                (scheme["name"].as_str().unwrap_or_default().to_owned(), format!("${{{variable}}}"))
            }
            (Some("http"), Some(kind), _) if kind.eq_ignore_ascii_case("basic") => {
                note(format!("{variable} is the base64 of `user:password`"));
                ("Authorization".to_owned(), format!("Basic ${{{variable}}}"))
            }
            (Some("http"), Some(kind), _) if kind.eq_ignore_ascii_case("bearer") => {
                ("Authorization".to_owned(), format!("Bearer ${{{variable}}}"))
            }
            (Some("oauth2" | "openIdConnect"), _, _) => {
                note("a token from the environment is not renewed; docs/credentials.md has better ways".into());
                ("Authorization".to_owned(), format!("Bearer ${{{variable}}}"))
            }
            (kind, ..) => {
                note(format!("a scheme of the type {} cannot be expressed", kind.unwrap_or("(none)")));
                continue;
            }
        };
        let taken = headers.keys().any(|other: &String| other.eq_ignore_ascii_case(&header));
        if header.is_empty() || taken {
            note(format!("left out: {header} is taken by another scheme"));
            continue;
        }
        note(format!("set the environment variable {variable}"));
        headers.insert(header, value.into());
    }
    headers
}

fn variable(upstream: &UpstreamName, scheme: &str) -> String {
    let name = format!("{upstream}_{scheme}");
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    name.chars().take(128).collect()
}
