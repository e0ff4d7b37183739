//! Types of artifacts: what a body of each must look like, and which compliance flags it raises to make or read one.
//!
//! A type is a strict YAML or JSON file (`docs/artifact.md`). The built-in ones are such files too, beside this one. Bodies
//! are described in JSON Schema 2020-12; nothing is ever fetched, and patterns are matched in linear time.

use std::collections::BTreeMap;
use std::fmt;

use countersign_proof::canonical::{Limits, parse_strict};
use jsonschema::{Draft, PatternOptions, Validator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Artifact;
use super::members::{TAG_RULE, TYPE_NAME_RULE, is_tag, is_type_name};

/// The version of the format of type files.
pub const FILE_VERSION: u64 = 1;
/// Longest type file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 256 << 10;
/// Most types in a registry.
pub const MAX_TYPES: usize = 1000;
/// Most flags that one use of a type may raise.
pub const MAX_FLAGS: usize = 32;
/// Most problems of one body that are reported.
pub const MAX_PROBLEMS: usize = 16;

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Bounds on compiled patterns, in bytes.
const MAX_PATTERN_SIZE: usize = 1 << 20;

const BUILT_IN: [(&str, &str); 5] = [
    ("audit_package.yaml", include_str!("types/audit_package.yaml")),
    ("baseline_module.yaml", include_str!("types/baseline_module.yaml")),
    ("clinical_recommendation.yaml", include_str!("types/clinical_recommendation.yaml")),
    ("population_analysis.yaml", include_str!("types/population_analysis.yaml")),
    ("trial_match.yaml", include_str!("types/trial_match.yaml")),
];

/// Why a type file is refused: where, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeFileError {
    /// The file, as it was named.
    pub file: String,
    /// One-based line and column, where known.
    pub at: Option<(u64, u64)>,
    /// What is wrong.
    pub problem: TypeProblem,
}

/// What is wrong with a type file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeProblem {
    /// The file is too long.
    #[error("the file has {0} bytes; at most {MAX_FILE_BYTES} are read")]
    TooLarge(usize),
    /// Not YAML or JSON, a member too many or too few, or one of the wrong type.
    #[error("{0}")]
    Shape(String),
    /// A member's value is not accepted.
    #[error("{member}: {problem}")]
    Member {
        /// Its path.
        member: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `body` is not a usable JSON Schema.
    #[error("body{place}: {problem}")]
    Schema {
        /// JSON Pointer into the schema.
        place: String,
        /// What is wrong there.
        problem: String,
    },
    /// A type of that name is there already.
    #[error("there is a type {0:?} already")]
    Duplicate(String),
    /// The registry is full.
    #[error("there are {MAX_TYPES} types already")]
    TooMany,
}

impl fmt::Display for TypeFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for TypeFileError {}

/// Why a body is not one of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// No such type.
    #[error("artifacts of type {name:?} are not known; there are {known}")]
    UnknownType {
        /// As the artifact says.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The body does not fit the type's schema.
    #[error("{}", show(problems, *more))]
    Body {
        /// The first [`MAX_PROBLEMS`].
        problems: Vec<BodyProblem>,
        /// Whether there are more.
        more: bool,
    },
}

/// One thing that is wrong with a body. It names the member, and never quotes its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BodyProblem {
    /// JSON Pointer into the artifact, such as `/jsonBody/risk_score`.
    pub member: String,
    /// What is wrong.
    pub problem: String,
}

fn show(problems: &[BodyProblem], more: bool) -> String {
    let listed: Vec<String> = problems.iter().map(|p| format!("{}: {}", p.member, p.problem)).collect();
    format!("{}{}", listed.join("; "), if more { "; and more" } else { "" })
}

/// The compliance flags that using an artifact of a type raises.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Flags {
    /// By making one.
    #[serde(default)]
    pub create: Vec<String>,
    /// By reading one.
    #[serde(default)]
    pub read: Vec<String>,
}

