//! How the demo speaks: numbered steps, one line for each thing that somebody did, pauses for readers on a terminal.

use std::cell::Cell;
use std::time::Duration;

use crate::output::{self, Style, paint};

/// Who speaks or acts in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The agent.
    Agent,
    /// The person who runs the node.
    Operator,
    /// The person who answers for money.
    Treasurer,
    /// The person behind the agent.
    Maya,
    /// The node.
    Node,
    /// The upstream's own journal.
    Upstream,
    /// Somebody who trusts nobody here.
    Auditor,
}

impl Who {
    fn label(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Treasurer => "treasurer",
            Self::Maya => "maya",
            Self::Node => "node",
            Self::Upstream => "upstream",
            Self::Auditor => "auditor",
        }
    }
}

/// The teller.
pub struct Voice {
    pause: Duration,
    steps: Cell<u32>,
}

impl Voice {
    /// Pauses only where a person reads along.
    pub fn new(fast: bool) -> Self {
        let pause = if fast || !output::on_terminal() { Duration::ZERO } else { Duration::from_millis(550) };
        Self { pause, steps: Cell::new(0) }
    }

    /// The title.
    pub fn title(&self, title: &str, below: &[String]) {
        output::line(format!("\n{}", paint(Style::Head, title)));
        below.iter().for_each(|text| output::line(paint(Style::Dim, text)));
    }

    /// A new step.
    pub async fn step(&self, title: &str) {
        self.steps.set(self.steps.get() + 1);
        tokio::time::sleep(self.pause).await;
        output::line(format!(
            "\n{} {}",
            paint(Style::Head, &format!("{:>2}", self.steps.get())),
            paint(Style::Head, title)
        ));
    }

    /// What somebody did, and what came of it.
    pub async fn says(&self, who: Who, text: impl AsRef<str>) {
        output::line(format!("   {} {}", paint(Style::Dim, &format!("{:<9}", who.label())), text.as_ref()));
        tokio::time::sleep(self.pause).await;
    }

    /// A command that was really run, as somebody could type it.
    pub fn command(&self, who: Who, arguments: &[&str]) {
        let text = format!("$ countersign {}", arguments.join(" "));
        output::line(format!(
            "   {} {}",
            paint(Style::Dim, &format!("{:<9}", who.label())),
            paint(Style::Code, &output::visible(&text))
        ));
    }

    /// Somebody else's words, line by line.
    pub fn quote(&self, text: &str) {
        for line in text.lines() {
            output::line(format!("             {}", paint(Style::Dim, &output::visible(line))));
        }
    }

    /// The last words.
    pub fn end(&self, lines: &[String]) {
        output::line("");
        lines.iter().for_each(output::line);
    }
}
