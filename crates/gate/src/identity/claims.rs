//! From claims to a principal, by what the operator configured for the issuer.
//!
//! An issuer speaks for the workspaces that it was given and no others, and its tokens carry the node's own roles only where
//! the operator said so: otherwise one tenant's identity provider could mint another tenant's people, or the operator.

use std::collections::{BTreeMap, BTreeSet};

use countersign_domain::{Principal, PrincipalKind, WorkspaceName};
use serde_json::{Map, Value};

use super::cause::Cause;

/// Roles that mean something to the node as a whole.
pub const NODE_ROLES: [&str; 2] = ["operator", "auditor"];
/// The longest value of a claim that names something.
const MAX_NAME: usize = 256;
/// The most roles, and the most scopes, of one token.
const MAX_NAMES: usize = 200;
/// The most claims that become attributes, and the longest of them.
const MAX_ATTRIBUTES: usize = 64;
const MAX_ATTRIBUTE: usize = 1024;
/// The most parties in an `act` chain (RFC 8693, section 4.1).
const MAX_ACTORS: usize = 4;

/// Which claims carry what, and what an issuer may say.
///
/// A claim is named by its name, by a path of names with dots between (`realm_access.roles`) where no claim has that name as
/// it stands, or by a JSON pointer (`/realm_access/roles`).
#[derive(Debug, Clone)]
pub struct ClaimRules {
    /// The subject.
    pub subject: String,
    /// The workspace.
    pub workspace: String,
    /// The workspace of every token, whatever it says.
    pub fixed_workspace: Option<WorkspaceName>,
    /// The workspace of tokens that name none; `None` refuses them.
    pub default_workspace: Option<WorkspaceName>,
    /// The workspaces that the issuer may speak for.
    pub workspaces: Workspaces,
    /// Arrays of roles, or texts with spaces between.
    pub roles: Vec<String>,
    /// Only roles that begin like this count, without this beginning.
    pub role_prefix: Option<String>,
    /// Roles under other names.
    pub role_map: BTreeMap<String, String>,
    /// Roles of every token.
    pub add_roles: BTreeSet<String>,
    /// Which of [`NODE_ROLES`] a token of this issuer may carry.
    pub node_roles: BTreeSet<String>,
    /// Arrays of scopes, or texts with spaces between.
    pub scopes: Vec<String>,
    /// `agent`, `person` or `service`, or a word of `kind_map`.
    pub kind: String,
    /// Kinds under other names.
    pub kind_map: BTreeMap<String, PrincipalKind>,
    /// The kind of tokens that say none.
    pub default_kind: PrincipalKind,
    /// Further attributes for policies, with the claims that hold them. Texts of the top level are attributes anyway.
    pub attributes: BTreeMap<String, String>,
}

/// The workspaces that an issuer may speak for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workspaces {
    /// All of the node.
    Any,
    /// These.
    Only(BTreeSet<WorkspaceName>),
}

impl Workspaces {
    fn hold(&self, name: &WorkspaceName) -> bool {
        match self {
            Workspaces::Any => *name != WorkspaceName::node(),
            Workspaces::Only(names) => names.contains(name) && *name != WorkspaceName::node(),
        }
    }
}

impl Default for ClaimRules {
    /// The default workspace, no roles of the node.
    fn default() -> Self {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            subject: "sub".into(),
            workspace: "tenant".into(),
            fixed_workspace: None,
            default_workspace: Some(WorkspaceName::default_workspace()),
            workspaces: Workspaces::Only([WorkspaceName::default_workspace()].into()),
            roles: texts(&["roles"]),
            role_prefix: None,
            role_map: BTreeMap::new(),
            add_roles: BTreeSet::new(),
            node_roles: BTreeSet::new(),
            scopes: texts(&["scope", "scopes", "scp"]),
            kind: "kind".into(),
            kind_map: BTreeMap::new(),
            default_kind: PrincipalKind::Agent,
            attributes: BTreeMap::new(),
        }
    }
}

