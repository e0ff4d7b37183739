//! An upstream for a moment: connected, listed and stopped, without a node, a ledger, a call or credentials of the broker.

use countersign_catalog::Manifest;
use countersign_connect::connect;
use countersign_egress::{Egress, EgressConfig};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// What the upstream of a manifest lists right now, as a listing: tools, prompts, resources and templates.
///
/// # Errors
/// If it can't be reached or breaks the protocol, in words.
pub async fn listing(manifest: &Manifest) -> Result<Value, String> {
    let upstream = connect(manifest, &Egress::new(EgressConfig::default()), None).map_err(|error| error.to_string())?;
    let listed = tokio::time::timeout(manifest.start_timeout + manifest.timeout, upstream.discover()).await;
    upstream.shutdown().await;
    let listed = match listed {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("it did not list its tools in time".to_owned()),
    };
    let values = |raw: &[Box<RawValue>]| -> Result<Vec<Value>, String> {
        let read =
            |raw: &RawValue| serde_json::from_str(raw.get()).map_err(|e| format!("a definition is not JSON: {e}"));
        raw.iter().map(|raw| read(raw)).collect()
    };
    Ok(json!({
        "tools": values(&listed.tools)?,
        "prompts": values(&listed.prompts)?,
        "resources": values(&listed.resources)?,
        "resourceTemplates": values(&listed.resource_templates)?,
    }))
}
