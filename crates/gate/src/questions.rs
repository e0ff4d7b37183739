//! What upstreams ask people and models: checked before policy is asked, and labelled with its origin before it is relayed.
//!
//! Pure: a question in, its input for the policies and the labelled question out. (MCP 2026-07-28 and 2025-11-25,
//! `client/elicitation`, `client/sampling`, `client/roots`.)

use countersign_catalog::{confusable_key, visible, visible_line};
use countersign_domain::{Refusal, RefusalKind, UpstreamName};
use countersign_proof::canonical::{Limits, parse_strict};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use url::{Host, Url};
use uuid::Uuid;

use crate::raw;
use crate::upstream::{Ask, AskKind};

/// Bounds of a question and of an answer.
const LIMITS: Limits = Limits { max_bytes: 1 << 20, max_depth: 64 };
/// Longest message that a person is shown.
const MAX_MESSAGE_CHARS: usize = 4_000;
/// Most fields of a form.
const MAX_FIELDS: usize = 50;
/// Longest URL that a person is sent to.
const MAX_URL: usize = 2_048;
/// `_meta` of a relayed question: who asks.
pub const ORIGIN: &str = "dev.countersign/origin";
/// `_meta` of a relayed question: during which call.
pub const DURING: &str = "dev.countersign/call";

/// A question that may be put to the policies.
#[derive(Debug)]
pub(crate) struct Question {
    /// What policies see of it.
    pub input: Value,
    /// The labelled parameters.
    pub params: Box<RawValue>,
    /// The form's schema.
    pub form: Option<Value>,
}

/// Checks and labels a question.
///
/// # Errors
/// [`RefusalKind::InvalidArguments`], in words for the upstream's author.
pub(crate) fn check(
    ask: &Ask,
    upstream: &UpstreamName,
    call: Uuid,
    allows_host: impl Fn(&str) -> bool,
) -> Result<Question, Refusal> {
    let params = parse_strict(ask.params.get().as_bytes(), &LIMITS)
        .map_err(|e| refuse(format!("the question is not usable JSON: {e}")))?;
    let mut members =
        raw::members(ask.params.get()).map_err(|_| refuse("the question's parameters are not an object"))?;
    let label = format!("[asked by upstream \"{upstream}\"] ");
    let mut relabel = |name: &str, text: &Value| raw::set(&mut members, name, text).map_err(|_| internal());
    let mut form = None;
    let input = match ask.kind {
        AskKind::ElicitForm => {
            let message = message_of(&params)?;
            let (schema, fields) = form_of(&params)?;
            form = Some(schema);
            relabel("message", &json!(format!("{label}{}", visible(message))))?;
            json!({"mode": "form", "message": message, "fields": fields})
        }
        AskKind::ElicitUrl => {
            let message = message_of(&params)?;
            let (url, host) = url_of(&params, allows_host)?;
            // The host in its ASCII form, so that look-alikes show.
            relabel("message", &json!(format!("{label}[opens {host}] {}", visible(message))))?;
            relabel("url", &json!(url.as_str()))?;
            json!({"mode": "url", "message": message, "fields": [], "url": url.as_str(), "scheme": url.scheme(), "host": host})
        }
        AskKind::Sample => {
            let system = params.get("systemPrompt").and_then(Value::as_str);
            relabel("systemPrompt", &json!(format!("{label}{}", system.unwrap_or_default())))?;
            sampling_input(&params, system)?
        }
        AskKind::ListRoots => json!({}),
    };
    let mut meta = match params.get("_meta") {
        Some(Value::Object(meta)) => meta.clone(),
        Some(_) => return Err(refuse("the question's _meta is not an object")),
        None => Map::new(),
    };
    meta.retain(|name, _| !name.starts_with("dev.countersign/"));
    meta.insert(ORIGIN.to_owned(), json!(upstream.as_str()));
    meta.insert(DURING.to_owned(), json!(call));
    relabel("_meta", &Value::Object(meta))?;
    let params = raw::object(&members).map_err(|_| internal())?;
    Ok(Question { input, params, form })
}

