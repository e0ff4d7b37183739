//! Path templates: literal text and places for arguments.

/// Longest template, in bytes.
pub(super) const MAX_PATH: usize = 1_000;

/// A parsed path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    segments: Vec<Vec<Piece>>,
}

/// A part of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text that stands as it is.
    Literal(String),
    /// The place of the argument with this name.
    Place(String),
}

impl PathTemplate {
    /// Reads a template. Its literal text needs no encoding and cannot leave the base: no `%`, no dot segments.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_PATH {
            return Err(format!("the path is longer than {MAX_PATH} bytes"));
        }
        let rest = text.strip_prefix('/').ok_or("the path must start with '/'")?;
        let segments = rest.split('/').map(segment).collect::<Result<Vec<_>, _>>()?;
        let template = Self { segments };
        let names: Vec<&str> = template.places().collect();
        if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            return Err(format!("{{{}}} stands twice in the path", twice.1));
        }
        Ok(template)
    }

    /// Its segments, each a row of pieces. `/` alone has one empty segment.
    pub fn segments(&self) -> &[Vec<Piece>] {
        &self.segments
    }

    /// The names of its places, in order.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().flatten().filter_map(|piece| match piece {
            Piece::Place(name) => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }
}

fn segment(text: &str) -> Result<Vec<Piece>, String> {
    if text == "." || text == ".." {
        return Err("the path has a dot segment".to_owned());
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        literal(before, &mut pieces)?;
        let (name, tail) = after.split_once('}').ok_or("a '{' in the path is never closed")?;
        if name.is_empty() || name.contains('{') {
            return Err("a place in the path is written {name}".to_owned());
        }
        pieces.push(Piece::Place(name.to_owned()));
        rest = tail;
    }
    literal(rest, &mut pieces)?;
    Ok(pieces)
}

fn literal(text: &str, pieces: &mut Vec<Piece>) -> Result<(), String> {
    // RFC 3986 `pchar` without percent-encoding, whose other spellings of '/' and '.' are then no concern.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(c);
    if let Some(wrong) = text.chars().find(|c| !plain(*c)) {
        return Err(format!("{wrong:?} cannot stand in the path; queries go into `query`"));
    }
    if !text.is_empty() {
        pieces.push(Piece::Literal(text.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_segments_of_text_and_places() {
        let template = PathTemplate::parse("/v1/patients/{patient}/files/{name}.{ext}:copy").expect("a template");
        assert_eq!(template.places().collect::<Vec<_>>(), ["patient", "name", "ext"]);
        assert_eq!(template.segments().len(), 5);
        assert_eq!(PathTemplate::parse("/").expect("the base").segments(), [vec![]]);
        for wrong in
            ["", "a", "/a/../b", "/./a", "/{a", "/{}", "/{a{b}}", "/a b", "/a?b=c", "/a%2f", "/a\\b", "/{a}/{a}"]
        {
            assert!(PathTemplate::parse(wrong).is_err(), "{wrong}");
        }
    }
}
