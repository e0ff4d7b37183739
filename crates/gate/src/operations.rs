//! What can be asked of an MCP upstream besides its tools: the fixed operations, and which resource a URI means.
//!
//! A resource's definition is reviewed and pinned like a tool's; what is called is `resources/read` with its URI, and the
//! pin that counts for that call is the one of the resource, or of the template that covers it.

use std::sync::Arc;

use countersign_catalog::{Kind, UriTemplate};
use countersign_domain::operation::{CONNECT, FIXED, PROMPT_PREFIX, RESOURCE_PREFIX, fixed_definition};
use countersign_domain::{Operation, Principal, Refusal, RefusalKind, ToolRef, UpstreamName};
use countersign_proof::digest::Digest;
use serde_json::Value;

use crate::registry::{Tool, View};

/// A resource template of one upstream.
pub(crate) struct Template {
    pub name: ToolRef,
    pub form: UriTemplate,
}

/// The fixed operations of an MCP upstream with their raw definitions.
pub(crate) fn fixed(upstream: &UpstreamName) -> impl Iterator<Item = (ToolRef, &'static str)> {
    FIXED.iter().map(|name| (ToolRef { upstream: upstream.clone(), tool: (*name).to_owned() }, fixed_definition(name)))
}

/// The operation by which people connect accounts, with its raw definition.
pub(crate) fn connect(upstream: &UpstreamName) -> (ToolRef, &'static str) {
    (ToolRef { upstream: upstream.clone(), tool: CONNECT.to_owned() }, fixed_definition(CONNECT))
}

