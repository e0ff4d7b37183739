//! Loading: texts become two checked policy sets, or a list of problems with file, line and column.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, Effect, Policy, PolicyId, PolicySet, ValidationError, ValidationMode, ValidationWarning,
    Validator,
};
use cedar_policy_core::ast::Expr;
use countersign_domain::ToolRef;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::annotations::{self, Owed};
use crate::decide::{PolicyEffect, PolicyRef, ToolEntry};
use crate::intricacy;
use crate::problem::{PolicyProblem, Severity, position};
use crate::references;
use crate::schema::{CedarSchema, ToolDescription, groups, is_asked};

const MAX_FILES: usize = 1_000;
const MAX_FILE_BYTES: usize = 1 << 20;
const MAX_POLICIES: usize = 10_000;
/// Reserved while loading; only what is used is ever backed by memory.
const LOAD_STACK_BYTES: usize = 64 << 20;

/// Which question a policy answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SetKind {
    /// May this happen at all?
    Access,
    /// Who must agree before it happens?
    Approval,
}

/// One policy file, already read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// How problems and decisions name it: `access/finance.cedar`.
    pub path: String,
    /// Cedar policies.
    pub text: String,
    /// The set that it belongs to.
    pub kind: SetKind,
}

/// A loaded pair of policy sets, together with the tools that it was checked against. Immutable; share it in an `Arc`.
#[derive(Debug)]
pub struct Policies {
    version: String,
    warnings: Vec<PolicyProblem>,
    pub(crate) schema: CedarSchema,
    pub(crate) policies: Vec<LoadedPolicy>,
    pub(crate) tools: HashMap<ToolRef, ToolEntry>,
}

/// One policy and what was learnt about it.
#[derive(Debug)]
pub(crate) struct LoadedPolicy {
    pub reference: PolicyRef,
    pub owed: Owed,
    pub text: String,
    pub kind: SetKind,
    pub cedar: Policy,
    /// Scope and conditions as one expression.
    pub condition: Expr,
    /// Index into the sorted files.
    file: usize,
    start: usize,
}

impl Policies {
    /// Checks and loads policy files against the accepted tools. The order of the files doesn't matter.
    ///
    /// # Errors
    /// Every problem found, by file and line; nothing is loaded then.
    pub fn load(files: &[SourceFile], tools: &[ToolDescription]) -> Result<Self, Vec<PolicyProblem>> {
        // Cedar parses and type-checks by recursion with large frames; a thread of an async runtime has 2 MiB of stack.
        // How deep it can go is bounded, see `intricacy`.
        stacker::grow(LOAD_STACK_BYTES, || Self::load_here(files, tools))
    }

    fn load_here(files: &[SourceFile], tools: &[ToolDescription]) -> Result<Self, Vec<PolicyProblem>> {
        let schema =
            CedarSchema::generate(tools).map_err(|e| vec![PolicyProblem::of_file("accepted tools", e.to_string())])?;
        let mut files: Vec<&SourceFile> = files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut loading = Loading {
            files,
            schema,
            problems: Vec::new(),
            policies: Vec::new(),
            by_id: HashMap::new(),
            faulty: HashSet::new(),
        };
        loading.check_files()?;
        loading.parse();
        loading.validate(SetKind::Access);
        loading.validate(SetKind::Approval);
        loading.finish()
    }

    /// Names the sets that were in force, for events: `sha256:…` over every path and text.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What was noticed while loading and doesn't keep the sets from being used.
    pub fn warnings(&self) -> &[PolicyProblem] {
        &self.warnings
    }

    /// The schema that the policies were checked against.
    pub fn schema(&self) -> &CedarSchema {
        &self.schema
    }

    /// Every loaded policy: access first, each set in the order of files and lines.
    pub fn policies(&self) -> impl Iterator<Item = (SetKind, &PolicyRef)> {
        self.policies.iter().map(|p| (p.kind, &p.reference))
    }
}

struct Loading<'a> {
    files: Vec<&'a SourceFile>,
    schema: CedarSchema,
    problems: Vec<PolicyProblem>,
    policies: Vec<LoadedPolicy>,
    by_id: HashMap<PolicyId, usize>,
    /// Policies with errors, whose warnings would only repeat them.
    faulty: HashSet<PolicyId>,
}

