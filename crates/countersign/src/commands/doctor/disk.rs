//! The disk under the data directory: room, kind of file system, and how long it takes to make something durable.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Finding, fail, ok, warn};

/// Less room than this is worth a word, and less than a tenth of it is too little.
const ROOM: u64 = 2 << 30;
/// How often the disk is asked; the median counts.
const SAMPLES: usize = 15;
/// A commit that takes longer than this holds up everybody.
const SLOW: Duration = Duration::from_millis(20);
/// A real disk cannot be this fast: something on the way forgets to sync.
const TOO_FAST: Duration = Duration::from_micros(3);

/// What was found of the disk.
pub fn findings(data_dir: &Path) -> Vec<Finding> {
    if !data_dir.is_dir() {
        return vec![warn(
            "data directory",
            format!("{} does not exist", data_dir.display()),
            "`countersign up` makes it",
        )];
    }
    [kind(data_dir), room(data_dir), sync(data_dir)].into_iter().collect()
}

fn kind(path: &Path) -> Finding {
    let on_memory =
        nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
    if on_memory {
        let fix = "put data_dir on a disk: here nothing survives a restart of the machine";
        return warn("file system", format!("{} is in memory (tmpfs)", path.display()), fix);
    }
    ok("file system", path.display().to_string())
}

fn room(path: &Path) -> Finding {
    let free = match nix::sys::statvfs::statvfs(path) {
        Ok(fs) => fs.blocks_available().saturating_mul(fs.fragment_size()),
        Err(error) => return warn("disk space", error.to_string(), "look with df"),
    };
    let found = format!("{} MiB free", free >> 20);
    match free {
        0..0x0ccc_cccc => fail("disk space", found, "make room: a node that cannot record refuses every call"),
        free if free < ROOM => warn("disk space", found, "make room soon"),
        _ => ok("disk space", found),
    }
}

fn sync(path: &Path) -> Finding {
    match measured(path) {
        Ok(median) if median > SLOW => warn(
            "durable write",
            format!("{median:?} (median)"),
            "every group of calls waits this long; use a faster disk",
        ),
        Ok(median) if median < TOO_FAST => warn(
            "durable write",
            format!("{median:?} (median)"),
            "no disk is this fast: the file system may be acknowledging what it has not stored",
        ),
        Ok(median) => ok("durable write", format!("{median:?} (median of {SAMPLES} fdatasync)")),
        Err(error) => {
            fail("durable write", format!("{}: {error}", path.display()), "let this user write to the data directory")
        }
    }
}

fn measured(path: &Path) -> std::io::Result<Duration> {
    let probe = path.join(format!(".doctor-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&probe)?;
    let sample = |file: &mut std::fs::File| {
        let since = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        Ok(since.elapsed())
    };
    let samples: std::io::Result<Vec<Duration>> = (0..SAMPLES).map(|_| sample(&mut file)).collect();
    std::fs::remove_file(&probe)?;
    let mut samples = samples?;
    samples.sort_unstable();
    Ok(samples[SAMPLES / 2])
}
