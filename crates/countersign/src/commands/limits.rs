//! `budgets`: what was used of what may be used.

use serde_json::Value;

use crate::cli::Global;
use crate::client::Node;
use crate::exit::Exit;
use crate::output;

/// Lists what was used of budgets in the periods that run now.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn budgets(global: &Global) -> anyhow::Result<Exit> {
    let budgets = Node::find(global)?.get("/admin/budgets").await?;
    if global.json {
        output::json(&budgets);
        return Ok(Exit::Ok);
    }
    let budgets = budgets.as_array().cloned().unwrap_or_default();
    if budgets.is_empty() {
        output::line("No budget was used in the current periods.");
        return Ok(Exit::Ok);
    }
    let number = |value: &Value| value.as_u64().map_or_else(|| "–".to_owned(), |n| n.to_string());
    let rows = budgets.iter().map(|budget| {
        let until = budget["end"].as_i64().map_or_else(|| "–".into(), output::utc);
        vec![
            output::text(budget, "/key/budget"),
            output::text(budget, "/key/workspace"),
            output::text(budget, "/key/principal"),
            number(&budget["used"]),
            number(&budget["limit"]),
            until,
        ]
    });
    output::table(&["BUDGET", "WORKSPACE", "PRINCIPAL", "USED", "OF", "UNTIL"], rows.collect());
    Ok(Exit::Ok)
}