impl Loading<'_> {
    /// Bounds and names; without them the rest isn't worth looking at.
    fn check_files(&self) -> Result<(), Vec<PolicyProblem>> {
        if self.files.len() > MAX_FILES {
            let message = format!("{} policy files; at most {MAX_FILES} can be loaded", self.files.len());
            return Err(vec![PolicyProblem::of_file("policies", message)]);
        }
        let large = self.files.iter().filter(|f| f.text.len() > MAX_FILE_BYTES);
        let large = large.map(|f| PolicyProblem::of_file(&f.path, format!("longer than {MAX_FILE_BYTES} bytes")));
        let twice = self.files.windows(2).filter(|pair| pair[0].path == pair[1].path);
        let twice = twice.map(|pair| PolicyProblem::of_file(&pair[0].path, "this path is given twice"));
        let problems: Vec<_> = large.chain(twice).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn parse(&mut self) {
        for index in 0..self.files.len() {
            let file = self.files[index];
            if let Some((offset, what)) = intricacy::excess(&file.text) {
                self.problems.push(PolicyProblem::at(&file.path, &file.text, offset, what.to_string()));
                continue;
            }
            match file.text.parse::<PolicySet>() {
                Ok(set) => self.take(index, &set),
                Err(errors) => {
                    let at_end = file.text.len();
                    let found = errors.iter().map(|e| PolicyProblem::from_cedar(&file.path, &file.text, at_end, e));
                    self.problems.extend(found);
                }
            }
        }
        self.policies.sort_by_key(|p| (p.kind, p.file, p.start));
        self.by_id = self.policies.iter().enumerate().map(|(i, p)| (p.cedar.id().clone(), i)).collect();
        if self.policies.len() > MAX_POLICIES {
            let message = format!("{} policies; at most {MAX_POLICIES} can be loaded", self.policies.len());
            self.problems.push(PolicyProblem::of_file("policies", message));
        }
    }

    fn take(&mut self, index: usize, set: &PolicySet) {
        let file = self.files[index];
        for template in set.templates() {
            let start = template.as_ref().loc().map_or(0, |loc| loc.start());
            let message = "templates (?principal, ?resource) are not supported";
            self.problems.push(PolicyProblem::at(&file.path, &file.text, start, message));
        }
        let start_of = |p: &Policy| p.as_ref().loc().map_or(0, |loc| loc.start());
        let mut policies: Vec<&Policy> = set.policies().collect();
        policies.sort_by_key(|p| start_of(p));
        for (number, policy) in policies.into_iter().enumerate() {
            self.take_policy(index, number, start_of(policy), policy);
        }
    }

    fn take_policy(&mut self, index: usize, number: usize, start: usize, policy: &Policy) {
        let file = self.files[index];
        let mut findings = Vec::new();
        let read = annotations::read(policy, file.kind, &mut findings);
        references::check(policy, &self.schema, &mut findings);
        let sound = findings.is_empty();
        for finding in findings {
            let problem = PolicyProblem::at(&file.path, &file.text, finding.offset, finding.message);
            self.problems.push(PolicyProblem { help: finding.help, ..problem });
        }
        if let Some(id) = &read.id
            && let Some(first) =
                self.policies.iter().find(|p| p.reference.id.rsplit_once('#').is_some_and(|(_, i)| i == id))
        {
            let message =
                format!("@id({id:?}) is already used by {} in line {}", first.reference.id, first.reference.line);
            return self.problems.push(PolicyProblem::at(&file.path, &file.text, start, message));
        }
        let id = format!("{}#{}", file.path, read.id.unwrap_or_else(|| format!("policy{number}")));
        let effect = match policy.effect() {
            Effect::Permit => PolicyEffect::Permit,
            Effect::Forbid => PolicyEffect::Forbid,
        };
        let text = policy.as_ref().loc().and_then(|loc| loc.snippet()).unwrap_or_default().to_owned();
        let (line, _) = position(&file.text, start);
        let cedar = policy.new_id(PolicyId::new(&id));
        if !sound {
            self.faulty.insert(cedar.id().clone());
        }
        let reference = PolicyRef { id, line, reason: read.reason, effect };
        let (owed, kind, condition) = (read.owed, file.kind, cedar.as_ref().condition());
        self.policies.push(LoadedPolicy { reference, owed, text, kind, cedar, condition, file: index, start });
    }

    fn validate(&mut self, kind: SetKind) {
        let members = self.policies.iter().filter(|p| p.kind == kind).map(|p| p.cedar.clone());
        // Ids are unique by now: duplicates were reported and left out.
        let set = match PolicySet::from_policies(members) {
            Ok(set) => set,
            Err(error) => return self.problems.push(PolicyProblem::of_file("policies", error.to_string())),
        };
        let result = Validator::new(self.schema.cedar.clone()).validate(&set, ValidationMode::Strict);
        let errors: Vec<_> = result.validation_errors().filter_map(|e| self.validation_error(e)).collect();
        self.faulty.extend(result.validation_errors().map(|e| e.policy_id().clone()));
        let warnings = result.validation_warnings().filter(|w| !self.faulty.contains(w.policy_id()));
        let warnings = warnings.filter_map(|w| self.validation_warning(w));
        let found: Vec<PolicyProblem> = errors.into_iter().chain(warnings).collect();
        self.problems.extend(found);
    }

    fn validation_error(&self, error: &ValidationError) -> Option<PolicyProblem> {
        // Already reported by `references::check`, with better help.
        if matches!(error, ValidationError::UnrecognizedActionId(_)) && self.faulty.contains(error.policy_id()) {
            return None;
        }
        let (file, policy) = self.policy_at(error.policy_id())?;
        let mut problem = PolicyProblem::from_cedar(&file.path, &file.text, policy.start, error);
        if matches!(error, ValidationError::UnsafeAttributeAccess(_)) {
            let path = problem.message.split('`').nth(1).unwrap_or_default();
            problem.help = references::help_for_access(&policy.cedar, &self.schema, path).or(problem.help);
        }
        Some(problem)
    }

    fn validation_warning(&self, warning: &ValidationWarning) -> Option<PolicyProblem> {
        use ValidationWarning::{ImpossiblePolicy, InvalidActionApplication};
        // Without tools, every policy is impossible.
        if self.schema.tools.is_empty() && matches!(warning, ImpossiblePolicy(_) | InvalidActionApplication(_)) {
            return None;
        }
        let (file, policy) = self.policy_at(warning.policy_id())?;
        Some(PolicyProblem::from_cedar(&file.path, &file.text, policy.start, warning).warning())
    }

    fn policy_at(&self, id: &PolicyId) -> Option<(&SourceFile, &LoadedPolicy)> {
        let policy = &self.policies[*self.by_id.get(id)?];
        Some((self.files[policy.file], policy))
    }

    fn finish(mut self) -> Result<Policies, Vec<PolicyProblem>> {
        self.problems.sort();
        self.problems.dedup();
        if self.problems.iter().any(|p| p.severity == Severity::Error) {
            return Err(self.problems);
        }
        let version = version(&self.files);
        let tools = self.tool_entries().map_err(|e| vec![PolicyProblem::of_file("policies", e)])?;
        let Self { schema, problems: warnings, policies, .. } = self;
        Ok(Policies { version, warnings, schema, policies, tools })
    }

    /// Per tool: the policies whose scope covers its action; tools with the same ones share the list. A policy whose scope doesn't cover the action can neither
    /// match nor fail, so leaving it out changes no decision.
    fn tool_entries(&self) -> Result<HashMap<ToolRef, ToolEntry>, String> {
        let mut slices = BTreeSet::new();
        let mut entries = HashMap::with_capacity(self.schema.tools.len());
        for (tool, known) in &self.schema.tools {
            let groups = groups(tool, known.effect);
            let names = [groups.clone(), vec![tool.to_string()]].concat();
            let asked = is_asked(tool);
            let mut slice = |kind| self.slice(kind, asked, &names, &mut slices);
            let (access, approval) = (slice(SetKind::Access), slice(SetKind::Approval));
            entries.insert(tool.clone(), ToolEntry::new(tool, known, &groups, access, approval)?);
        }
        Ok(entries)
    }

    fn slice(&self, kind: SetKind, asked: bool, names: &[String], slices: &mut BTreeSet<Arc<[usize]>>) -> Arc<[usize]> {
        let covered = |(_, p): &(usize, &LoadedPolicy)| {
            p.kind == kind && references::covers(&p.cedar, names) && !(asked && is_general_permit(p))
        };
        let members: Arc<[usize]> = self.policies.iter().enumerate().filter(covered).map(|(i, _)| i).collect();
        if let Some(known) = slices.get(&members) {
            return Arc::clone(known);
        }
        slices.insert(Arc::clone(&members));
        members
    }
}

/// A permit for whatever action there is was not written with upstreams in mind that ask people things.
pub(crate) fn is_general_permit(policy: &LoadedPolicy) -> bool {
    policy.kind == SetKind::Access
        && policy.reference.effect == PolicyEffect::Permit
        && matches!(policy.cedar.action_constraint(), ActionConstraint::Any)
}

/// Lengths go before texts, so that no two sets of files share the hashed bytes.
fn version(sorted: &[&SourceFile]) -> String {
    let mut hash = Sha256::new();
    hash.update(b"countersign policies v1\n");
    for file in sorted {
        hash.update([u8::from(file.kind == SetKind::Approval)]);
        for part in [&file.path, &file.text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    format!("sha256:{}", hex::encode(hash.finalize()))
}