/// A claim by name, path or pointer.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(pointer) = name.strip_prefix('/') {
        let mut parts = pointer.split('/').map(|part| part.replace("~1", "/").replace("~0", "~"));
        let first = claims.get(&parts.next()?)?;
        return parts.try_fold(first, |value, part| value.get(part.as_str()));
    }
    let path = || {
        let mut parts = name.split('.');
        let first = claims.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    };
    claims.get(name).or_else(path)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}

fn named<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claim(claims, name).and_then(Value::as_str).filter(|text| is_name(text))
}

/// A claim's texts: an array, or one text with spaces between. Anything else is refused rather than read as nothing.
fn texts(value: Option<&Value>) -> Result<BTreeSet<String>, Cause> {
    let texts: Vec<&str> = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(list)) => list.split_ascii_whitespace().collect(),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().ok_or(Cause::Claims)).collect::<Result<_, _>>()?
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => return Err(Cause::Claims),
    };
    if texts.len() > MAX_NAMES || !texts.iter().all(|text| is_name(text)) {
        return Err(Cause::Claims);
    }
    Ok(texts.into_iter().map(str::to_owned).collect())
}

/// Who the verified claims name.
pub(crate) fn principal_of(
    claims: &Map<String, Value>,
    issuer: &str,
    rules: &ClaimRules,
    development: bool,
) -> Result<Principal, Cause> {
    let subject = named(claims, &rules.subject).ok_or(Cause::Claims)?;
    let actors = actors(claims, issuer)?;
    let actor = actors.first().copied();
    let mut attributes = attributes(claims, rules);
    if actors.len() > 1 {
        // Who acted before is for policies and people to see; it decides nothing by itself (RFC 8693, section 4.1).
        attributes.insert("act_chain".into(), serde_json::to_string(&actors).unwrap_or_default());
    }
    Ok(Principal {
        kind: kind_of(claims, rules, actor.is_some())?,
        id: actor.unwrap_or(subject).to_owned(),
        issuer: issuer.to_owned(),
        on_behalf_of: actor.map(|_| subject.to_owned()),
        workspace: workspace_of(claims, rules)?,
        roles: roles_of(claims, rules)?,
        scopes: union(claims, &rules.scopes)?,
        development,
        attributes,
    })
}

/// The agent that acts now, then those before it.
fn actors<'a>(claims: &'a Map<String, Value>, issuer: &str) -> Result<Vec<&'a str>, Cause> {
    let mut actors = Vec::new();
    let mut next = claims.get("act");
    while let Some(act) = next {
        let act = act.as_object().filter(|_| actors.len() < MAX_ACTORS).ok_or(Cause::Claims)?;
        // Another issuer's subject is not this issuer's to speak for.
        if act.get("iss").is_some_and(|other| other.as_str() != Some(issuer)) {
            return Err(Cause::Claims);
        }
        actors.push(named(act, "sub").ok_or(Cause::Claims)?);
        next = act.get("act");
    }
    Ok(actors)
}

fn kind_of(claims: &Map<String, Value>, rules: &ClaimRules, acts: bool) -> Result<PrincipalKind, Cause> {
    // `act` names who acts; the token's subject is the person for whom.
    if acts {
        return Ok(PrincipalKind::Agent);
    }
    let Some(stated) = claim(claims, &rules.kind) else { return Ok(rules.default_kind) };
    let stated = stated.as_str().ok_or(Cause::Claims)?;
    match (rules.kind_map.get(stated), stated) {
        (Some(kind), _) => Ok(*kind),
        (None, "agent") => Ok(PrincipalKind::Agent),
        (None, "person") => Ok(PrincipalKind::Person),
        (None, "service") => Ok(PrincipalKind::Service),
        (None, _) => Err(Cause::Claims),
    }
}

fn workspace_of(claims: &Map<String, Value>, rules: &ClaimRules) -> Result<WorkspaceName, Cause> {
    let name = match (&rules.fixed_workspace, claim(claims, &rules.workspace)) {
        (Some(fixed), _) => fixed.clone(),
        (None, Some(stated)) => stated.as_str().and_then(|name| name.parse().ok()).ok_or(Cause::Claims)?,
        (None, None) => rules.default_workspace.clone().ok_or(Cause::Claims)?,
    };
    if rules.workspaces.hold(&name) { Ok(name) } else { Err(Cause::Workspace) }
}