fn refuse(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::InvalidArguments, detail)
}

fn internal() -> Refusal {
    Refusal::new(RefusalKind::Internal, "the question could not be labelled")
}

fn message_of(params: &Value) -> Result<&str, Refusal> {
    let message = params.get("message").and_then(Value::as_str).ok_or_else(|| refuse("the question has no message"))?;
    let fits = !message.is_empty() && message.chars().count() <= MAX_MESSAGE_CHARS;
    fits.then_some(message).ok_or_else(|| refuse(format!("a message has 1 to {MAX_MESSAGE_CHARS} characters")))
}

fn sampling_input(params: &Value, system: Option<&str>) -> Result<Value, Refusal> {
    let messages = params.get("messages").and_then(Value::as_array).ok_or_else(|| refuse("it has no messages"))?;
    let tokens = params.get("maxTokens").and_then(Value::as_i64).ok_or_else(|| refuse("it has no maxTokens"))?;
    let tools = params.get("tools").and_then(Value::as_array).is_some_and(|tools| !tools.is_empty());
    let mut input = json!({"messages": messages.len(), "maxTokens": tokens, "tools": tools});
    if let Some(system) = system {
        input["systemPrompt"] = json!(system);
    }
    if let Some(context) = params.get("includeContext").and_then(Value::as_str) {
        input["includeContext"] = json!(context);
    }
    Ok(input)
}

/// A page that a person may be sent to: encrypted or on their own machine, no name and password in it, on an allowed host.
fn url_of(params: &Value, allows_host: impl Fn(&str) -> bool) -> Result<(Url, String), Refusal> {
    let text = params.get("url").and_then(Value::as_str).filter(|text| text.len() <= MAX_URL);
    let url = text.and_then(|text| Url::parse(text).ok()).ok_or_else(|| refuse("it has no usable url"))?;
    let host = url.host().ok_or_else(|| refuse("its url names no host"))?;
    let is_loopback = match &host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    match url.scheme() {
        "https" => {}
        "http" if is_loopback => {}
        other => return Err(refuse(format!("people are not sent to {other} pages; https only"))),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("its url holds a user name or password"));
    }
    let host = host.to_string();
    if !allows_host(&host) {
        return Err(refuse(format!("the manifest's elicitation hosts do not have {}", visible_line(&host))));
    }
    Ok((url, host))
}

/// A form's schema and its fields: flat, of the primitive kinds that clients can show, and not for secrets.
fn form_of(params: &Value) -> Result<(Value, Vec<String>), Refusal> {
    let schema = params.get("requestedSchema").filter(|schema| schema.is_object());
    let schema = schema.ok_or_else(|| refuse("a form needs a requestedSchema"))?;
    let properties = schema.get("properties").and_then(Value::as_object);
    let properties = properties
        .filter(|_| schema["type"] == "object")
        .ok_or_else(|| refuse("a form's schema is an object with properties"))?;
    if properties.len() > MAX_FIELDS {
        return Err(refuse(format!("a form has at most {MAX_FIELDS} fields")));
    }
    let combined = ["allOf", "anyOf", "oneOf", "not", "$ref", "if", "$defs", "patternProperties"];
    if combined.iter().any(|keyword| schema.get(keyword).is_some()) {
        return Err(refuse("a form's schema is flat: properties alone"));
    }
    for (name, field) in properties {
        let shown = visible_line(name).chars().take(80).collect::<String>();
        if !is_primitive(field) {
            return Err(refuse(format!("the field {shown:?} is not a text, a number, a yes or no, or a choice")));
        }
        let title = field.get("title").and_then(Value::as_str).unwrap_or_default();
        if asks_for_a_secret(name) || asks_for_a_secret(title) || field["format"] == "password" {
            return Err(refuse(format!(
                "the field {shown:?} asks for a secret; secrets are given on a page of the upstream's own (mode url), never through the client"
            )));
        }
    }
    Ok((schema.clone(), properties.keys().cloned().collect()))
}

