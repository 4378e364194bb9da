//! The memory of all processes of the sandbox, and its limit, held by looking often.
//!
//! Counted is what a process has for itself, and of mapped files the most that one process has: they share them; and
//! the segments of System V that are in no process.
//! Where that passes the limit, it is counted again with every page shared by all who have it, which takes longer.
//! Why a process needs memory is not known here.

use std::fs;
use std::io;
use std::path::Path;
use std::str::SplitWhitespace;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::lambda::sandbox::Memory;

/// How long a process may go on beyond the limit.
pub(super) const EVERY: Duration = Duration::from_millis(25);
/// How long where nobody calls.
pub(super) const SELDOM: Duration = Duration::from_secs(1);

/// More processes than any kernel lets a user's namespace have who is not root, and root has no limit before
/// Linux 6.14.
const MOST: usize = 2048;

/// The segments of the namespace; not every kernel has any.
const SEGMENTS: &str = "/proc/sysvipc/shm";

/// What is known of the memory in use.
#[derive(Debug)]
pub(super) struct Usage {
    limit: u64,
    memory: Memory,
    /// Whether the most of it is of processes that were ended together.
    is_over: bool,
    /// To look takes time, of which at most a quarter is this.
    not_before: Instant,
    /// To count exactly takes far more.
    not_exact_before: Instant,
}

/// The memory of a process in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    pid: Pid,
    own: u64,
    files: u64,
}

impl Usage {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            memory: Memory::default(),
            is_over: false,
            not_before: Instant::now(),
            not_exact_before: Instant::now(),
        }
    }

    /// All processes have ended. The most they had is told until others begin.
    pub(super) fn is_over(&mut self) {
        self.memory.now = 0;
        self.is_over = true;
    }

    /// A process begins.
    pub(super) fn begins(&mut self) {
        if std::mem::take(&mut self.is_over) {
            self.memory.most = 0;
            // How long it took to look at the others is no measure for this one.
            self.not_before = Instant::now();
            self.not_exact_before = self.not_before;
        }
    }

    /// What was last known.
    pub(super) fn known(&self) -> Memory {
        self.memory
    }

    /// Looks, and ends the largest processes where they have too much, as the kernel would.
    ///
    /// # Errors
    /// When it cannot be seen what there is: then there is no limit either.
    pub(super) fn look(&mut self) -> io::Result<Memory> {
        let begun = Instant::now();
        if begun >= self.not_before {
            self.count(begun)?;
            self.not_before = Instant::now() + begun.elapsed() * 3;
        }
        Ok(self.memory)
    }

    fn count(&mut self, begun: Instant) -> io::Result<()> {
        let processes = processes(Path::new("/proc"))?;
        if processes.len() > MOST {
            // The first process's group, as a number below zero, means every process but the first.
            let _ = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
            return Ok(());
        }
        let mut shares = Vec::with_capacity(processes.len());
        for pid in processes {
            shares.extend(share(pid)?);
        }
        let detached = detached(&segments());
        let mut sum = total(&shares) + detached;
        if sum > self.limit {
            if begun < self.not_exact_before {
                return Ok(());
            }
            for share in &mut shares {
                exact(share);
            }
            sum = total(&shares) + detached;
            self.not_exact_before = Instant::now() + begun.elapsed() * 3;
        }
        self.memory.now = sum;
        self.memory.most = self.memory.most.max(sum);
        shares.sort_by_key(|share| share.own + share.files);
        while sum > self.limit
            && let Some(largest) = shares.pop()
        {
            // Should it have ended meanwhile, its memory is free too.
            let _ = rustix::process::kill_process(largest.pid, Signal::KILL);
            self.memory.kills += 1;
            sum = total(&shares) + detached;
        }
        Ok(())
    }
}

fn total(shares: &[Share]) -> u64 {
    let own: u64 = shares.iter().map(|share| share.own).sum();
    own + shares.iter().map(|share| share.files).max().unwrap_or(0)
}

/// All processes but this one, or more than there may be.
fn processes(list: &Path) -> io::Result<Vec<Pid>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir(list)? {
        let number = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let process = number.and_then(Pid::from_raw);
        processes.extend(process.filter(|pid| !pid.is_init()));
        if processes.len() > MOST {
            break;
        }
    }
    Ok(processes)
}

/// What a process has; nothing where it has ended.
fn share(pid: Pid) -> io::Result<Option<Share>> {
    let status = match fs::read_to_string(format!("/proc/{pid}/status")) {
        Err(error) if has_ended(&error) => return Ok(None),
        status => status?,
    };
    let mut share = Share {
        pid,
        own: 0,
        files: 0,
    };
    for line in status.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("RssAnon:" | "RssShmem:") => share.own += bytes(words),
            Some("RssFile:") => share.files = bytes(words),
            _ => {}
        }
    }
    Ok(Some(share))
}

