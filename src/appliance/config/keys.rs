//! The reference of the configuration file: every key with its values, its default and what it does.
//!
//! Not the rules (`rules` checks values, `file` reads them): this is what people are told, by `xshelf check --keys`
//! and in messages about unknown keys.
//! Invariant: a key is read by `file` exactly if it is listed here (a test holds both to it).

use crate::limits;
use std::fmt::Write as _;

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in its table.
    pub name: &'static str,
    /// The values it takes.
    pub values: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does, and what goes wrong with it.
    pub text: &'static str,
}

/// One table of the file.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// As it is written in the file; empty for the keys before any table.
    pub header: &'static str,
    /// What it stands for.
    pub text: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// Keys before any table.
pub const TOP: Table = Table {
    header: "",
    text: "Before the first table.",
    keys: &[
        Key {
            name: "state-dir",
            values: "absolute path of a directory",
            default: "$STATE_DIRECTORY, which systemd sets; else none",
            text: "Where the config string, the MAC mask and the reservation are kept that hosts set on a slot over the \
                   wire: SHELF.SLOT.state, on the disk before the host is answered. Removing such a file while xshelf is \
                   stopped forgets them. Without a directory they end with the process. It is made if its parent exists, \
                   and locked: a second xshelf on the same directory does not start.",
        },
        Key {
            name: "control-socket",
            values: "absolute path, or \"none\"",
            default: "$RUNTIME_DIRECTORY/control, which systemd sets; else /run/xshelf/INTERFACE.sock of the first interface",
            text: "Where `xshelf status` and `xshelf slot` reach it: a Unix socket for the user it runs as. Where one was \
                   named that cannot be made, it does not start; without the usual one it serves all the same, and says \
                   so.",
        },
    ],
};

/// `[[interface]]`
pub const INTERFACE: Table = Table {
    header: "[[interface]]",
    text: "One network interface to serve on; at least one. Every slot is served on every interface.",
    keys: &[
        Key {
            name: "name",
            values: "name of an interface, as in `ip link`",
            default: "none: it must be given",
            text: "It must exist and be up, and no other XDP program may be attached to it. Named twice is refused.",
        },
        Key {
            name: "mode",
            values: "\"auto\", \"zero-copy\", \"native\" or \"generic\"",
            default: "\"auto\"",
            text: "How frames reach us. auto takes the best rung the NIC offers and says why better ones were \
                   refused; any other value accepts that one only, and the start fails if the NIC refuses it.",
        },
        Key {
            name: "queues",
            values: "\"all\", a number, a list as \"0-3,6\" or [0, 1]",
            default: "\"all\"",
            text: "Receive queues to serve: all of them, the first so many, or these. AoE frames that arrive on \
                   any other queue are not answered: leave queues out only if the NIC steers AoE away from them.",
        },
    ],
};