/// A type.
#[derive(Debug, Clone)]
pub struct ArtifactType {
    name: String,
    title: String,
    description: Option<String>,
    compliance: Flags,
    body: Value,
    validator: Validator,
}

/// A type file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypeFile {
    version: u64,
    name: String,
    title: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    compliance: Flags,
    body: Value,
}

impl ArtifactType {
    /// Reads a type file: JSON if it begins with `{`, else YAML. `file` is its name for error messages.
    ///
    /// # Errors
    /// [`TypeFileError`].
    pub fn parse(text: &str, file: &str) -> Result<Self, TypeFileError> {
        let error = |at, problem| TypeFileError { file: file.to_owned(), at, problem };
        if text.len() > MAX_FILE_BYTES {
            return Err(error(None, TypeProblem::TooLarge(text.len())));
        }
        let read = read_file(text).map_err(|(at, problem)| error(at, TypeProblem::Shape(problem)))?;
        Self::new(read).map_err(|problem| error(None, problem))
    }

    fn new(file: TypeFile) -> Result<Self, TypeProblem> {
        let member = |member: &str, problem: &str| {
            Err(TypeProblem::Member { member: member.to_owned(), problem: problem.to_owned() })
        };
        if file.version != FILE_VERSION {
            return member("version", "only 1 is known here");
        }
        if !is_type_name(&file.name) {
            return member("name", TYPE_NAME_RULE);
        }
        if !(1..=200).contains(&file.title.chars().count()) || file.title.chars().any(char::is_control) {
            return member("title", "expected 1 to 200 characters without control characters");
        }
        for (use_, flags) in [("create", &file.compliance.create), ("read", &file.compliance.read)] {
            if flags.len() > MAX_FLAGS {
                return member(&format!("compliance.{use_}"), "at most 32 flags are accepted");
            }
            if let Some(i) = flags.iter().position(|flag| !is_tag(flag)) {
                return member(&format!("compliance.{use_}[{i}]"), TAG_RULE);
            }
        }
        let TypeFile { name, title, description, compliance, body, .. } = file;
        let validator = compile(&body)?;
        Ok(Self { name, title, description, compliance, body, validator })
    }

    /// As artifacts name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For people.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// For people, at length.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The flags that using one raises.
    pub fn compliance(&self) -> &Flags {
        &self.compliance
    }

    /// JSON Schema of the body.
    pub fn body_schema(&self) -> &Value {
        &self.body
    }

    fn check_body(&self, artifact: &Artifact) -> Result<(), BodyError> {
        let body = Value::Object(artifact.body().clone());
        if self.validator.is_valid(&body) {
            return Ok(());
        }
        let mut errors = self.validator.iter_errors(&body).map(|e| BodyProblem {
            member: format!("/jsonBody{}", e.instance_path()),
            // Values stay out of messages and logs: they may be about patients.
            problem: e.masked().to_string().chars().take(300).collect(),
        });
        let problems = errors.by_ref().take(MAX_PROBLEMS).collect();
        Err(BodyError::Body { problems, more: errors.next().is_some() })
    }
}

/// The types that a node knows.
#[derive(Debug, Clone, Default)]
pub struct Types(BTreeMap<String, ArtifactType>);

impl Types {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The built-in ones.
    ///
    /// # Errors
    /// None, as long as the files that the crate was built with are usable, which its tests show.
    pub fn built_in() -> Result<Self, TypeFileError> {
        let mut types = Self::new();
        for (file, text) in BUILT_IN {
            types.add_file(text, file)?;
        }
        Ok(types)
    }

    /// Reads a type file and adds its type.
    ///
    /// # Errors
    /// [`TypeFileError`]; also where there is a type of that name already.
    pub fn add_file(&mut self, text: &str, file: &str) -> Result<(), TypeFileError> {
        let added = ArtifactType::parse(text, file)?;
        self.add(added).map_err(|problem| TypeFileError { file: file.to_owned(), at: None, problem })
    }