fn roles_of(claims: &Map<String, Value>, rules: &ClaimRules) -> Result<BTreeSet<String>, Cause> {
    let stated = union(claims, &rules.roles)?;
    let taken = stated.iter().filter_map(|role| match &rules.role_prefix {
        Some(prefix) => role.strip_prefix(prefix.as_str()).filter(|rest| !rest.is_empty()),
        None => Some(role.as_str()),
    });
    let mapped = taken.map(|role| rules.role_map.get(role).map_or(role, String::as_str).to_owned());
    let all = mapped.chain(rules.add_roles.iter().cloned());
    // Left out, not refused: the same token may well be meant for services where these words say something else.
    Ok(all.filter(|role| !NODE_ROLES.contains(&role.as_str()) || rules.node_roles.contains(role)).collect())
}

fn union(claims: &Map<String, Value>, names: &[String]) -> Result<BTreeSet<String>, Cause> {
    let mut all = BTreeSet::new();
    for name in names {
        all.extend(texts(claim(claims, name))?);
    }
    if all.len() > MAX_NAMES { Err(Cause::Claims) } else { Ok(all) }
}

fn attributes(claims: &Map<String, Value>, rules: &ClaimRules) -> BTreeMap<String, String> {
    let fits = |text: &&str| text.len() <= MAX_ATTRIBUTE;
    let chosen = rules.attributes.iter().filter_map(|(name, path)| {
        let text = claim(claims, path)?.as_str().filter(fits)?;
        Some((name.clone(), text.to_owned()))
    });
    let mut all: BTreeMap<String, String> = chosen.take(MAX_ATTRIBUTES).collect();
    for (name, value) in claims {
        // What the operator named comes first.
        if let Some(text) = value.as_str().filter(fits)
            && all.len() < MAX_ATTRIBUTES
        {
            all.entry(name.clone()).or_insert_with(|| text.to_owned());
        }
    }
    // OpenID Connect Core, section 5.1: the one standard claim that says whether another can be relied on.
    if let Some(verified) = claims.get("email_verified").and_then(Value::as_bool) {
        all.insert("email_verified".into(), verified.to_string());
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(claims: Value, rules: &ClaimRules) -> Result<Principal, Cause> {
        let mut all = json!({"sub": "ada"});
        for (name, value) in claims.as_object().expect("an object") {
            all[name] = value.clone();
        }
        principal_of(all.as_object().expect("an object"), "https://idp", rules, false)
    }

    #[test]
    fn claims_are_found_by_name_path_and_pointer() {
        let claims = json!({"a.b": "literal", "a": {"b": "nested", "c": {"d/e": "deep"}}});
        let claims = claims.as_object().expect("an object");
        for (name, expected) in [
            ("a.b", Some("literal")),
            ("/a/b", Some("nested")),
            ("/a/c/d~1e", Some("deep")),
            ("a.c.x", None),
            ("/a/x/y", None),
        ] {
            assert_eq!(claim(claims, name).and_then(Value::as_str), expected, "{name}");
        }
    }

    #[test]
    fn an_issuer_speaks_for_its_workspaces_and_no_others() {
        let only = |names: &[&str]| Workspaces::Only(names.iter().map(|name| name.parse().expect("a name")).collect());
        let ward = ClaimRules { workspaces: only(&["ward-7"]), default_workspace: None, ..ClaimRules::default() };
        assert_eq!(read(json!({"tenant": "ward-7"}), &ward).expect("its own").workspace.as_str(), "ward-7");
        for (claims, expected) in [
            (json!({"tenant": "ward-8"}), Cause::Workspace),
            (json!({"tenant": "default"}), Cause::Workspace),
            (json!({"tenant": "_node"}), Cause::Workspace),
            (json!({"tenant": ["ward-7"]}), Cause::Claims),
            (json!({}), Cause::Claims),
        ] {
            assert_eq!(read(claims.clone(), &ward).expect_err("refused"), expected, "{claims}");
        }
        let any = ClaimRules { workspaces: Workspaces::Any, ..ClaimRules::default() };
        assert!(read(json!({"tenant": "ward-8"}), &any).is_ok());
        assert_eq!(read(json!({"tenant": "_node"}), &any).expect_err("never"), Cause::Workspace);
        let fixed = ClaimRules { fixed_workspace: Some("ward-7".parse().expect("a name")), ..ward };
        assert_eq!(read(json!({"tenant": "ward-8"}), &fixed).expect("read").workspace.as_str(), "ward-7");
    }

    #[test]
    fn roles_are_mapped_and_the_nodes_own_are_kept_back() {
        let rules = ClaimRules {
            roles: vec!["realm_access.roles".into(), "groups".into()],
            role_prefix: Some("cs-".into()),
            role_map: BTreeMap::from([("money".to_owned(), "treasurer".to_owned())]),
            add_roles: ["staff".to_owned()].into(),
            ..ClaimRules::default()
        };
        let claims =
            json!({"realm_access": {"roles": ["cs-money", "cs-operator", "teller"]}, "groups": "cs-auditor cs-x"});
        let roles =
            |rules: &ClaimRules| read(claims.clone(), rules).expect("read").roles.into_iter().collect::<Vec<_>>();
        assert_eq!(roles(&rules), ["staff", "treasurer", "x"]);
        // A mapping is no way around it either.
        let sly = ClaimRules { role_map: BTreeMap::from([("x".into(), "operator".into())]), ..rules.clone() };
        assert!(!roles(&sly).contains(&"operator".to_owned()));
        let trusted = ClaimRules { node_roles: ["operator".to_owned()].into(), ..rules };
        assert_eq!(roles(&trusted), ["operator", "staff", "treasurer", "x"]);
        for odd in [
            json!({"groups": 7}),
            json!({"groups": [7]}),
            json!({"groups": ["a\u{0}"]}),
            json!({"groups": vec!["a"; 300]}),
        ] {
            assert_eq!(read(odd.clone(), &trusted).expect_err("refused"), Cause::Claims, "{odd}");
        }
    }

    #[test]
    fn chains_of_actors_are_short_and_of_one_issuer() {
        let chain = json!({"act": {"sub": "helper", "act": {"sub": "first"}}});
        let principal = read(chain, &ClaimRules::default()).expect("read");
        assert_eq!((principal.id.as_str(), principal.on_behalf_of.as_deref()), ("helper", Some("ada")));
        assert_eq!(principal.attributes["act_chain"], r#"["helper","first"]"#);
        let mut deep = json!({"sub": "x"});
        for _ in 0..5 {
            deep = json!({"sub": "x", "act": deep});
        }
        for act in [deep, json!("helper"), json!({}), json!({"sub": "x", "iss": "https://other"}), json!(null)] {
            assert_eq!(
                read(json!({ "act": act }), &ClaimRules::default()).expect_err("refused"),
                Cause::Claims,
                "{act}"
            );
        }
    }

    #[test]
    fn kinds_are_mapped_and_a_token_never_makes_a_node_or_peer() {
        let kinds = BTreeMap::from([("human".to_owned(), PrincipalKind::Person)]);
        let rules = ClaimRules { kind_map: kinds, default_kind: PrincipalKind::Service, ..ClaimRules::default() };
        for (claims, expected) in [
            (json!({"kind": "human"}), Ok(PrincipalKind::Person)),
            (json!({"kind": "agent"}), Ok(PrincipalKind::Agent)),
            (json!({}), Ok(PrincipalKind::Service)),
            (json!({"kind": "human", "act": {"sub": "bot"}}), Ok(PrincipalKind::Agent)),
            (json!({"kind": "node"}), Err(Cause::Claims)),
            (json!({"kind": "peer"}), Err(Cause::Claims)),
            (json!({"kind": ["person"]}), Err(Cause::Claims)),
        ] {
            assert_eq!(read(claims.clone(), &rules).map(|principal| principal.kind), expected, "{claims}");
        }
    }
}