/// `[[slot]]`
pub const SLOT: Table = Table {
    header: "[[slot]]",
    text: "One disk; at least one.",
    keys: &[
        Key {
            name: "address",
            values: "\"SHELF.SLOT\", in quotes; shelf 0-65534 but not 4095, slot 0-254",
            default: "none: it must be given",
            text: "What initiators address; 7.0 appears as /dev/etherd/e7.0 on Linux. Linux cannot reach shelf \
                   4095, shelf 65535 or slot 255: they are refused, and so is the same address twice.",
        },
        Key {
            name: "path",
            values: "absolute path of a block device or regular file",
            default: "none: it must be given",
            text: "What is served. Its size must be a multiple of 512 bytes and not 0. Two slots may name one backing \
                   only with offset and length that do not overlap.",
        },
        Key {
            name: "offset",
            values: "bytes, or text as \"1G\" (K, M, G, T: powers of 1024) or \"2048s\" (sectors of 512 bytes)",
            default: "0",
            text: "The first byte of the backing that is served; a multiple of 512. Hosts see it as sector 0. A \
                   multiple of the physical block, mostly 4096, keeps writes fast.",
        },
        Key {
            name: "length",
            values: "as offset",
            default: "all behind offset",
            text: "How much of the backing is served; a multiple of 512 and not 0. A backing that is shorter stops \
                   the start. Without it the slot grows with its backing.",
        },
        Key {
            name: "read-only",
            values: "true or false",
            default: "false",
            text: "Refuse writes. The backing is then opened for reading only.",
        },
        Key {
            name: "write-back",
            values: "true or false",
            default: "false",
            text: "Acknowledge writes before they are durable. Faster, and a power failure loses acknowledged \
                   writes: the Linux initiator never sends a flush. Without it every write is durable first.",
        },
        Key {
            name: "serial",
            values: "1 to 20 printable ASCII characters, no space at either end",
            default: "the device's own; for a file, one made of /etc/machine-id and the path",
            text: "Serial number in IDENTIFY. Multipath takes equal serials for the same disk, so the same serial \
                   on two slots is refused. Give one to a file that moves between paths or machines.",
        },
        Key {
            name: "model",
            values: "1 to 40 printable ASCII characters, no space at either end",
            default: "\"xshelf\"",
            text: "Model name in IDENTIFY.",
        },
        Key {
            name: "firmware",
            values: "1 to 8 printable ASCII characters, no space at either end",
            default: "the version of xshelf",
            text: "Firmware revision in IDENTIFY. Give one to keep it through updates of xshelf.",
        },
        Key {
            name: "wwn",
            values: "16 hexadecimal digits in quotes, \"0x\" before them if you like, or \"none\"",
            default: "made of the serial number, the same in every version: it begins with 3 (locally assigned)",
            text: "World wide name in IDENTIFY: multipath takes equal ones for the same disk, so the same one on two \
                   slots is refused. \"none\" tells hosts that the disk has no such name.",
        },
        Key {
            name: "buffers",
            values: "2 to 1024",
            default: "64",
            text: "Requests the slot says it can queue; a Linux host keeps no more in flight. Fewer tame a host that \
                   floods others; more than fit are dropped, and repeated by the host.",
        },
        Key {
            name: "vlan",
            values: "0 to 4094",
            default: "0: untagged",
            text: "The VLAN the slot answers on; hosts on others do not see it. The NIC must leave tags in the \
                   frames (`ethtool -K IF rxvlan off`, which nic-setup does).",
        },
        Key {
            name: "config-string",
            values: "text of at most 1024 bytes",
            default: "empty",
            text: "What the slot answers to a query of its config string, a label for people and host software, until a \
                   host sets anything on the slot: what is kept in state-dir wins from then on.",
        },
        Key {
            name: "allow",
            values: "list of MAC addresses: [\"02:00:00:00:00:01\", \"02-00-00-00-00-02\", \"020000000003\"]",
            default: "empty: everybody",
            text: "The hosts that may talk to the slot, at most 255; it is silent to all others. Hosts can set such a \
                   list themselves (MAC mask). It can only narrow this one, never widen it: a host has to be on \
                   both, as far as each is not empty. Addresses can be forged: this guards against mistakes.",
        },
        Key {
            name: "reserved-answer",
            values: "\"aoe\" or \"ata\"",
            default: "\"aoe\"",
            text: "What a host hears whose command a reservation of others forbids. aoe is the protocol's own error \
                   6, on which Linux hangs for 180 s; ata is an I/O error at once.",
        },
        Key {
            name: "rivals",
            values: "\"refuse\", \"alarm\" or \"ignore\"",
            default: "\"refuse\"",
            text: "When another target on the wire answers for this address, hosts take the two for one disk and \
                   destroy both. refuse does not begin to serve the slot; alarm serves it all the same. Either way \
                   the log says so, also when it happens later. ignore sends no question and says nothing.",
        },
        Key {
            name: "worker",
            values: "number of a worker, from 0",
            default: "the worker with the fewest slots",
            text: "The worker that owns the slot. A number beyond the workers there are stops the start.",
        },
    ],
};

/// `[workers]`
pub const WORKERS: Table = Table {
    header: "[workers]",
    text: "The threads that serve; each is pinned to one CPU.",
    keys: &[
        Key {
            name: "count",
            values: "1 to 256",
            default: "one for each queue, but not more than there are CPUs",
            text: "Workers beyond the number of queues get their frames from the others. More workers than CPUs \
                   share them, with a warning.",
        },
        Key {
            name: "cores",
            values: "a number, or a list as \"0-3,6\" or [0, 1]",
            default: "all CPUs this process may run on",
            text: "The CPUs for workers: the first so many, or these. Only CPUs of the inherited affinity mask \
                   (taskset, CPUAffinity=, cpuset) can be used; a list that names another stops the start.",
        },
        Key {
            name: "spin-us",
            values: "0 to 1000 microseconds",
            default: "50 on a CPU that is isolated (isolcpus), else 0",
            text: "How long an idle worker looks for work before it sleeps. It saves a wake-up where the CPU has \
                   nothing else to do, and costs throughput where it has.",
        },
    ],
};

