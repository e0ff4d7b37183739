//! What an upstream offers: every page of every list that its capabilities announce, within bounds.

use std::collections::HashSet;
use std::time::Instant;

use countersign_gate::upstream::{DiscoverError, Discovered, Mute};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::link::{Link, Question};
use crate::rpc::{self, quote};

/// Most pages of one list.
const MAX_PAGES: usize = 100;
/// Most entries of one list.
const MAX_ENTRIES: usize = 2_000;
/// Most bytes of all entries of one list.
const MAX_BYTES: usize = 32 << 20;

/// A list of the protocol.
#[derive(Debug, Clone, Copy)]
struct List {
    method: &'static str,
    /// In words.
    of: &'static str,
}

const TOOLS: List = List { method: "tools/list", of: "tools" };
const PROMPTS: List = List { method: "prompts/list", of: "prompts" };
const RESOURCES: List = List { method: "resources/list", of: "resources" };
const TEMPLATES: List = List { method: "resources/templates/list", of: "resource templates" };

/// Everything that the upstream offers.
pub(crate) async fn discover(link: &dyn Link, deadline: Instant) -> Result<Discovered, DiscoverError> {
    let facts = link.facts(deadline).await.map_err(|e| DiscoverError(e.to_string()))?;
    let mut found =
        Discovered { completions: facts.completions, subscriptions: facts.subscriptions, ..Discovered::default() };
    if facts.tools {
        found.tools = list(link, TOOLS, deadline).await?;
    }
    if facts.prompts {
        found.prompts = list(link, PROMPTS, deadline).await?;
    }
    if facts.resources {
        found.resources = list(link, RESOURCES, deadline).await?;
        found.resource_templates = match list(link, TEMPLATES, deadline).await {
            Ok(templates) => templates,
            // Some servers have resources and have never heard of templates.
            Err(ListError::Unknown) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
    }
    Ok(found)
}

/// Every page of `tools/list`.
pub(crate) async fn list_tools(link: &dyn Link, deadline: Instant) -> Result<Vec<Box<RawValue>>, DiscoverError> {
    Ok(list(link, TOOLS, deadline).await?)
}

enum ListError {
    /// The upstream does not know the method.
    Unknown,
    Other(String),
}

impl From<ListError> for DiscoverError {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Unknown => Self("it announces a list and does not know how to give it".to_owned()),
            ListError::Other(why) => Self(why),
        }
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tools: Option<Vec<Box<RawValue>>>,
    #[serde(default)]
    prompts: Option<Vec<Box<RawValue>>>,
    #[serde(default)]
    resources: Option<Vec<Box<RawValue>>>,
    #[serde(default, rename = "resourceTemplates")]
    templates: Option<Vec<Box<RawValue>>>,
    #[serde(default, rename = "nextCursor")]
    next: Option<String>,
}

impl Page {
    fn entries(self, list: List) -> (Option<Vec<Box<RawValue>>>, Option<String>) {
        let entries = match list.method {
            "tools/list" => self.tools,
            "prompts/list" => self.prompts,
            "resources/list" => self.resources,
            _ => self.templates,
        };
        (entries, self.next)
    }
}

