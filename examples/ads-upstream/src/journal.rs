//! The journal: what was executed, one JSON object a line, in `campaigns.jsonl`, on the disk before any answer leaves.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Number;

/// The journal's name in its directory.
pub const FILE: &str = "campaigns.jsonl";

/// How long to wait for a dying predecessor to let go of the journal.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// One execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up by one per execution, across restarts.
    pub execution: u64,
    /// The tool that was executed.
    pub tool: String,
    /// The process that executed it.
    pub pid: u32,
    /// The campaign that it was about, as it then was.
    pub campaign: Campaign,
}

/// An advertising campaign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Campaign {
    /// `cmp-` and the number of the execution that made it.
    pub id: String,
    /// 1 to 80 characters.
    pub name: String,
    /// In the account's currency, as the client wrote it.
    pub budget: Number,
    /// `YYYY-MM-DD`.
    pub start_date: String,
}

/// Every execution on record in this directory; none if there is no journal yet. A torn last line is left out: its
/// execution was never answered.
///
/// # Errors
/// If the journal cannot be read, or a whole line in it is not an entry.
pub fn read(dir: &Path) -> io::Result<Vec<Entry>> {
    let mut text = Vec::new();
    match File::open(dir.join(FILE)) {
        Ok(mut file) => file.read_to_end(&mut text)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let whole = &text[..whole_lines(&text)];
    let lines = whole.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(io::Error::from)).collect()
}

/// The open journal and the campaigns that follow from it.
pub(crate) struct Journal {
    file: File,
    executions: u64,
    campaigns: BTreeMap<String, Campaign>,
}

impl Journal {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(dir.join(FILE))?;
        lock(&file)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = whole_lines(&text) as u64;
        if whole < text.len() as u64 {
            file.set_len(whole)?;
            file.seek(io::SeekFrom::End(0))?;
        }
        // The file's own name must survive a crash, too.
        File::open(dir)?.sync_all()?;
        let mut journal = Self { file, executions: 0, campaigns: BTreeMap::new() };
        read(dir)?.into_iter().for_each(|entry| journal.apply(entry));
        Ok(journal)
    }

    /// Executes: numbered, written and synced, then applied.
    pub(crate) fn execute(&mut self, tool: &str, campaign: impl FnOnce(u64) -> Campaign) -> io::Result<Campaign> {
        let execution = self.executions + 1;
        let entry = Entry { execution, tool: tool.to_owned(), pid: std::process::id(), campaign: campaign(execution) };
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        let campaign = entry.campaign.clone();
        self.apply(entry);
        Ok(campaign)
    }

    pub(crate) fn campaigns(&self) -> &BTreeMap<String, Campaign> {
        &self.campaigns
    }

    fn apply(&mut self, entry: Entry) {
        self.executions = entry.execution;
        if entry.tool == crate::tools::DELETE {
            self.campaigns.remove(&entry.campaign.id);
        } else {
            self.campaigns.insert(entry.campaign.id.clone(), entry.campaign);
        }
    }
}

fn lock(file: &File) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::Error(e)) => return Err(e),
            Err(std::fs::TryLockError::WouldBlock) if start.elapsed() > LOCK_WAIT => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process serves this directory"));
            }
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn whole_lines(text: &[u8]) -> usize {
    text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn campaign(n: u64) -> Campaign {
        Campaign { id: format!("cmp-{n}"), name: "a".into(), budget: 5.into(), start_date: "2026-01-01".into() }
    }

    #[test]
    fn a_torn_line_is_forgotten_and_numbers_go_on() {
        let dir = std::env::temp_dir().join(format!("ads-journal-{}", std::process::id()));
        let mut journal = Journal::open(&dir).expect("opens");
        journal.execute("createCampaign", campaign).expect("executes");
        journal.execute("createCampaign", campaign).expect("executes");
        drop(journal);
        OpenOptions::new().append(true).open(dir.join(FILE)).and_then(|mut f| f.write_all(b"{\"exec")).expect("tears");
        let mut journal = Journal::open(&dir).expect("opens again");
        journal.execute(crate::tools::DELETE, |_| campaign(1)).expect("executes");
        assert_eq!(journal.campaigns().keys().collect::<Vec<_>>(), ["cmp-2"]);
        let numbers: Vec<_> = read(&dir).expect("reads").into_iter().map(|e| e.execution).collect();
        assert_eq!(numbers, [1, 2, 3]);
        std::fs::remove_dir_all(&dir).expect("cleans up");
    }
}