fn has_ended(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::SRCH].map(|errno| Some(errno.raw_os_error()));
    gone.contains(&error.raw_os_error())
}

/// Counts a process's part of what it shares, without files in `/tmp`, which are a disk's on Lambda; what cannot be told
/// stays as it is.
fn exact(share: &mut Share) {
    let path = format!("/proc/{}/smaps", share.pid);
    if let Ok(mappings) = fs::read_to_string(path) {
        share.own = proportional(&mappings);
        share.files = 0;
    }
}

/// The proportional parts of mappings. Each begins with a line of its addresses, four words more, and its path if it
/// has one; the others begin with a name.
fn proportional(mappings: &str) -> u64 {
    let mut is_counted = true;
    let mut sum = 0;
    for line in mappings.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Pss:") if is_counted => sum += bytes(words),
            Some(word) if !word.ends_with(':') => {
                is_counted = !words.nth(4).is_some_and(|path| path.starts_with("/tmp/"));
            }
            _ => {}
        }
    }
    sum
}

/// Whether there is memory that no process has.
pub(super) fn has_detached() -> bool {
    detached(&segments()) > 0
}

fn segments() -> String {
    fs::read_to_string(SEGMENTS).unwrap_or_default()
}

/// The bytes of segments that no process has. The first line names the columns.
fn detached(segments: &str) -> u64 {
    let segments = segments.lines().skip(1).filter_map(|segment| {
        let columns: Vec<_> = segment.split_whitespace().collect();
        let bytes = columns.get(14)?.parse::<u64>().ok();
        bytes.filter(|_| columns[6] == "0")
    });
    segments.sum()
}

/// `12 kB`.
fn bytes(mut words: SplitWhitespace<'_>) -> u64 {
    let number = words.next().and_then(|word| word.parse().ok());
    number.unwrap_or(0u64) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shared_and_the_rest_is_not() {
        let share = |own, files| Share {
            pid: Pid::INIT,
            own,
            files,
        };
        assert_eq!(total(&[]), 0);
        assert_eq!(total(&[share(3, 10), share(4, 20)]), 27);
    }

    #[test]
    fn who_comes_next_is_looked_at_at_once() {
        let mut usage = Usage::new(0);
        let later = Instant::now() + Duration::from_mins(1);
        usage.memory.most = 7;
        (usage.not_before, usage.not_exact_before) = (later, later);
        // One more beside others.
        usage.begins();
        assert_eq!((usage.memory.most, usage.not_before), (7, later));
        usage.is_over();
        usage.begins();
        assert_eq!(usage.memory.most, 0);
        let now = Instant::now();
        assert!(
            usage.not_before <= now && usage.not_exact_before <= now,
            "{usage:?}"
        );
    }

    #[test]
    fn this_process_has_memory() {
        let own = share(rustix::process::getpid()).unwrap().unwrap();
        assert!(own.own > 100 << 10, "{own:?}");
        let mut shared = own;
        exact(&mut shared);
        assert!(
            shared.own > 0 && shared.own < own.own + own.files,
            "{shared:?} {own:?}"
        );
    }

    #[test]
    fn segments_count_without_a_process() {
        // As the kernel has it, with the columns' names in full.
        let segments = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
         0          0   600              10485760     7     7      0   993   990   993   990          0          0 1795000000               8388608                     0
         0          1   600               4194304     7     7      1   993   990   993   990          0          0 1795000000               4194304                     0
        12          2   600               1048576     7     7      0   993   990   993   990          0          0 1795000000               1048576                     0
";
        assert_eq!(detached(segments), 9 << 20);
        assert_eq!(detached(""), 0);
    }

    #[test]
    fn files_in_tmp_are_left_out() {
        let mappings =
            "55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Pss:                  10 kB
Pss_Dirty:            10 kB
VmFlags: rd wr mr mw me ac
7f0000000000-7f0010000000 rw-s 00000000 00:2b 5                          /tmp/a file (deleted)
Pss:                2000 kB
7f0020000000-7f0020001000 rw-p 00000000 00:00 0
Pss:                   3 kB
7f0030000000-7f0030001000 r--p 00000000 00:1c 9                          /var/task/tmp/x.so
Pss:                   4 kB
";
        assert_eq!(proportional(mappings), 17 << 10);
    }

    #[test]
    fn what_cannot_be_seen_is_not_nothing() {
        let place = tempfile::tempdir().unwrap();
        for name in ["1", "2", "30", "uptime"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let mut there = processes(place.path()).unwrap();
        there.sort_by_key(|pid| pid.as_raw_pid());
        assert_eq!(there, [2, 30].map(|pid| Pid::from_raw(pid).unwrap()));
        processes(&place.path().join("missing")).unwrap_err();
        let gone = Pid::from_raw(i32::MAX).unwrap();
        assert_eq!(share(gone).unwrap(), None);
    }
}