/// `[memory]`
pub const MEMORY: Table = Table {
    header: "[memory]",
    text: "Sizes of the frame memory; the defaults fit nearly always.",
    keys: &[
        Key {
            name: "frames-per-queue",
            values: "64 to 262144 chunks of 4096 bytes",
            default: "8192",
            text: "Chunks that a queue receives into. Fewer save memory; frames beyond them are dropped and \
                   counted. A frame of 9000 bytes takes three.",
        },
        Key {
            name: "runs-per-worker",
            values: "1 to 65536 runs of 8192 bytes",
            default: "2048",
            text: "Buffers of a worker for transfers of more than 7 sectors, and for those that come unaligned.",
        },
        Key {
            name: "huge-pages",
            values: "\"try\" or \"require\"",
            default: "\"try\"",
            text: "Whether frame memory lies in 2 MiB pages. try falls back to ordinary pages and says so; \
                   require stops the start if vm.nr_hugepages is too low.",
        },
    ],
};

/// All tables, in the order they are explained.
pub const TABLES: [Table; 5] = [TOP, INTERFACE, SLOT, WORKERS, MEMORY];

impl Table {
    /// The names of its keys.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.keys.iter().map(|key| key.name)
    }

    /// Its name without brackets.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.header.trim_matches(['[', ']'])
    }
}

/// The whole reference as text, 100 columns wide.
#[must_use]
pub fn reference() -> String {
    let mut out = String::new();
    for table in TABLES {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", if table.header.is_empty() { "top level" } else { table.header });
        wrap(&mut out, "  ", table.text);
        for key in table.keys {
            let _ = writeln!(out, "\n  {}", key.name);
            wrap(&mut out, "      ", key.text);
            wrap(&mut out, "      ", &format!("Values: {}", key.values));
            wrap(&mut out, "      ", &format!("Default: {}", key.default));
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn wrap(out: &mut String, indent: &str, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let wide = word.chars().count();
        if column > 0 && column + 1 + wide > 100 {
            out.push('\n');
            column = 0;
        }
        let before = if column == 0 { indent } else { " " };
        out.push_str(before);
        out.push_str(word);
        column += before.len() + wide;
    }
    out.push('\n');
}

/// Smallest and largest `frames-per-queue`.
pub const FRAMES_PER_QUEUE: std::ops::RangeInclusive<u32> = 64..=262_144;
/// Smallest and largest `runs-per-worker`.
pub const RUNS_PER_WORKER: std::ops::RangeInclusive<u32> = 1..=65_536;
/// Smallest and largest worker count.
pub const WORKER_COUNT: std::ops::RangeInclusive<u16> = 1..=256;
/// Longest spin, in microseconds.
pub const SPIN_US: std::ops::RangeInclusive<u16> = 0..=1000;
/// Fewest and most `buffers`: Linux attaches to no target with less than 2, and a worker holds no more at once.
pub const BUFFERS: std::ops::RangeInclusive<u16> = 2..=1024;
/// Most bytes of `offset` and of `length`: what LBA48 can address.
pub const MAX_BYTES: u64 = (1 << 48) * limits::SECTOR as u64;
/// Highest CPU number that the kernel's affinity masks of this program can name.
pub const CPUS: std::ops::RangeInclusive<u16> = 0..=1023;

const _: () = assert!(limits::BUFFER_COUNT == 64, "the default quoted above");
const _: () = assert!(*BUFFERS.end() as usize == limits::REQUESTS);
const _: () = assert!(limits::MAC_LIST == 255, "the number quoted above");
const _: () = assert!(limits::RECEIVE_CHUNKS == 8192 && limits::RUNS == 2048, "the defaults quoted above");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_explains_every_key_within_100_columns() {
        let text = reference();
        for table in TABLES {
            assert!(text.contains(table.header));
            for key in table.keys {
                assert!(text.contains(&format!("\n  {}\n", key.name)), "{}", key.name);
                assert!(key.text.ends_with('.'), "{}", key.name);
            }
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn the_ranges_are_those_quoted() {
        let text = reference();
        for number in [
            *FRAMES_PER_QUEUE.start(),
            *FRAMES_PER_QUEUE.end(),
            *RUNS_PER_WORKER.end(),
            u32::from(*WORKER_COUNT.end()),
            u32::from(*SPIN_US.end()),
            u32::from(*BUFFERS.end()),
        ] {
            assert!(text.contains(&number.to_string()), "{number}");
        }
    }
}
