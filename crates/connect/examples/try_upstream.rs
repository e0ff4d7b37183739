//! Lists an upstream's tools and calls one, by its manifest: for trying out real servers by hand.
//!
//! `try_upstream MANIFEST [TOOL ARGUMENTS]`

use std::path::Path;
use std::time::{Duration, Instant};

use countersign_catalog::{Definition, Manifest, mcp_names};
use countersign_connect::McpUpstream;
use countersign_domain::Principal;
use countersign_domain::ToolRef;
use countersign_egress::{Egress, EgressConfig};
use countersign_gate::permit::test_permit;
use countersign_gate::upstream::{Mute, Upstream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let manifest = Manifest::load(Path::new(args.first().ok_or("name a manifest")?))?;
    let upstream = McpUpstream::new(&manifest, &Egress::new(EgressConfig::default()))?;
    let start = Instant::now();
    let raw = upstream.discover().await?.tools;
    println!("{:?} after {:?}", upstream.status(), start.elapsed());
    let mut tools = Vec::new();
    for raw in &raw {
        match Definition::parse(raw.get()) {
            Ok(definition) => tools.push(ToolRef { upstream: manifest.upstream.clone(), tool: definition.name }),
            Err(error) => println!("quarantined: {error}"),
        }
    }
    mcp_names(&tools).iter().for_each(|(tool, name)| println!("  {tool} as {name}"));
    if let [_, tool, arguments] = &args[..] {
        let tool = format!("{}:{tool}", manifest.upstream).parse()?;
        let arguments = serde_json::value::RawValue::from_string(arguments.clone())?;
        let pin = countersign_proof::digest::Digest::of(b"");
        let permit = test_permit(Principal::node(), tool, arguments, pin, Instant::now() + Duration::from_secs(20));
        println!("{:?}", upstream.dispatch(permit, &Mute).await);
    }
    println!("changes {}", *upstream.changes().borrow());
    upstream.shutdown().await;
    Ok(())
}
