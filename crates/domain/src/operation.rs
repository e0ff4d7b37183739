//! What can be asked of an upstream, or asked by it: tools and the other primitives of MCP, under one kind of name.
//!
//! Every operation has a name of the shape `upstream:operation` ([`crate::ToolRef`]), so that one gate, one policy language and one
//! kind of event serve them all. A tool's operation is its own name; the others have names with a slash that no tool may bear
//! ([`is_reserved`]). (MCP 2025-11-25 and 2026-07-28, server and client features.)

use crate::Effect;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation<'a> {
    /// `tools/call` of this tool.
    Tool(&'a str),
    /// `prompts/get` of this prompt: `prompts/NAME`. Its input is the prompt's arguments, strings all.
    Prompt(&'a str),
    /// The definition of a resource or a resource template: `resources/URI`. Pinned and reviewed; what is called is
    /// [`Operation::ReadResource`].
    Resource(&'a str),
    /// `resources/read`. Its input is `{uri}`.
    ReadResource,
    /// `resources/subscribe` and `subscriptions/listen` for one resource. Its input is `{uri}`.
    Subscribe,
    /// `completion/complete`. Its input is the request's `{ref, argument, context?}`.
    Complete,
    /// `tasks/get` of a task that a call was answered with. Its input is `{taskId, tool}`, the upstream's own id.
    GetTask,
    /// `tasks/update`: answers to what a task asks. Its input is `{taskId, tool, inputResponses}`.
    UpdateTask,
    /// `tasks/cancel`. Its input is `{taskId, tool}`.
    CancelTask,
    /// `elicitation/create`, asked by the upstream during a call.
    Elicit,
    /// `sampling/createMessage`, asked by the upstream during a call.
    Sample,
    /// `roots/list`, asked by the upstream during a call.
    ListRoots,
    /// A person connects an account at the upstream's provider: `account/connect`. Asked of the node, not of the upstream, and
    /// not called as a tool. Its input is `{scopes, host}`.
    Connect,
}

impl<'a> Operation<'a> {
    /// What the part of a name after the colon stands for.
    pub fn of(name: &'a str) -> Self {
        match name {
            READ_RESOURCE => Self::ReadResource,
            SUBSCRIBE => Self::Subscribe,
            COMPLETE => Self::Complete,
            GET_TASK => Self::GetTask,
            UPDATE_TASK => Self::UpdateTask,
            CANCEL_TASK => Self::CancelTask,
            ELICIT => Self::Elicit,
            SAMPLE => Self::Sample,
            LIST_ROOTS => Self::ListRoots,
            CONNECT => Self::Connect,
            _ => match (name.strip_prefix(PROMPT_PREFIX), name.strip_prefix(RESOURCE_PREFIX)) {
                (Some(prompt), _) => Self::Prompt(prompt),
                (None, Some(uri)) => Self::Resource(uri),
                (None, None) => Self::Tool(name),
            },
        }
    }

    /// Whether the upstream asks it of the caller's side, rather than the caller of the upstream.
    pub fn is_asked_by_upstream(self) -> bool {
        match self {
            Self::Elicit | Self::Sample | Self::ListRoots => true,
            Self::Tool(_)
            | Self::Prompt(_)
            | Self::Resource(_)
            | Self::ReadResource
            | Self::Subscribe
            | Self::Complete
            | Self::GetTask
            | Self::UpdateTask
            | Self::CancelTask
            | Self::Connect => false,
        }
    }

    /// What a fixed operation does to the world, as far as can be said of all upstreams.
    pub fn fixed_effect(self) -> Option<Effect> {
        match self {
            Self::Tool(_) => None,
            // What is answered, or given up, cannot be taken back.
            Self::UpdateTask | Self::CancelTask | Self::Connect => Some(Effect::Write),
            Self::Prompt(_)
            | Self::Resource(_)
            | Self::ReadResource
            | Self::Subscribe
            | Self::Complete
            | Self::GetTask
            | Self::Elicit
            | Self::Sample
            | Self::ListRoots => Some(Effect::Read),
        }
    }

    /// The JSON-RPC method that carries it; [`Operation::Connect`] has none, and says its name.
    pub fn method(self) -> &'static str {
        match self {
            Self::Tool(_) => "tools/call",
            Self::Prompt(_) => "prompts/get",
            Self::Resource(_) | Self::ReadResource => READ_RESOURCE,
            Self::Subscribe => SUBSCRIBE,
            Self::Complete => COMPLETE,
            Self::GetTask => GET_TASK,
            Self::UpdateTask => UPDATE_TASK,
            Self::CancelTask => CANCEL_TASK,
            Self::Elicit => ELICIT,
            Self::Sample => SAMPLE,
            Self::ListRoots => LIST_ROOTS,
            Self::Connect => CONNECT,
        }
    }
}

/// Before a prompt's name.
pub const PROMPT_PREFIX: &str = "prompts/";
/// Before a resource's URI or URI template.
pub const RESOURCE_PREFIX: &str = "resources/";
/// [`Operation::ReadResource`].
pub const READ_RESOURCE: &str = "resources/read";
/// [`Operation::Subscribe`].
pub const SUBSCRIBE: &str = "resources/subscribe";
/// [`Operation::Complete`].
pub const COMPLETE: &str = "completion/complete";
/// [`Operation::GetTask`].
pub const GET_TASK: &str = "tasks/get";
/// [`Operation::UpdateTask`].
pub const UPDATE_TASK: &str = "tasks/update";
/// [`Operation::CancelTask`].
pub const CANCEL_TASK: &str = "tasks/cancel";
/// [`Operation::Elicit`].
pub const ELICIT: &str = "elicitation/create";
/// [`Operation::Sample`].
pub const SAMPLE: &str = "sampling/createMessage";
/// [`Operation::ListRoots`].
pub const LIST_ROOTS: &str = "roots/list";
/// [`Operation::Connect`].
pub const CONNECT: &str = "account/connect";
/// The operations that every MCP upstream has whatever it lists, so that policies can name them before it was ever reached.
pub const FIXED: &[&str] =
    &[READ_RESOURCE, SUBSCRIBE, COMPLETE, GET_TASK, UPDATE_TASK, CANCEL_TASK, ELICIT, SAMPLE, LIST_ROOTS];

/// The group of actions that upstreams ask of callers; `UPSTREAM:asks` is that of one upstream.
pub const ASKS: &str = "asks";

/// The definition of a fixed operation, as a tool's would be: what policies may say about its input, and what its pin covers.
/// [`CONNECT`] has one, too. Empty for other names.
pub fn fixed_definition(name: &str) -> &'static str {
    match name {
        READ_RESOURCE => {
            r#"{"name":"resources/read","description":"Reads one resource.","inputSchema":{"type":"object","required":["uri"],"additionalProperties":false,"properties":{"uri":{"type":"string","minLength":1,"maxLength":2048}}}}"#
        }
        SUBSCRIBE => {
            r#"{"name":"resources/subscribe","description":"Hears of changes to one resource.","inputSchema":{"type":"object","required":["uri"],"additionalProperties":false,"properties":{"uri":{"type":"string","minLength":1,"maxLength":2048}}}}"#
        }
        COMPLETE => {
            r#"{"name":"completion/complete","description":"Completes an argument of a prompt or a resource template.","inputSchema":{"type":"object","required":["ref","argument"],"additionalProperties":false,"properties":{"ref":{"type":"object","required":["type"],"properties":{"type":{"enum":["ref/prompt","ref/resource"]},"name":{"type":"string"},"uri":{"type":"string"}}},"argument":{"type":"object","required":["name","value"],"properties":{"name":{"type":"string"},"value":{"type":"string"}}},"context":{"type":"object"}}}}"#
        }
        GET_TASK => {
            r#"{"name":"tasks/get","description":"Looks at a task of an earlier call.","inputSchema":{"type":"object","required":["taskId","tool"],"additionalProperties":false,"properties":{"taskId":{"type":"string","minLength":1,"maxLength":512},"tool":{"type":"string"}}}}"#
        }
        UPDATE_TASK => {
            r#"{"name":"tasks/update","description":"Answers what a task of an earlier call asks.","inputSchema":{"type":"object","required":["taskId","tool","inputResponses"],"additionalProperties":false,"properties":{"taskId":{"type":"string","minLength":1,"maxLength":512},"tool":{"type":"string"},"inputResponses":{"type":"object","maxProperties":16}}}}"#
        }
        CANCEL_TASK => {
            r#"{"name":"tasks/cancel","description":"Gives up a task of an earlier call.","inputSchema":{"type":"object","required":["taskId","tool"],"additionalProperties":false,"properties":{"taskId":{"type":"string","minLength":1,"maxLength":512},"tool":{"type":"string"}}}}"#
        }
        ELICIT => {
            r#"{"name":"elicitation/create","description":"Asks the person at the caller's side.","inputSchema":{"type":"object","required":["mode","message","fields"],"properties":{"mode":{"enum":["form","url"]},"message":{"type":"string"},"fields":{"type":"array","items":{"type":"string"}},"url":{"type":"string"},"scheme":{"type":"string"},"host":{"type":"string"}}}}"#
        }
        SAMPLE => {
            r#"{"name":"sampling/createMessage","description":"Asks the model at the caller's side.","inputSchema":{"type":"object","required":["messages","maxTokens","tools"],"properties":{"messages":{"type":"integer"},"maxTokens":{"type":"integer"},"tools":{"type":"boolean"},"systemPrompt":{"type":"string"},"includeContext":{"type":"string"}}}}"#
        }
        LIST_ROOTS => {
            r#"{"name":"roots/list","description":"Asks which directories the caller works in.","inputSchema":{"type":"object","properties":{}}}"#
        }
        CONNECT => {
            r#"{"name":"account/connect","description":"Connects a person's own account, to be used on calls made for them.","inputSchema":{"type":"object","required":["scopes","host"],"additionalProperties":false,"properties":{"scopes":{"type":"array","items":{"type":"string"}},"host":{"type":"string"}}}}"#
        }
        _ => "",
    }
}

/// Whether a tool of this name would be taken for another operation, or for the group of what is asked.
pub fn is_reserved(tool: &str) -> bool {
    const PREFIXES: &[&str] =
        &[PROMPT_PREFIX, RESOURCE_PREFIX, "completion/", "elicitation/", "sampling/", "roots/", "tasks/", "logging/"];
    tool == ASKS || tool == CONNECT || PREFIXES.iter().any(|prefix| tool.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_one_operation() {
        assert_eq!(Operation::of("createCampaign"), Operation::Tool("createCampaign"));
        assert_eq!(Operation::of("prompts/greeting"), Operation::Prompt("greeting"));
        assert_eq!(Operation::of("resources/file:///a"), Operation::Resource("file:///a"));
        assert_eq!(Operation::of("a/b"), Operation::Tool("a/b"));
        for name in FIXED.iter().chain(&[CONNECT]) {
            let operation = Operation::of(name);
            assert_eq!(operation.method(), *name);
            assert!(is_reserved(name), "{name}");
            assert!(fixed_definition(name).starts_with(&format!("{{\"name\":\"{name}\"")), "{name}");
        }
    }
}