    /// Adds a type.
    ///
    /// # Errors
    /// [`TypeProblem::Duplicate`], [`TypeProblem::TooMany`].
    pub fn add(&mut self, added: ArtifactType) -> Result<(), TypeProblem> {
        if self.0.contains_key(&added.name) {
            return Err(TypeProblem::Duplicate(added.name));
        }
        if self.0.len() >= MAX_TYPES {
            return Err(TypeProblem::TooMany);
        }
        self.0.insert(added.name.clone(), added);
        Ok(())
    }

    /// The type of that name.
    pub fn get(&self, name: &str) -> Option<&ArtifactType> {
        self.0.get(name)
    }

    /// All, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &ArtifactType> {
        self.0.values()
    }

    /// The artifact's type, whose schema its body fits.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn check(&self, artifact: &Artifact) -> Result<&ArtifactType, BodyError> {
        let Some(found) = self.get(artifact.artifact_type()) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).take(50).collect();
            return Err(BodyError::UnknownType {
                name: artifact.artifact_type().to_owned(),
                known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
            });
        };
        found.check_body(artifact).map(|()| found)
    }
}

type Located = (Option<(u64, u64)>, String);

fn read_file(text: &str) -> Result<TypeFile, Located> {
    if text.trim_start().starts_with('{') {
        let limits = Limits { max_bytes: MAX_FILE_BYTES, max_depth: 64 };
        let value = parse_strict(text.as_bytes(), &limits).map_err(|e| (None, e.to_string()))?;
        return serde_json::from_value(value).map_err(|e| (None, e.to_string()));
    }
    serde_saphyr::from_str_with_options(text, yaml_options()).map_err(|e| {
        let at = e.location().map(|l| (l.line(), l.column())).filter(|&(line, _)| line > 0);
        let message = e.without_snippet().to_string();
        // The library appends the position in words; it stands before the message already.
        (at, message.split(" at line ").next().unwrap_or(&message).to_owned())
    })
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: 64,
            max_nodes: 50_000,
            max_events: 200_000,
            max_aliases: 100,
            max_anchors: 100,
            max_merge_keys: 100,
            max_total_scalar_bytes: MAX_FILE_BYTES,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    }
}

fn compile(schema: &Value) -> Result<Validator, TypeProblem> {
    let wrong = |place: &str, problem: String| TypeProblem::Schema { place: place.to_owned(), problem };
    let Value::Object(members) = schema else { return Err(wrong("", "expected an object: a JSON Schema".to_owned())) };
    if members.get("$schema").is_some_and(|dialect| dialect != DIALECT) {
        return Err(wrong("/$schema", format!("only {DIALECT} is read; it may be left out")));
    }
    if let Some(place) = foreign_reference(schema, &mut String::new()) {
        return Err(wrong(&place, "references may only lead into the same schema (#…): nothing is fetched".to_owned()));
    }
    let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_SIZE).dfa_size_limit(MAX_PATTERN_SIZE);
    let options = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(patterns)
        .should_validate_formats(true)
        .offline();
    options.build(schema).map_err(|e| wrong(&e.instance_path().to_string(), e.to_string().chars().take(300).collect()))
}

/// JSON Pointer to the first reference that leads out of the schema. Schemas are as deep as their file may be.
fn foreign_reference(value: &Value, place: &mut String) -> Option<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
    };
    for (name, child) in children {
        let length = place.len();
        place.push('/');
        place.push_str(&name.replace('~', "~0").replace('/', "~1"));
        let leads_out = ["$ref", "$dynamicRef"].contains(&name.as_str())
            && child.as_str().is_some_and(|target| !target.starts_with('#'));
        if leads_out {
            return Some(place.clone());
        }
        if let Some(found) = foreign_reference(child, place) {
            return Some(found);
        }
        place.truncate(length);
    }
    None
}
