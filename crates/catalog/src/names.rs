//! Tool names on MCP, and tool names that look alike.
//!
//! MCP clients accept at most 64 characters of `[A-Za-z0-9_-]`. A tool gets the name `upstream_tool`. Upstream names hold
//! no underscore, so that two tools that fit get two names; a tool whose own name had to be altered gets a short hash of
//! its full name, whatever other tools exist, so that a name never changes because another tool came or went.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use countersign_domain::ToolRef;
use countersign_proof::digest::Digest;

use crate::visible::{is_hidden, visible_line};

/// Longest name that MCP clients accept, in characters.
pub const MAX_MCP_NAME: usize = 64;

/// Names that we serve ourselves at `/mcp`; no upstream tool gets one.
pub const RESERVED_MCP_NAMES: &[&str] = &["await_approval"];

/// Why a tool's MCP name is not simply its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// It has characters that MCP clients do not accept.
    Replaced,
    /// It is too long.
    Truncated,
    /// It is one of [`RESERVED_MCP_NAMES`].
    Reserved,
    /// Even the hashed name was taken by a tool that is really called so.
    Collides,
}

/// A tool whose MCP name had to be altered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Altered {
    /// The tool.
    pub tool: ToolRef,
    /// Its MCP name.
    pub name: String,
    /// Why.
    pub cause: Cause,
}

/// MCP names and tools, both ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameMap {
    names: BTreeMap<ToolRef, String>,
    tools: HashMap<String, ToolRef>,
    altered: Vec<Altered>,
}

impl NameMap {
    /// A tool's MCP name.
    pub fn name(&self, tool: &ToolRef) -> Option<&str> {
        self.names.get(tool).map(String::as_str)
    }

    /// The tool behind an MCP name.
    pub fn tool(&self, name: &str) -> Option<&ToolRef> {
        self.tools.get(name)
    }

    /// Tools whose names had to be altered, in the order of their full names.
    pub fn collisions(&self) -> &[Altered] {
        &self.altered
    }

    /// Every tool with its MCP name, in the order of full names.
    pub fn iter(&self) -> impl Iterator<Item = (&ToolRef, &str)> {
        self.names.iter().map(|(tool, name)| (tool, name.as_str()))
    }
}

/// Names at `/mcp`: `upstream_tool`. Neither the order of `tools` nor a repetition matters.
pub fn mcp_names(tools: &[ToolRef]) -> NameMap {
    assign(tools, |tool| format!("{}_{}", tool.upstream, tool.tool))
}

/// Names at `/mcp/{upstream}`: the tool's own wherever it fits.
pub fn own_names(tools: &[ToolRef]) -> NameMap {
    assign(tools, |tool| tool.tool.clone())
}

/// A key that names which look alike share: case, separators and homoglyphs (UTS 39 skeleton) make no difference.
/// Two tools of one upstream with the same key must not both be offered without a person's consent.
pub fn confusable_key(name: &str) -> String {
    let skeleton: String = unicode_security::skeleton(&name.to_lowercase()).collect();
    let folded = skeleton.to_lowercase();
    folded.chars().filter(|c| !matches!(c, '_' | '-' | '.' | '/' | ':' | ' ')).map(fold_stroke).collect()
}

/// Why a tool's own name cannot be used at all; `None` where it can. The reason shows hidden characters.
pub fn name_problem(name: &str) -> Option<String> {
    if !(1..=128).contains(&name.chars().count()) {
        let start: String = name.chars().take(40).collect();
        return Some(format!("it must have 1 to 128 characters: {}", visible_line(&start)));
    }
    let hidden = name.chars().any(|c| is_hidden(c) || c == ' ');
    hidden.then(|| format!("it has spaces or hidden characters: {}", visible_line(name)))
}

/// The UTS 39 table maps `I`, `1` and `|` to `l`; after lower-casing, a capital `I` has become `i`.
fn fold_stroke(c: char) -> char {
    match c {
        'i' | '1' | '|' => 'l',
        '0' => 'o',
        other => other,
    }
}

fn assign(tools: &[ToolRef], full_name: impl Fn(&ToolRef) -> String) -> NameMap {
    let tools: BTreeSet<&ToolRef> = tools.iter().collect();
    let mut map = NameMap::default();
    let mut waiting = Vec::new();
    for tool in tools {
        let full = full_name(tool);
        match problem(&full) {
            None => map.insert(tool, full),
            Some(cause) => waiting.push((tool, full, cause)),
        }
    }
    // Names that fit are never taken away; altered ones that meet them, or each other, all get a longer hash.
    let mut digits = 8;
    while !waiting.is_empty() {
        let wanted: Vec<String> = waiting.iter().map(|(tool, full, _)| hashed(tool, full, digits)).collect();
        let mut still_waiting = Vec::new();
        for (i, (tool, full, cause)) in waiting.into_iter().enumerate() {
            let unique = wanted.iter().filter(|name| **name == wanted[i]).count() == 1;
            if (unique && !map.tools.contains_key(&wanted[i])) || digits >= 40 {
                map.altered.push(Altered { tool: tool.clone(), name: wanted[i].clone(), cause });
                map.insert(tool, wanted[i].clone());
            } else {
                still_waiting.push((tool, full, Cause::Collides));
            }
        }
        waiting = still_waiting;
        digits += 8;
    }
    map.altered.sort_by(|a, b| a.tool.cmp(&b.tool));
    map
}