fn is_primitive(field: &Value) -> bool {
    let nested = |schema: &Value| {
        ["properties", "$ref", "allOf", "not", "if", "patternProperties"]
            .iter()
            .any(|keyword| schema.get(keyword).is_some())
    };
    let is_choice = |options: Option<&Value>| {
        let titled = |option: &Value| option.get("const").is_some_and(Value::is_string);
        options.and_then(Value::as_array).is_some_and(|options| options.iter().all(titled))
    };
    let Some(kind) = field.get("type").and_then(Value::as_str) else { return false };
    if nested(field) {
        return false;
    }
    match kind {
        "string" => field.get("oneOf").is_none_or(|options| is_choice(Some(options))) && field.get("anyOf").is_none(),
        "number" | "integer" | "boolean" => true,
        "array" => field.get("items").is_some_and(|items| {
            let listed = items["type"] == "string" && items.get("enum").is_some_and(Value::is_array);
            !nested(items) && (listed || is_choice(items.get("anyOf")))
        }),
        _ => false,
    }
}

/// Whether a field's name or title names something that grants access. Whole words, and look-alikes of the usual names.
fn asks_for_a_secret(name: &str) -> bool {
    const WORDS: &[&str] = &[
        "password",
        "passwd",
        "pwd",
        "passphrase",
        "passcode",
        "secret",
        "secrets",
        "token",
        "credential",
        "credentials",
        "apikey",
        "cvv",
        "cvc",
        "otp",
        "mnemonic",
    ];
    const PAIRS: &[(&str, &str)] = &[
        ("api", "key"),
        ("access", "key"),
        ("private", "key"),
        ("secret", "key"),
        ("ssh", "key"),
        ("signing", "key"),
        ("encryption", "key"),
        ("recovery", "key"),
        ("recovery", "code"),
        ("security", "code"),
        ("card", "number"),
        ("account", "number"),
        ("seed", "phrase"),
        ("bearer", "key"),
    ];
    let words = words(name);
    let joined = confusable_key(name);
    words.iter().any(|word| WORDS.contains(&word.as_str()))
        || words.windows(2).any(|pair| PAIRS.iter().any(|(first, second)| pair[0] == *first && pair[1] == *second))
        || WORDS.iter().any(|word| confusable_key(word) == joined)
        || PAIRS.iter().any(|(first, second)| confusable_key(&format!("{first}{second}")) == joined)
}

