//! What the machine offers, apart from its interfaces: CPUs, rights, locked memory, huge pages, io_uring.
//!
//! Not here: network interfaces (`net::nic`), backings (`backing`).
//! Invariant: reading changes nothing, and what cannot be read is `None`, never a guess.

use crate::appliance::config::List;
use crate::appliance::config::{HugePages, Mistakes, Wrong};
use serde::Serialize;
use std::fmt;
use std::io::{self, Write};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// CPUs of the inherited affinity mask, ascending.
    pub cpus: Vec<u16>,
    /// Which of the needed capabilities are missing.
    #[serde(rename = "missing_capabilities", serialize_with = "as_text")]
    pub missing: Vec<Capability>,
    /// Bytes this process may lock; `None` for as many as it likes.
    #[serde(rename = "memlock_bytes")]
    pub memlock: Option<u64>,
    /// Free huge pages of 2 MiB; `None` where the default huge page has another size, or there are none.
    pub huge_pages: Option<u64>,
    /// The errno that an io_uring is refused with; `None` where one can be made.
    pub io_uring_refused: Option<i32>,
}

fn as_text<S: serde::Serializer>(list: &[Capability], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(ToString::to_string))
}

/// A capability that serving needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// AF_XDP sockets.
    NetRaw,
    /// Attaching the XDP program.
    NetAdmin,
    /// Loading it.
    Bpf,
    /// Locking memory beyond the limit; needed only if the limit is too low.
    IpcLock,
}

impl Capability {
    /// All of them, with their numbers (include/uapi/linux/capability.h).
    const ALL: [(Self, u32); 4] =
        [(Self::NetRaw, 13), (Self::NetAdmin, 12), (Self::Bpf, 39), (Self::IpcLock, 14)];
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetRaw => "CAP_NET_RAW",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::Bpf => "CAP_BPF",
            Self::IpcLock => "CAP_IPC_LOCK",
        })
    }
}

/// Bytes of a huge page that frame memory can lie in.
pub const HUGE_PAGE: u64 = 2 << 20;

impl Machine {
    /// Looks.
    #[must_use]
    pub fn survey() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let missing = missing_capabilities(&read("/proc/self/status"));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        Self {
            cpus: affinity(),
            memlock: if missing.contains(&Capability::IpcLock) { limit } else { None },
            missing,
            huge_pages: free_huge_pages(&read("/proc/meminfo")),
            io_uring_refused: io_uring::IoUring::new(2).err().map(|e| e.raw_os_error().unwrap_or(0)),
        }
    }

    /// Why serving could not start, whatever is served.
    pub fn judge(&self, mistakes: &mut Mistakes) {
        let missing: Vec<String> =
            self.missing.iter().filter(|c| **c != Capability::IpcLock).map(ToString::to_string).collect();
        if !missing.is_empty() {
            let what = format!("this process lacks {}", missing.join(", "));
            mistakes.error(None, "", Wrong::new(what, "run as root, or from a unit that grants them"));
        }
        if let Some(errno) = self.io_uring_refused {
            mistakes.error(None, "", io_uring_refused(errno));
        }
    }

    /// Writes it for people.
    ///
    /// # Errors
    /// As `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut line = |name: &str, text: String| writeln!(out, "  {name:<13} {text}");
        line("CPUs", List(&self.cpus).to_string())?;
        let missing: Vec<String> = self.missing.iter().map(ToString::to_string).collect();
        let rights =
            if missing.is_empty() { "all".to_owned() } else { format!("without {}", missing.join(", ")) };
        line("rights", rights)?;
        let memlock = self.memlock.map_or("as much as wanted".to_owned(), |b| format!("{} MiB", mib(b)));
        line("locked memory", memlock)?;
        let pages = match self.huge_pages {
            Some(free) => format!("{free} of 2 MiB free"),
            None => "none of 2 MiB".to_owned(),
        };
        line("huge pages", pages)?;
        let refused = self.io_uring_refused.map(|errno| io_uring_refused(errno).what);
        line("io_uring", refused.unwrap_or_else(|| "works".to_owned()))
    }

    /// Checks that so many bytes of frame memory can be had.
    pub fn judge_memory(&self, bytes: u64, huge: HugePages, mistakes: &mut Mistakes) {
        let pages = bytes.div_ceil(HUGE_PAGE);
        let free = self.huge_pages.unwrap_or(0);
        if free < pages {
            let what = format!("frame memory takes {pages} huge pages, and {free} are free");
            let remedy = format!("raise vm.nr_hugepages by {}", pages - free);
            match huge {
                HugePages::Require => mistakes.error(None, "memory.huge-pages", Wrong::new(what, remedy)),
                _ => mistakes.warning(
                    None,
                    "memory.huge-pages",
                    Wrong::new(format!("{what}: ordinary pages cost a few percent"), remedy),
                ),
            }
        }
        // AF_XDP and io_uring each lock the same memory, and both count.
        if let Some(limit) = self.memlock.filter(|limit| *limit < bytes.saturating_mul(2)) {
            let what = format!(
                "frame memory counts {} MiB against the limit of locked memory, which is {} MiB",
                mib(bytes.saturating_mul(2)),
                mib(limit)
            );
            let remedy = "raise it (ulimit -l, LimitMEMLOCK=), grant CAP_IPC_LOCK, or lower [memory]";
            mistakes.error(None, "memory", Wrong::new(what, remedy));
        }
    }
}

