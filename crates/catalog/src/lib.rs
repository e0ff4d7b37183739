//! The catalog: what an operator says about an upstream, and what an upstream says about its tools.
//!
//! - [`manifest`]: the operator's YAML file about one upstream. Its word on effects counts.
//! - [`definition`]: a tool's definition as the upstream sent it, and its pin (SHA-256 over RFC 8785).
//! - [`diff`]: what changed between two definitions, legibly.
//! - [`openapi`]: OpenAPI documents into manifests.
//! - [`uri_template`]: which resources a resource template stands for.
//! - [`names`]: tool names on MCP, and names that look alike.
//! - [`scan`]: what in a definition speaks to the model behind its user's back.
//! - [`visible`]: text from strangers, with everything hidden made visible.
//!
//! Apart from [`Manifest::load`] and [`manifest::load_dir`], which read files, nothing here does I/O; who talks to
//! upstreams is `countersign-connect`, and who decides about calls is `countersign-gate`.

pub mod definition;
pub mod diff;
pub mod manifest;
pub mod names;
pub mod openapi;
pub mod scan;
pub mod uri_template;
pub mod visible;

pub use definition::{Definition, Kind, PinError, pin};
pub use diff::{Change, ChangeKind, Diff, diff};
pub use manifest::{
    Elicitation, Listings, Manifest, ManifestError, RateLimit, Review, ToolSettings, Transport, Workspaces,
};
pub use names::{NameMap, confusable_key, mcp_names, name_problem, own_names};
pub use uri_template::UriTemplate;
pub use visible::{visible, visible_line};