async fn list(link: &dyn Link, list: List, deadline: Instant) -> Result<Vec<Box<RawValue>>, ListError> {
    let other = |why: String| ListError::Other(why);
    let of = list.of;
    let (mut entries, mut bytes, mut seen, mut members) = (Vec::new(), 0, HashSet::new(), String::new());
    for _ in 0..MAX_PAGES {
        let question = Question { method: list.method, members: &members, ..Question::plain(&Mute, deadline) };
        let answer = link.ask(&question).await.map_err(|e| other(e.to_string()))?;
        if let rpc::Answer::Error(raw) = &answer
            && rpc::error_parts(raw).is_some_and(|(code, _)| code == rpc::METHOD_NOT_FOUND)
        {
            return Err(ListError::Unknown);
        }
        let raw = rpc::result_of(answer).map_err(|e| other(e.to_string()))?;
        let page: Page =
            serde_json::from_str(raw.get()).map_err(|e| other(format!("its list of {of} cannot be read: {e}")))?;
        let (found, next) = page.entries(list);
        let found = found.ok_or_else(|| other(format!("its list of {of} has none")))?;
        bytes += found.iter().map(|entry| entry.get().len()).sum::<usize>();
        entries.extend(found);
        if entries.len() > MAX_ENTRIES {
            return Err(other(format!("it lists more than {MAX_ENTRIES} {of}")));
        }
        if bytes > MAX_BYTES {
            return Err(other(format!("its list of {of} is longer than {MAX_BYTES} bytes")));
        }
        let Some(next) = next else { return Ok(entries) };
        members = format!("\"cursor\":{}", quote(&next));
        if !seen.insert(next) {
            return Err(other(format!("its list of {of} goes in circles: a cursor came twice")));
        }
    }
    Err(other(format!("its list of {of} has more than {MAX_PAGES} pages")))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use countersign_gate::upstream::DispatchError;

    use super::*;
    use crate::link::Facts;
    use crate::rpc::Answer;

    /// A cursor that never comes twice.
    fn fresh() -> String {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string()
    }

    struct Pages(fn(&str, &str) -> String);

    #[async_trait]
    impl Link for Pages {
        async fn facts(&self, _: Instant) -> Result<Facts, DispatchError> {
            Ok(Facts { resources: true, completions: true, ..Facts::default() })
        }
        async fn ask_for(
            &self,
            _: Option<&countersign_domain::Principal>,
            question: &Question<'_>,
        ) -> Result<Answer, DispatchError> {
            let text = self.0(question.method, question.members);
            let raw = RawValue::from_string(text.clone()).expect("JSON");
            Ok(if text.contains("\"code\"") { Answer::Error(raw) } else { Answer::Result(raw) })
        }
        async fn subscribe(&self, _: &str, _: Instant) -> Result<Answer, DispatchError> {
            Err(DispatchError::NotSent("not here".into()))
        }
        fn unsubscribe(&self, _: &str) {}
        async fn close(&self) {}
    }

    #[tokio::test]
    async fn lists_are_followed_and_bounded() {
        let list = |pages| async move {
            list_tools(&Pages(pages), Instant::now()).await.map(|tools| tools.len()).map_err(|e| e.0)
        };
        let two = |_: &str, members: &str| match members {
            "" => r#"{"tools":[{"name":"a"}],"nextCursor":"2\""}"#.to_owned(),
            r#""cursor":"2\"""# => r#"{"tools":[{"name":"b"}]}"#.to_owned(),
            other => panic!("unexpected {other}"),
        };
        assert_eq!(list(two).await, Ok(2));
        let circle = list(|_, _| r#"{"tools":[],"nextCursor":"x"}"#.into()).await;
        assert!(circle.is_err_and(|e| e.contains("circles")));
        let endless = list(|_, _| format!(r#"{{"tools":[],"nextCursor":"{}"}}"#, fresh())).await;
        assert!(endless.is_err_and(|e| e.contains("100 pages")));
        let many = list(|_, _| format!(r#"{{"tools":[{}]}}"#, vec!["{}"; 2_001].join(","))).await;
        assert!(many.is_err_and(|e| e.contains("2000 tools")));
        let big = list(|_, _| format!(r#"{{"tools":["{}"],"nextCursor":"{}"}}"#, "a".repeat(9 << 20), fresh())).await;
        assert!(big.is_err_and(|e| e.contains("bytes")));
    }

    #[tokio::test]
    async fn what_is_not_announced_is_not_asked_for_and_templates_may_be_unknown() {
        let link = Pages(|method, _| match method {
            "resources/list" => r#"{"resources":[{"uri":"a:b","x":1.0}]}"#.to_owned(),
            "resources/templates/list" => r#"{"code":-32601,"message":"no"}"#.to_owned(),
            other => panic!("unexpected {other}"),
        });
        let found = discover(&link, Instant::now()).await.expect("found");
        assert_eq!(found.resources[0].get(), r#"{"uri":"a:b","x":1.0}"#);
        assert!(found.tools.is_empty() && found.resource_templates.is_empty() && found.completions);
    }
}
