//! What a node reports through: the exporter of spans, and the address for metrics.

use std::sync::Arc;

use countersign_egress::Egress;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::StartError;
use crate::app::App;
use crate::config::Config;
use crate::telemetry::otlp::Exporter;
use crate::telemetry::{Telemetry, metrics};

/// What the surfaces report to. With a collector configured, a task sends to it for as long as the node lives.
pub(super) fn telemetry(config: &Config, egress: &Egress) -> Result<Telemetry, StartError> {
    let Some(endpoint) = &config.telemetry.otlp else { return Ok(Telemetry::new(config, None)) };
    let exporter = Exporter::start(egress, endpoint, &config.telemetry.otlp_headers);
    let exporter = exporter.map_err(|error| StartError::Setup(format!("[telemetry] otlp: {error}")))?;
    Ok(Telemetry::new(config, Some(exporter)))
}

/// Serves metrics on an address of their own, if there is one.
pub(super) async fn metrics(app: &Arc<App>) -> Result<Option<JoinHandle<()>>, StartError> {
    let Some(address) = app.config.telemetry.metrics_listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|error| StartError::Listen { address, error })?;
    Ok(Some(tokio::spawn(metrics::serve(Arc::clone(app), listener))))
}
