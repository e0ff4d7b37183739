//! What can be asked of an upstream, or asked by it: tools and the other primitives of MCP, under one kind of name.
//!
//! Every operation has a name of the shape `upstream:operation` ([`crate::ToolRef`]), so that one gate, one policy language and one
//! kind of event serve them all. A tool's operation is its own name; the others have names with a slash that no tool may bear
//! ([`is_reserved`]). (MCP 2025-11-25 and 2026-07-28, server and client features.)

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
    /// `elicitation/create`, asked by the upstream during a call.
    Elicit,
    /// `sampling/createMessage`, asked by the upstream during a call.
    Sample,
    /// `roots/list`, asked by the upstream during a call.
    ListRoots,
}

impl<'a> Operation<'a> {
    /// What the part of a name after the colon stands for.
    pub fn of(name: &'a str) -> Self {
        match name {
            READ_RESOURCE => Self::ReadResource,
            SUBSCRIBE => Self::Subscribe,
            COMPLETE => Self::Complete,
            ELICIT => Self::Elicit,
            SAMPLE => Self::Sample,
            LIST_ROOTS => Self::ListRoots,
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
            | Self::Complete => false,
        }
    }

    /// The JSON-RPC method that carries it.
    pub fn method(self) -> &'static str {
        match self {
            Self::Tool(_) => "tools/call",
            Self::Prompt(_) => "prompts/get",
            Self::Resource(_) | Self::ReadResource => READ_RESOURCE,
            Self::Subscribe => SUBSCRIBE,
            Self::Complete => COMPLETE,
            Self::Elicit => ELICIT,
            Self::Sample => SAMPLE,
            Self::ListRoots => LIST_ROOTS,
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
/// [`Operation::Elicit`].
pub const ELICIT: &str = "elicitation/create";
/// [`Operation::Sample`].
pub const SAMPLE: &str = "sampling/createMessage";
/// [`Operation::ListRoots`].
pub const LIST_ROOTS: &str = "roots/list";
/// The operations that every MCP upstream has whatever it lists, so that policies can name them before it was ever reached.
pub const FIXED: &[&str] = &[READ_RESOURCE, SUBSCRIBE, COMPLETE, ELICIT, SAMPLE, LIST_ROOTS];

/// Whether a tool of this name would be taken for another operation.
pub fn is_reserved(tool: &str) -> bool {
    const PREFIXES: &[&str] =
        &[PROMPT_PREFIX, RESOURCE_PREFIX, "completion/", "elicitation/", "sampling/", "roots/", "tasks/", "logging/"];
    PREFIXES.iter().any(|prefix| tool.starts_with(prefix))
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
        for name in FIXED {
            let operation = Operation::of(name);
            assert_eq!(operation.method(), *name);
            assert!(is_reserved(name), "{name}");
        }
    }
}