/// Bytes as whole MiB, rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// What to say when io_uring is refused.
#[must_use]
pub fn io_uring_refused(errno: i32) -> Wrong {
    let said = std::io::Error::from_raw_os_error(errno);
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match (disabled.trim(), errno) {
        ("1" | "2", libc::EPERM) => Wrong::new(
            format!("io_uring is switched off here (kernel.io_uring_disabled = {})", disabled.trim()),
            "set it to 0 (sysctl kernel.io_uring_disabled=0)",
        ),
        (_, libc::EPERM | libc::EACCES) => Wrong::new(
            format!("io_uring is refused: {said}"),
            "allow it: a seccomp filter (container, SystemCallFilter=) or a security module forbids it",
        ),
        (_, libc::ENOSYS) => {
            Wrong::new("this kernel has no io_uring", "use Linux 6.1 or later with CONFIG_IO_URING")
        }
        (_, libc::ENOMEM) => Wrong::new(
            format!("io_uring is refused: {said}"),
            "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)",
        ),
        _ => Wrong::new(format!("io_uring is refused: {said}"), "see io_uring_setup(2)"),
    }
}

/// The CPUs this thread may run on, ascending; empty only if the kernel does not say.
#[must_use]
pub fn affinity() -> Vec<u16> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..=1023u16).filter(|cpu| set.is_set(usize::from(*cpu))).collect()
}

/// CPUs that the kernel keeps other work away from (isolcpus=).
#[must_use]
pub fn isolated_cpus() -> Vec<u16> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    crate::appliance::config::parse_list(text.trim(), "CPU", &(0..=1023)).unwrap_or_default()
}

/// Of the capabilities that serving needs, those that the text of /proc/self/status does not show as effective.
fn missing_capabilities(status: &str) -> Vec<Capability> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    Capability::ALL.into_iter().filter(|(_, n)| effective & (1 << n) == 0).map(|(c, _)| c).collect()
}

/// Free huge pages in the text of /proc/meminfo, if their default size is the one we use.
fn free_huge_pages(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
    };
    let ours = field("Hugepagesize")? == HUGE_PAGE / 1024;
    // Reserved pages are counted as free, but promised to somebody.
    ours.then(|| field("HugePages_Free").map(|n| n.saturating_sub(field("HugePages_Rsvd").unwrap_or(0))))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        let all = missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n");
        assert_eq!(all, []);
        let none = missing_capabilities("CapEff:\t0000000000000000\n");
        assert_eq!(none.len(), 4);
        let some = missing_capabilities("CapEff:\t0000008000003000\n");
        assert_eq!(some, [Capability::IpcLock]);
        assert_eq!(missing_capabilities("").len(), 4);
    }

    #[test]
    fn huge_pages_are_those_of_two_mebibytes() {
        let text = "HugePages_Total:      10\nHugePages_Free:        8\nHugePages_Rsvd:        1\n\
                    Hugepagesize:       2048 kB\n";
        assert_eq!(free_huge_pages(text), Some(7));
        assert_eq!(free_huge_pages(&text.replace("2048", "1048576")), None);
        assert_eq!(free_huge_pages(""), None);
    }

    #[test]
    fn memory_that_cannot_be_had_is_said() {
        let lines = |machine: &Machine, huge| {
            let mut mistakes = Mistakes::default();
            machine.judge_memory(40 << 20, huge, &mut mistakes);
            mistakes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let rich = Machine { huge_pages: Some(20), ..Machine::default() };
        assert_eq!(lines(&rich, HugePages::Require), [""; 0]);
        let poor = Machine { huge_pages: Some(5), memlock: Some(8 << 20), ..Machine::default() };
        let got = lines(&poor, HugePages::Require);
        assert!(
            got[0].contains("takes 20 huge pages, and 5 are free; raise vm.nr_hugepages by 15"),
            "{got:?}"
        );
        assert!(
            got[1].contains("counts 80 MiB against the limit of locked memory, which is 8 MiB"),
            "{got:?}"
        );
        assert!(lines(&poor, HugePages::Try)[0].starts_with("warning"));
    }

    #[test]
    fn a_refused_io_uring_is_explained() {
        assert!(io_uring_refused(libc::ENOSYS).what.contains("no io_uring"));
        assert!(io_uring_refused(libc::ENOMEM).remedy.contains("locked memory"));
        assert!(io_uring_refused(libc::EACCES).remedy.contains("seccomp"));
    }

    #[test]
    fn this_process_has_a_cpu() {
        assert!(!affinity().is_empty());
    }
}