/// What of a call's arguments decides which definition it goes by.
#[derive(Debug, PartialEq, Eq)]
enum Subject<'a> {
    /// The operation's own.
    Own,
    /// This resource's.
    Resource(&'a str),
    /// This prompt's.
    Prompt(&'a str),
    /// This template's, as it stands.
    Template(&'a str),
}

impl View {
    /// The resource that a URI means at this upstream: listed under it, or covered by a template.
    pub fn resource(&self, upstream: &UpstreamName, uri: &str) -> Option<&Arc<Tool>> {
        let named = |name: String| self.tool(&ToolRef { upstream: upstream.clone(), tool: name });
        // A URI with braces is no URI; it must not be taken for a template's own name.
        if uri.contains(['{', '}']) {
            return None;
        }
        if let Some(listed) = named(format!("{RESOURCE_PREFIX}{uri}")) {
            return Some(listed);
        }
        let templates = self.templates.get(upstream)?;
        let covering = templates.iter().filter(|template| template.form.matches(uri));
        // Where several cover it, one that is reviewed; their order is that of their names.
        let found = covering.filter_map(|template| self.tool(&template.name));
        found.fold(None, |best: Option<&Arc<Tool>>, next| match best {
            Some(best) if best.callable().is_ok() || next.callable().is_err() => Some(best),
            _ => Some(next),
        })
    }

    /// The definition by which a call goes: the tool's own, or that of the resource or prompt which its arguments name.
    ///
    /// # Errors
    /// If they name none that this caller may use.
    pub(crate) fn pin_of_call(
        &self,
        tool: &Tool,
        input: &Value,
        principal: &Principal,
    ) -> Result<Option<Digest>, Refusal> {
        let upstream = &tool.tool.upstream;
        let named = |prefix: &str, name: &str| {
            self.tool(&ToolRef { upstream: upstream.clone(), tool: format!("{prefix}{name}") })
        };
        let (found, what, name) = match subject(Operation::of(&tool.tool.tool), input) {
            Subject::Own => return Ok(tool.pin()),
            Subject::Resource(uri) => (self.resource(upstream, uri), "resource", uri),
            Subject::Prompt(name) => (named(PROMPT_PREFIX, name), "prompt", name),
            Subject::Template(uri) => (named(RESOURCE_PREFIX, uri), "resource template", uri),
        };
        match found.filter(|found| found.visible_to(principal)) {
            Some(found) => found.callable().map(|()| found.pin()),
            // A hidden one is refused, whatever is said of unlisted ones.
            None if what == "resource" && tool.reads_unlisted() && found.is_none() => Ok(tool.pin()),
            None => {
                let shown: String = name.chars().take(200).collect();
                let detail = format!("{upstream} lists no {what} {shown:?} that you may use");
                Err(Refusal::new(RefusalKind::UnlistedResource, detail))
            }
        }
    }

    /// Prompts, resources or templates that this caller may use and that the upstream lists, sorted by name.
    pub fn listed(&self, kind: Kind, principal: &Principal) -> Vec<&Arc<Tool>> {
        let of_kind = |tool: &&Arc<Tool>| {
            let operation = Operation::of(&tool.tool.tool);
            let fits = match operation {
                Operation::Prompt(_) | Operation::Resource(_) => Kind::of(&tool.tool.tool) == kind,
                Operation::Tool(_) => kind == Kind::Tool,
                Operation::ReadResource
                | Operation::Subscribe
                | Operation::Complete
                | Operation::GetTask
                | Operation::UpdateTask
                | Operation::CancelTask
                | Operation::Elicit
                | Operation::Sample
                | Operation::ListRoots
                | Operation::Connect => false,
            };
            fits && tool.is_listed() && tool.visible_to(principal) && tool.callable().is_ok()
        };
        let mut found: Vec<_> = self.tools().filter(of_kind).collect();
        found.sort_by(|a, b| a.tool.cmp(&b.tool));
        found
    }
}

fn subject<'a>(operation: Operation<'_>, input: &'a Value) -> Subject<'a> {
    let text = |value: &'a Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    match operation {
        Operation::ReadResource | Operation::Subscribe => Subject::Resource(text(input, "uri")),
        Operation::Complete => {
            let reference = &input["ref"];
            match text(reference, "type") {
                "ref/prompt" => Subject::Prompt(text(reference, "name")),
                // A reference names a template as it stands, or a single resource.
                _ if text(reference, "uri").contains('{') => Subject::Template(text(reference, "uri")),
                _ => Subject::Resource(text(reference, "uri")),
            }
        }
        Operation::Tool(_)
        | Operation::Prompt(_)
        | Operation::Resource(_)
        | Operation::GetTask
        | Operation::UpdateTask
        | Operation::CancelTask
        | Operation::Elicit
        | Operation::Sample
        | Operation::ListRoots
        | Operation::Connect => Subject::Own,
    }
}

/// Refuses what is not called by its name: definitions of resources, and what upstreams ask.
pub(crate) fn check_callable(tool: &ToolRef) -> Result<(), Refusal> {
    let detail = match Operation::of(&tool.tool) {
        Operation::Resource(_) => format!("{tool} is read with {}:resources/read and its URI", tool.upstream),
        Operation::Elicit | Operation::Sample | Operation::ListRoots => {
            format!("{tool} is asked by the upstream, not of it")
        }
        Operation::Connect => {
            format!(
                "{tool} is no tool; a person connects an account with `countersign connections connect {}`",
                tool.upstream
            )
        }
        Operation::Tool(_)
        | Operation::Prompt(_)
        | Operation::ReadResource
        | Operation::Subscribe
        | Operation::Complete
        | Operation::GetTask
        | Operation::UpdateTask
        | Operation::CancelTask => return Ok(()),
    };
    Err(Refusal::new(RefusalKind::UnknownTool, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_name_the_definition_that_counts() {
        let of = |name: &str, input: Value| format!("{:?}", subject(Operation::of(name), &input));
        assert_eq!(of("pay", json!({"uri": "x"})), "Own");
        assert_eq!(of("resources/read", json!({"uri": "a:b"})), "Resource(\"a:b\")");
        assert_eq!(of("completion/complete", json!({"ref": {"type": "ref/prompt", "name": "p"}})), "Prompt(\"p\")");
        let template = json!({"ref": {"type": "ref/resource", "uri": "a:{b}"}});
        assert_eq!(of("completion/complete", template), "Template(\"a:{b}\")");
    }

    #[test]
    fn fixed_definitions_can_be_pinned_and_validated() {
        let upstream = "ads".parse().expect("a name");
        for (tool, raw) in fixed(&upstream).chain([connect(&upstream)]) {
            assert!(countersign_catalog::pin(raw).is_ok(), "{tool}");
            let definition: Value = serde_json::from_str(raw).expect("JSON");
            assert!(jsonschema::validator_for(&definition["inputSchema"]).is_ok(), "{tool}");
        }
    }
}
