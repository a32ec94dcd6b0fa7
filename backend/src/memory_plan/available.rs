//! The memory this process may still take: what the machine has free, within its cgroup's limit.
//!
//! Called by `main` and the executor before sizes are planned. The parsers are pure; only
//! `available_bytes` reads files. Page cache counts as free: the kernel drops it on demand.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes available now; `usize::MAX` where neither /proc/meminfo nor a cgroup tells, so that a plan
/// made with it is bounded by the limits asked for alone.
pub fn available_bytes() -> usize {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").map(|text| memory_groups(&text)).unwrap_or_default();
    groups.iter().filter_map(|group| group.room()).chain(machine).min().unwrap_or(usize::MAX)
}

/// The `MemAvailable` line of /proc/meminfo, in bytes.
fn mem_available(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// One memory cgroup that this process is in, and the files of its version.
#[derive(Debug, PartialEq)]
struct Group {
    dir: PathBuf,
    limit: &'static str,
    usage: &'static str,
    /// Prefix of the lines of memory.stat that include the children.
    stat_prefix: &'static str,
}

/// The groups of /proc/self/cgroup with all their parents, each of which may set a limit. Where the
/// container does not see its own path, the root that it does see is among them.
fn memory_groups(cgroup: &str) -> Vec<Group> {
    cgroup.lines().flat_map(groups_of_line).collect()
}

fn groups_of_line(line: &str) -> Vec<Group> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (root, limit, usage, stat_prefix) = if controllers.is_empty() {
        ("/sys/fs/cgroup", "memory.max", "memory.current", "")
    } else if controllers.split(',').any(|name| name == "memory") {
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    } else {
        return Vec::new();
    };
    let parents = Path::new(path.trim_start_matches('/')).ancestors();
    parents.map(|parent| Group { dir: Path::new(root).join(parent), limit, usage, stat_prefix }).collect()
}

impl Group {
    /// Bytes left below the limit; `None` without a limit or where the files cannot be read.
    fn room(&self) -> Option<usize> {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).ok();
        let cache = page_cache(&read("memory.stat")?, self.stat_prefix);
        room(&read(self.limit)?, &read(self.usage)?, cache)
    }
}

/// `limit` and `usage` are the texts of the two files; `cache` is the part of usage that can be dropped.
fn room(limit: &str, usage: &str, cache: usize) -> Option<usize> {
    // "max", version 2's word for no limit, is no number.
    let limit: usize = limit.trim().parse().ok()?;
    let usage: usize = usage.trim().parse().ok()?;
    Some(limit.saturating_sub(usage.saturating_sub(cache)))
}

/// Bytes of file pages in a memory.stat.
fn page_cache(stat: &str, prefix: &str) -> usize {
    let value = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(prefix)?.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse::<usize>().ok()).unwrap_or(0)
    };
    value("inactive_file ").saturating_add(value("active_file "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_meminfo() {
        let text = "MemTotal:       24684096 kB\nMemAvailable:   24179656 kB\nBuffers: 1 kB\n";
        assert_eq!(mem_available(text), Some(24_179_656 * 1024));
        for bad in ["", "MemAvailable: lots kB", "MemAvailable: 5", "MemFree: 5 kB"] {
            assert_eq!(mem_available(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn finds_every_parent_group() {
        let dirs = |text| memory_groups(text).into_iter().map(|group| group.dir).collect::<Vec<_>>();
        let v2 = ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup/"].map(PathBuf::from);
        assert_eq!(dirs("0::/a/b\n"), v2);
        let v1 = ["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory/"].map(PathBuf::from);
        assert_eq!(dirs("9:cpu,cpuacct:/y\n4:memory:/x\n"), v1);
        assert_eq!(dirs("nonsense\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn room_is_the_limit_less_what_cannot_be_dropped() {
        assert_eq!(room("1000\n", "700\n", 200), Some(500));
        assert_eq!(room("1000", "1200", 0), Some(0));
        assert_eq!(room("1000", "100", 300), Some(1000));
        assert_eq!(room("max\n", "700\n", 200), None);
        let stat = "cache 9\ninactive_file 5\nactive_file 6\ntotal_inactive_file 50\ntotal_active_file 60\n";
        assert_eq!(page_cache(stat, ""), 11);
        assert_eq!(page_cache(stat, "total_"), 110);
        assert_eq!(page_cache("", ""), 0);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!((1 << 20..1 << 50).contains(&available_bytes()));
    }
}