impl NameMap {
    fn insert(&mut self, tool: &ToolRef, name: String) {
        self.tools.insert(name.clone(), tool.clone());
        self.names.insert(tool.clone(), name);
    }
}

fn accepted(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

fn problem(full: &str) -> Option<Cause> {
    if !full.chars().all(accepted) || full.is_empty() {
        Some(Cause::Replaced)
    } else if full.len() > MAX_MCP_NAME {
        Some(Cause::Truncated)
    } else if RESERVED_MCP_NAMES.contains(&full) {
        Some(Cause::Reserved)
    } else {
        None
    }
}

/// `digits` hexadecimal digits of the hash of the full reference, behind as much of the name as there is room for.
fn hashed(tool: &ToolRef, full: &str, digits: usize) -> String {
    let room = MAX_MCP_NAME - 1 - digits;
    let mut name: String = full.chars().map(|c| if accepted(c) { c } else { '_' }).take(room).collect();
    name.push('_');
    name.push_str(&Digest::of(tool.to_string().as_bytes()).hex()[..digits]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(text: &str) -> ToolRef {
        text.parse().expect("a tool reference")
    }

    #[test]
    fn names_fit_and_lead_back() {
        let long = format!("fs:{}", "x".repeat(100));
        let tools: Vec<_> = [
            "ads:createCampaign",
            "ads-eu:a_b",
            "ads:get.weather",
            "ads:get/weather",
            "ads:日本",
            "await:approval",
            &long,
        ]
        .map(tool)
        .to_vec();
        let map = mcp_names(&tools);
        assert_eq!(map.name(&tools[0]), Some("ads_createCampaign"));
        assert_eq!(map.name(&tools[1]), Some("ads-eu_a_b"));
        for tool in &tools {
            let name = map.name(tool).expect("every tool has a name");
            assert!(name.len() <= 64 && name.chars().all(accepted), "{name}");
            assert_eq!(map.tool(name), Some(tool));
        }
        let causes: Vec<_> = map.collisions().iter().map(|a| (a.tool.to_string(), a.cause)).collect();
        assert!(causes.contains(&("ads:get.weather".into(), Cause::Replaced)));
        assert!(causes.contains(&("await:approval".into(), Cause::Reserved)));
        assert!(causes.contains(&(long, Cause::Truncated)));
        assert_eq!(causes.len(), 5);
    }

    #[test]
    fn a_name_depends_on_nothing_but_its_tool() {
        let all = ["a:x.y", "a:x_y", "a:x/y", "b:z"].map(tool);
        let together = mcp_names(&all);
        let mut reversed = all.to_vec();
        reversed.reverse();
        assert_eq!(mcp_names(&reversed), together);
        for one in &all {
            assert_eq!(mcp_names(std::slice::from_ref(one)).name(one), together.name(one));
        }
    }

    #[test]
    fn a_tool_that_squats_on_a_hashed_name_keeps_its_own_and_the_other_moves() {
        let victim = tool("a:x.y");
        let squatted = mcp_names(std::slice::from_ref(&victim)).name(&victim).expect("named").to_owned();
        let squatter = tool(&format!("a:{}", squatted.strip_prefix("a_").expect("prefix")));
        let map = mcp_names(&[victim.clone(), squatter.clone()]);
        assert_eq!(map.tool(&squatted), Some(&squatter));
        assert_eq!(map.collisions()[0].cause, Cause::Collides);
        assert_eq!(map.tool(map.name(&victim).expect("named")), Some(&victim));
    }

    #[test]
    fn own_names_stay_where_they_fit() {
        let map = own_names(&["ads:createCampaign", "ads:a b"].map(tool));
        assert_eq!(map.name(&tool("ads:createCampaign")), Some("createCampaign"));
        assert!(map.name(&tool("ads:a b")).expect("named").starts_with("a_b_"));
    }

    #[test]
    fn names_that_look_alike_share_a_key() {
        for (a, b) in [
            ("deleteFile", "DeleteFile"),
            ("delete_file", "deleteFile"),
            ("delete-file", "delete.file"),
            ("p\u{430}y", "pay"),
            ("DeIete", "Delete"),
            ("pay\u{200b}", "pay"),
            ("too1", "tool"),
            ("ｐａｙ", "pay"),
        ] {
            assert_eq!(confusable_key(a), confusable_key(b), "{a:?} {b:?}");
        }
        for (a, b) in [("read_file", "read_files"), ("pay", "play"), ("listCampaigns", "getCampaign")] {
            assert_ne!(confusable_key(a), confusable_key(b), "{a:?} {b:?}");
        }
    }
}
