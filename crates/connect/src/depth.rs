//! How deeply an answer may be nested. What is relayed is read by others, whose parsers call themselves for each level: many stop
//! near 128, and some end their process.

use countersign_gate::upstream::DispatchError;

/// Most levels of arrays and objects in an answer.
const MAX_DEPTH: usize = 128;

/// Whether arrays and objects are nested deeper than that. Whether the text is JSON at all is for the parser to say.
pub(crate) fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted && depth == MAX_DEPTH => return true,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The refusal of an answer that is.
pub(crate) fn too_deep() -> DispatchError {
    DispatchError::Protocol(format!("its JSON is nested deeper than {MAX_DEPTH} levels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_inside_strings_are_no_levels() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for (json, deeper) in [
            (nested(MAX_DEPTH), false),
            (nested(MAX_DEPTH + 1), true),
            ("[".repeat(200_000), true),
            (format!("[{}]", vec!["{}"; 200_000].join(",")), false),
            (format!(r#"{{"a":"\"{}"}}"#, "[".repeat(200_000)), false),
            (format!(r#"["\\",{}]"#, nested(MAX_DEPTH)), true),
        ] {
            assert_eq!(is_too_deep(json.as_bytes()), deeper, "{:.40}", json);
        }
    }
}