/// `apiKey`, `api_key` and `API key` are two words each.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![String::new()];
    let mut before = ' ';
    for c in name.chars() {
        let starts = c.is_uppercase() && before.is_lowercase();
        if !c.is_alphanumeric() || starts {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What an answer says, as an event records it: `accept`, `decline`, `cancel`, or `answered`.
///
/// # Errors
/// If it is not an answer to this question.
pub(crate) fn answer(kind: AskKind, question: &Question, raw: &RawValue) -> Result<&'static str, String> {
    let value =
        parse_strict(raw.get().as_bytes(), &LIMITS).map_err(|e| format!("the answer is not usable JSON: {e}"))?;
    if !value.is_object() {
        return Err("the answer is not an object".to_owned());
    }
    let action = match kind {
        AskKind::Sample | AskKind::ListRoots => return Ok("answered"),
        AskKind::ElicitForm | AskKind::ElicitUrl => value.get("action").and_then(Value::as_str),
    };
    match (action, &question.form) {
        (Some("decline"), _) => Ok("decline"),
        (Some("cancel"), _) => Ok("cancel"),
        (Some("accept"), None) => Ok("accept"),
        (Some("accept"), Some(schema)) => {
            let content = value.get("content").cloned().unwrap_or_else(|| json!({}));
            let validator = jsonschema::validator_for(schema).map_err(|e| format!("the form's schema: {e}"))?;
            if validator.is_valid(&content) { Ok("accept") } else { Err("the answer does not fit the form".to_owned()) }
        }
        (Some(_) | None, _) => Err("an answer's action is accept, decline or cancel".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: AskKind, params: &str) -> Result<Question, Refusal> {
        let ask = Ask { kind, key: None, params: RawValue::from_string(params.to_owned()).expect("JSON") };
        check(&ask, &"ads".parse().expect("a name"), Uuid::nil(), |host| host != "evil.example")
    }

    #[test]
    fn a_question_says_who_asks_and_keeps_the_rest() {
        let raw = r#"{"message":"Which region?","x-odd":1.50,"_meta":{"a/b":1,"dev.countersign/origin":"forged"},
            "requestedSchema":{"type":"object","properties":{"region":{"type":"string","enum":["eu"]}}}}"#;
        let question = ask(AskKind::ElicitForm, raw).expect("fine");
        let text = question.params.get();
        assert!(text.contains(r#""x-odd":1.50"#), "{text}");
        let value: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(value["message"], "[asked by upstream \"ads\"] Which region?");
        assert_eq!((&value["_meta"]["a/b"], &value["_meta"][ORIGIN]), (&json!(1), &json!("ads")));
        assert_eq!(question.input["fields"], json!(["region"]));
        let yes = |text: &str| {
            let raw = RawValue::from_string(text.to_owned()).expect("JSON");
            answer(AskKind::ElicitForm, &question, &raw)
        };
        assert_eq!(yes(r#"{"action":"accept","content":{"region":"eu"}}"#), Ok("accept"));
        assert_eq!(yes(r#"{"action":"decline"}"#), Ok("decline"));
        for bad in [r#"{"action":"accept","content":{"region":"us"}}"#, r#"{"action":"maybe"}"#, "[]"] {
            assert!(yes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn people_are_sent_to_honest_pages_only() {
        let of = |url: &str| ask(AskKind::ElicitUrl, &json!({"mode": "url", "message": "m", "url": url}).to_string());
        for url in ["https://pay.example/x?y=1", "http://127.0.0.1:9/x", "http://[::1]/x", "http://localhost/x"] {
            assert!(of(url).is_ok(), "{url}");
        }
        for url in [
            "http://pay.example/",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "data:text/html,x",
            "https://a:b@pay.example/",
            "https://user@pay.example/",
            "https://evil.example/",
            "not a url",
            "https://",
        ] {
            assert!(of(url).is_err(), "{url}");
        }
        let alike = of("https://p\u{430}y.example/").expect("allowed, and shown");
        assert!(alike.params.get().contains("[opens xn--py-7kc.example]"), "{}", alike.params.get());
    }

    #[test]
    fn forms_are_flat_and_not_for_secrets() {
        let of = |properties: Value| {
            let schema = json!({"type": "object", "properties": properties});
            ask(AskKind::ElicitForm, &json!({"message": "m", "requestedSchema": schema}).to_string())
        };
        for fine in [
            json!({"name": {"type": "string"}, "age": {"type": "integer"}, "ok": {"type": "boolean"}}),
            json!({"colour": {"type": "string", "oneOf": [{"const": "r", "title": "Red"}]}}),
            json!({"colours": {"type": "array", "items": {"type": "string", "enum": ["r"]}}}),
            json!({"keyboard": {"type": "string"}, "primaryKey": {"type": "string"}, "max_tokens": {"type": "integer"}}),
            json!({"secretary": {"type": "string", "format": "email"}}),
        ] {
            assert!(of(fine.clone()).is_ok(), "{fine}");
        }
        for bad in [
            json!({"password": {"type": "string"}}),
            json!({"apiKey": {"type": "string"}}),
            json!({"value": {"type": "string", "title": "Your access token"}}),
            json!({"p\u{430}ssword": {"type": "string"}}),
            json!({"card_number": {"type": "string"}}),
            json!({"x": {"type": "string", "format": "password"}}),
            json!({"x": {"type": "object", "properties": {}}}),
            json!({"x": {"type": "array", "items": {"type": "object"}}}),
            json!({"x": {"anyOf": [{"type": "string"}]}}),
        ] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
        assert!(ask(AskKind::ElicitForm, r#"{"message":"m"}"#).is_err());
        assert!(ask(AskKind::ElicitForm, r#"{"message":"m","message":"n","requestedSchema":{}}"#).is_err());
    }
}
