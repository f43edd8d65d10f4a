//! What is known of the differences between the shelf and vblade 25. An entry recognises one in a pair of answers, and
//! then takes it out, so that what is left has to be equal to the byte.

use crate::differential::{HOST, PORT, SECTORS};
use crate::frames::BROADCAST;

/// A request, as the entries look at it.
pub struct Request<'a> {
    pub frame: &'a [u8],
    /// Sectors that the shelf advertises on the path.
    most: u8,
}

/// The answers to it.
pub struct Pair {
    pub ours: Vec<Vec<u8>>,
    pub theirs: Vec<Vec<u8>>,
    /// vblade ended, or answers nobody any more.
    pub died: bool,
    /// The two have gone apart, and have to be brought together.
    pub renew: bool,
}

/// A known difference.
pub struct Entry {
    pub name: &'static str,
    /// What vblade does.
    pub theirs: &'static str,
    /// What the shelf does, and why.
    pub ours: &'static str,
    pub rule: &'static str,
    pub explains: fn(&Request<'_>, &mut Pair) -> bool,
}

const WRITES: [u8; 7] = [0x30, 0x34, 0xca, 0x35, 0xc5, 0x39, 0x3d];
/// What vblade knows of ATA, but for IDENTIFY, flush and power mode.
const SHARED: [u8; 4] = [0x20, 0x24, 0x30, 0x34];
/// What the shelf serves on top.
const MORE: [u8; 27] = [
    0x25, 0xc8, 0x29, 0xc4, 0xca, 0x35, 0xc5, 0x39, 0x3d, 0x40, 0x42, 0xea, 0xef, 0x06, 0x90, 0x91, 0xc6,
    0xe0, 0xe1, 0xe2, 0xe3, 0xe6, 0x27, 0xf8, 0xb0, 0xb0, 0xb0,
];

impl<'a> Request<'a> {
    pub fn new(frame: &'a [u8], most: u8) -> Self {
        Self { frame, most }
    }

    fn at(&self, i: usize) -> u8 {
        self.frame.get(i).copied().unwrap_or(0)
    }

    fn command(&self) -> u8 {
        self.at(19)
    }

    fn is_ata(&self, opcodes: &[u8]) -> bool {
        self.command() == 0 && opcodes.contains(&self.at(27))
    }

    pub fn is_wild(&self) -> bool {
        self.frame.get(16..18) == Some(&[0xff, 0xff]) || self.at(18) == 0xff
    }

    fn version(&self) -> u8 {
        self.at(14) >> 4
    }

    fn is_foreign(&self) -> bool {
        self.frame.get(..6).is_some_and(|to| *to != PORT && *to != BROADCAST)
    }

    fn is_from_group(&self) -> bool {
        self.at(6) & 1 != 0
    }

    fn length(&self) -> usize {
        usize::from(u16::from_be_bytes([self.at(30), self.at(31)]))
    }

    /// Bytes of data behind the ATA header.
    fn data(&self) -> usize {
        self.frame.len().saturating_sub(36)
    }

    fn sub_command(&self) -> u8 {
        match self.command() {
            1 => self.at(29) & 0x0f,
            2 => self.at(25),
            _ => self.at(24),
        }
    }

    /// Whether it would change something in a target that does all it is told.
    pub fn changes(&self) -> bool {
        match self.command() {
            0 => WRITES.contains(&self.at(27)) || self.at(27) == 0x06 || self.at(27) == 0xb0,
            1 => matches!(self.sub_command(), 3..=5),
            2 => self.sub_command() == 1,
            3 => matches!(self.sub_command(), 1 | 2),
            _ => false,
        }
    }

    /// Whether it is an ATA command, which is all that reaches the disk.
    pub fn is_for_disk(&self) -> bool {
        self.command() == 0
    }

    pub fn edits_mask(&self) -> bool {
        self.command() == 2 && self.sub_command() == 1
    }

    /// Whether the shelf drops it without doing anything: then nobody has to wait for an answer.
    pub fn meant_to_be_silent(&self) -> bool {
        let argument = match self.command() {
            0 => 36,
            1 => 32,
            2 => 28,
            3 => 26,
            _ => 24,
        };
        let elsewhere = ![[0, 7], [0xff, 0xff]].contains(&[self.at(16), self.at(17)])
            || ![3, 0xff].contains(&self.at(18));
        self.frame.len() < argument
            || self.version() != 1
            || self.at(14) & 0x08 != 0
            || self.is_foreign()
            || self.is_from_group()
            || elsewhere
            // Whether a test matches is not known here, and it needs no disk either.
            || (self.command() == 1 && matches!(self.sub_command(), 1 | 2))
            || (self.is_wild() && !self.reads_disk())
    }

    /// Whether it is a read, verify or flush that can be done, which takes until the disk has done it.
    fn reads_disk(&self) -> bool {
        let wide = match self.at(27) {
            _ if self.command() != 0 => return false,
            0x20 | 0xc8 | 0xc4 | 0x40 => false,
            0x24 | 0x25 | 0x29 | 0x42 => true,
            flush => return matches!(flush, 0xe7 | 0xea),
        };
        let bytes = [self.at(28), self.at(29), self.at(30), self.at(31), self.at(32), self.at(33), 0, 0];
        let lba = u64::from_le_bytes(bytes) & if wide { u64::MAX } else { 0x0fff_ffff };
        let count = u64::from(self.at(26));
        (1..=u64::from(self.most)).contains(&count) && lba + count <= SECTORS
    }
}

impl Pair {
    /// Only vblade answers.
    fn only_theirs(&self) -> bool {
        self.ours.is_empty() && self.theirs.len() == 1
    }

    /// Only the shelf answers.
    fn only_ours(&self) -> bool {
        self.ours.len() == 1 && self.theirs.is_empty()
    }

    fn both(&mut self) -> Option<(&[u8], &mut Vec<u8>)> {
        match (&self.ours[..], &mut self.theirs[..]) {
            ([ours], [theirs]) => Some((ours, theirs)),
            _ => None,
        }
    }

    /// Takes the whole answer of the shelf for that of vblade.
    fn settle(&mut self) -> bool {
        self.theirs.clone_from(&self.ours);
        true
    }

    /// The same, and the two may have gone apart.
    fn part(&mut self) -> bool {
        self.renew = true;
        self.settle()
    }
}

fn error_of(frame: &[u8]) -> Option<u8> {
    (frame[14] & 0x04 != 0).then_some(frame[15])
}

/// Status and error register of an answer that is no AoE error.
fn status_of(frame: &[u8]) -> Option<(u8, u8)> {
    (frame[14] & 0x04 == 0 && frame.len() >= 36).then(|| (frame[27], frame[25]))
}

/// Whether the answers of both are like this.
fn are(pair: &mut Pair, like: impl FnOnce(&[u8], &[u8]) -> bool) -> bool {
    pair.both().is_some_and(|(ours, theirs)| like(ours, theirs))
}

const ABORTED: Option<(u8, u8)> = Some((0x41, 0x04));

/// In this order: who answers at all, then fields that every answer has, then single commands, and padding last.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "death",
        theirs: "ends when the first address of its mask list is taken off, or garbage behind a short frame says so",
        ours: "serves on: any host could end the export with two frames",
        rule: "15/36",
        explains: |request, pair| {
            let known = pair.died && request.edits_mask();
            if known {
                pair.died = false;
                pair.part();
            }
            known
        },
    },
    Entry {
        name: "announcement",
        theirs: "version 0 in the announcement at its start",
        ours: "1: iPXE drops others",
        rule: "15/20",
        // Seen once for each start, not for a request.
        explains: |_, _| false,
    },
    Entry {
        name: "version",
        theirs: "answers every version, and echoes it",
        ours: "silent: such an answer can only confuse",
        rule: "15/1",
        explains: |request, pair| {
            request.version() != 1
                && pair.only_theirs()
                && pair.theirs[0][14] >> 4 == request.version()
                && pair.settle()
        },
    },
    Entry {
        name: "destination",
        theirs: "answers frames for other hosts and groups",
        ours: "silent: XDP and promiscuous ports see frames that are meant for others",
        rule: "15/10",
        explains: |request, pair| request.is_foreign() && pair.only_theirs() && pair.settle(),
    },
    Entry {
        name: "source",
        theirs: "answers to a group address",
        ours: "silent: the answer would go to everybody",
        rule: "15/11",
        explains: |request, pair| {
            request.is_from_group() && pair.only_theirs() && pair.theirs[0][0] & 1 != 0 && pair.settle()
        },
    },
    Entry {
        name: "wildcard change",
        theirs: "does what changes something to a wildcard address too: writes, strings, lists",
        ours: "silent, nothing done: one frame would overwrite a sector of every disk",
        rule: "15/13",
        explains: |request, pair| {
            request.is_wild() && request.changes() && pair.only_theirs() && pair.settle()
        },
    },
    Entry {
        name: "wildcard error",
        theirs: "answers a wildcard with an AoE error, a failed ATA command, or a read of 0 or 17 sectors",
        ours: "silent where it would have to refuse: a shelf full of slots would answer with a storm of errors",
        rule: "15/5",
        explains: |request, pair| {
            let refused = |theirs: &[u8]| {
                let failed = status_of(theirs).is_some_and(|(status, _)| status == 0x41);
                let count = request.is_ata(&[0x20, 0x24]) && !(1..=request.most).contains(&request.at(26));
                error_of(theirs).is_some() || failed || count
            };
            request.is_wild() && pair.only_theirs() && refused(&pair.theirs[0]) && pair.settle()
        },
    },
    Entry {
        name: "config length",
        theirs: "silent when a config string is longer than the frame or than 1024 bytes",
        ours: "error 2",
        rule: "15/14",
        explains: |request, pair| {
            request.command() == 1
                && (request.length() > 1024 || request.length() > request.frame.len())
                && pair.only_ours()
                && error_of(&pair.ours[0]) == Some(2)
                && pair.settle()
        },
    },
    Entry {
        name: "power mode silence",
        theirs: "silent to CHECK POWER MODE with a sector count of 1 to 254 (the length of the answer comes out negative)",
        ours: "answers",
        rule: "4.1/E5",
        explains: |request, pair| {
            request.is_ata(&[0xe5])
                && (1..=254).contains(&request.at(26))
                && request.at(24) & 1 == 0
                && pair.only_ours()
                && status_of(&pair.ours[0]) == Some((0x40, 0))
                && pair.settle()
        },
    },
    Entry {
        name: "flag bits",
        theirs: "echoes reserved flags, and the E flag, of the request",
        ours: "0; the E flag says whether there is an error",
        rule: "15/3",
        explains: |request, pair| {
            let echoed = request.at(14) & 0x07;
            let Some((ours, theirs)) = pair.both() else { return false };
            let extra = theirs[14] & !ours[14];
            // Not where vblade has an error of its own to tell.
            if extra == 0 || extra & !echoed != 0 || (extra & 4 != 0 && theirs[15] != request.at(15)) {
                return false;
            }
            theirs[14] &= !extra;
            true
        },
    },
    Entry {
        name: "error byte",
        theirs: "echoes the error byte of the request",
        ours: "0 where there is no error",
        rule: "15/4",
        explains: |request, pair| {
            let Some((_, theirs)) = pair.both() else { return false };
            let echoed = request.at(15) != 0 && theirs[15] == request.at(15) && theirs[14] & 4 == 0;
            if echoed {
                theirs[15] = 0;
            }
            echoed
        },
    },
    Entry {
        name: "unknown command",
        theirs: "error 1 with the whole request behind it",
        ours: "error 1 and nothing else: what an unknown command's header would be nobody knows",
        rule: "15/5",
        explains: |request, pair| {
            let known = request.command() > 3
                && are(pair, |ours, theirs| {
                    error_of(ours) == Some(1)
                        && theirs[14..24] == ours[14..24]
                        && theirs[24..] == request.frame[24..]
                        && theirs.len() > 24
                });
            if known {
                pair.theirs[0].truncate(24);
            }
            known
        },
    },
    Entry {
        name: "config body",
        theirs: "error 2 to an unknown config command, with the answer to a read behind it",
        ours: "error 2 with the header of the request",
        rule: "5/other",
        explains: |request, pair| {
            request.command() == 1
                && request.sub_command() > 5
                && are(pair, |ours, theirs| error_of(ours) == Some(2) && error_of(theirs) == Some(2))
                && pair.settle()
        },
    },
    Entry {
        name: "test and replace",
        theirs: "error 2: it does not know the command",
        ours: "served",
        rule: "5/5",
        explains: |request, pair| {
            request.command() == 1
                && request.sub_command() == 5
                && are(pair, |_, theirs| error_of(theirs) == Some(2))
                && pair.part()
        },
    },
    Entry {
        name: "config string of old bytes",
        theirs: "takes a length for good that is up to the length of the whole frame, and what an older frame left behind",
        ours: "error 2: a string has to be in its frame",
        rule: "5/length",
        explains: |request, pair| {
            request.command() == 1
                && request.sub_command() != 0
                && request.length() + 32 > request.frame.len()
                && are(pair, |ours, theirs| error_of(ours) == Some(2) && error_of(theirs) != Some(2))
                && pair.part()
        },
    },
    Entry {
        name: "config test of old bytes",
        theirs: "the same in a test, which does not match then",
        ours: "error 2",
        rule: "5/length",
        explains: |request, pair| {
            request.command() == 1
                && matches!(request.sub_command(), 1 | 2)
                && request.length() + 32 > request.frame.len()
                && pair.only_ours()
                && error_of(&pair.ours[0]) == Some(2)
                && pair.settle()
        },
    },
    Entry {
        name: "buffer count and firmware",
        theirs: "16 and 4019",
        ours: "its own",
        rule: "10/buffers",
        explains: |request, pair| {
            let Some((ours, theirs)) = pair.both() else { return false };
            let known = request.command() == 1
                && theirs.len() >= 32
                && theirs[24..28] == [0, 16, 0x40, 0x19]
                && ours[24..28] != theirs[24..28]
                && error_of(ours) != Some(2);
            if known {
                theirs[24..28].copy_from_slice(&ours[24..28]);
            }
            known
        },
    },
    Entry {
        name: "sector count",
        theirs: "17 at MTU 9000",
        ours: "16: 17 sectors are never 4 KiB aligned",
        rule: "15/43",
        explains: |request, pair| {
            let Some((ours, theirs)) = pair.both() else { return false };
            let known = request.command() == 1 && theirs.len() >= 32 && (theirs[28], ours[28]) == (17, 16);
            if known {
                theirs[28] = ours[28];
            }
            known
        },
    },
    Entry {
        name: "mask edit after a bad directive",
        theirs: "keeps what the directives before it did",
        ours: "nothing applied: an edit repeated after a lost answer gives the same list",
        rule: "15/37",
        explains: |request, pair| {
            // The answers are alike; the lists are not, which a read would show.
            let known = request.edits_mask()
                && request.at(27) > 1
                && are(pair, |ours, theirs| ours[26] == 2 && theirs[26] == 2 && ours[27] > 0);
            pair.renew |= known;
            known
        },
    },
    Entry {
        name: "mask list",
        theirs: "a third address overwrites the second",
        ours: "a list of 255",
        rule: "15/36",
        explains: |request, pair| {
            request.edits_mask()
                && are(pair, |ours, theirs| {
                    (ours[14], theirs[14], ours[26], theirs[26]) == (0x18, 0x18, 0, 0)
                        && ours[27] >= 3
                        && theirs[28..44] != ours[28..44]
                })
                && pair.part()
        },
    },
    Entry {
        name: "mask count beyond the frame",
        theirs: "works on in what older frames left behind",
        ours: "error 2, nothing applied",
        rule: "6/count",
        explains: |request, pair| {
            request.edits_mask()
                && 28 + 8 * usize::from(request.at(27)) > request.frame.len()
                && are(pair, |ours, theirs| error_of(ours) == Some(2) && error_of(theirs).is_none())
                && pair.part()
        },
    },
    Entry {
        name: "mask reserved byte",
        theirs: "echoes the reserved byte, and MError of a request it answers with an error",
        ours: "0 in what it answers itself",
        rule: "6/reserved",
        explains: |request, pair| {
            let Some((ours, theirs)) = pair.both() else { return false };
            let known = request.command() == 2
                && request.at(24) != 0
                && theirs[24] == request.at(24)
                && ours[24] == 0;
            if known {
                theirs[24] = 0;
            }
            known
        },
    },
    Entry {
        name: "refused reserve",
        theirs: "error 2 with the list in force",
        ours: "error 2 with the header of the request",
        rule: "15/7",
        explains: |request, pair| {
            request.command() == 3
                && are(pair, |ours, theirs| {
                    error_of(ours) == Some(2) && error_of(theirs) == Some(2) && ours != theirs
                })
                && are(pair, |_, theirs| theirs.len() == 26 + 6 * usize::from(theirs[25]))
                && pair.settle()
        },
    },
    Entry {
        name: "reserve count by another",
        theirs: "error 6 to a set by another host, before it looks whether its addresses are there",
        ours: "error 2 first: what cannot be read is not judged",
        rule: "7/count",
        explains: |request, pair| {
            request.command() == 3
                && request.sub_command() == 1
                && 26 + 6 * usize::from(request.at(25)) > request.frame.len()
                && are(pair, |ours, theirs| (error_of(ours), error_of(theirs)) == (Some(2), Some(6)))
                && pair.settle()
        },
    },
    Entry {
        name: "reserve duplicates",
        theirs: "an address twice is two entries",
        ours: "one",
        rule: "7/set",
        explains: |request, pair| {
            let twice = |list: &[u8]| {
                let hosts = list.chunks_exact(6).filter(|host| **host == HOST);
                hosts.count() > 1
            };
            request.command() == 3
                && are(pair, |ours, theirs| twice(&theirs[26..]) && !twice(&ours[26..]))
                && pair.part()
        },
    },
    Entry {
        name: "count 0",
        theirs: "a read or write of nothing succeeds",
        ours: "41/04: in ATA 0 means 256 or 65536",
        rule: "15/23",
        explains: |request, pair| {
            request.is_ata(&SHARED)
                && request.at(26) == 0
                && are(pair, |ours, theirs| {
                    status_of(ours) == ABORTED && matches!(status_of(theirs), Some((0x40, 0) | (0x41, 0x10)))
                })
                && pair.settle()
        },
    },
    Entry {
        name: "count above the maximum",
        theirs: "AoE error 2",
        ours: "41/04: Linux drops AoE errors and repeats the command for 180 s",
        rule: "15/24",
        explains: |request, pair| {
            request.is_ata(&SHARED)
                && request.at(26) > request.most
                && are(pair, |ours, theirs| status_of(ours) == ABORTED && error_of(theirs) == Some(2))
                && pair.settle()
        },
    },
    Entry {
        name: "count 17",
        theirs: "takes 17 sectors at MTU 9000",
        ours: "41/04 above the 16 that it advertises",
        rule: "15/43",
        explains: |request, pair| {
            request.is_ata(&SHARED)
                && (request.most, request.at(26)) == (16, 17)
                && are(pair, |ours, theirs| status_of(ours) == ABORTED && error_of(theirs).is_none())
                && pair.part()
        },
    },
    Entry {
        name: "write data missing",
        theirs: "AoE error 2",
        ours: "41/04, for the same reason",
        rule: "15/25",
        explains: |request, pair| {
            request.is_ata(&[0x30, 0x34])
                && request.data() < 512 * usize::from(request.at(26))
                && are(pair, |ours, theirs| status_of(ours) == ABORTED && error_of(theirs) == Some(2))
                && pair.settle()
        },
    },
    Entry {
        name: "range before data",
        theirs: "looks at the range before it looks for the data: 41/10",
        ours: "41/04: data first",
        rule: "4/order-5",
        explains: |request, pair| {
            request.is_ata(&[0x30, 0x34])
                && request.data() < 512 * usize::from(request.at(26))
                && are(pair, |ours, theirs| {
                    status_of(ours) == ABORTED && status_of(theirs) == Some((0x41, 0x10))
                })
                && pair.settle()
        },
    },
    Entry {
        name: "IDENTIFY count",
        theirs: "error 2 unless the count is 1",
        ours: "any count",
        rule: "15/22",
        explains: |request, pair| {
            request.is_ata(&[0xec])
                && request.at(26) != 1
                && are(pair, |ours, theirs| ours.len() == 548 && error_of(theirs) == Some(2))
                && pair.settle()
        },
    },
    Entry {
        name: "FLUSH CACHE",
        theirs: "status 00, and in the error register what was in memory",
        ours: "40/00",
        rule: "15/28",
        explains: |request, pair| {
            let Some((ours, theirs)) = pair.both() else { return false };
            let known = request.is_ata(&[0xe7])
                && status_of(ours) == Some((0x40, 0))
                && status_of(theirs).is_some_and(|(status, _)| status == 0);
            if known {
                theirs[25..28].copy_from_slice(&ours[25..28]);
            }
            known
        },
    },
    Entry {
        name: "FLUSH CACHE EXT",
        theirs: "41/04",
        ours: "40/00",
        rule: "15/29",
        explains: |request, pair| {
            request.is_ata(&[0xea])
                && are(pair, |ours, theirs| {
                    status_of(ours) == Some((0x40, 0)) && status_of(theirs) == ABORTED
                })
                && pair.settle()
        },
    },
    Entry {
        name: "more ATA commands",
        theirs: "41/04 to all but 20, 24, 30, 34, E5, E7 and EC",
        ours: "serves DMA, MULTIPLE, verify, TRIM, SMART and the like",
        rule: "4.1/other",
        explains: |request, pair| {
            request.is_ata(&MORE)
                && are(pair, |ours, theirs| {
                    let differ = status_of(ours).is_some_and(|ours| Some(ours) != ABORTED);
                    differ && status_of(theirs) == ABORTED
                })
                && { if request.changes() { pair.part() } else { pair.settle() } }
        },
    },
    Entry {
        name: "IDENTIFY page",
        theirs: "names, and next to nothing else",
        ours: "geometry, write cache, flushes, SMART, TRIM, rotation, checksum",
        rule: "4.2/83",
        explains: |request, pair| {
            let Some((ours, theirs)) = pair.both() else { return false };
            if !request.is_ata(&[0xec]) || ours.len() != 548 || theirs.len() != 548 {
                return false;
            }
            let word = |frame: &[u8], n: usize| u16::from_le_bytes([frame[36 + 2 * n], frame[37 + 2 * n]]);
            // What initiators take for the disk's size and kind is the same.
            let alike =
                [60, 61, 100, 101, 102, 103, 49, 47, 50].iter().all(|&n| word(ours, n) == word(theirs, n));
            let wide = word(ours, 83) & word(theirs, 83) & 0x5400 == 0x5400;
            let known = alike && wide && u64::from(word(ours, 60)) == SECTORS && ours[36..] != theirs[36..];
            if known {
                theirs[36..].copy_from_slice(&ours[36..]);
            }
            known
        },
    },
    Entry {
        name: "W on a read",
        theirs: "W decides how long the answer is: 60 bytes of a read",
        ours: "the opcode decides",
        rule: "15/32",
        explains: |request, pair| {
            request.is_ata(&[0x20, 0x24, 0xec])
                && request.at(24) & 1 != 0
                && are(pair, |ours, theirs| {
                    ours.len() > 60
                        && theirs.len() == 60
                        && (request.at(27) == 0xec || theirs[36..] == ours[36..60])
                })
                && {
                    let head = pair.theirs[0][..36].to_vec();
                    pair.settle();
                    pair.theirs[0][..36].copy_from_slice(&head);
                    true
                }
        },
    },
    Entry {
        name: "no W on a write",
        theirs: "gives the data back",
        ours: "the opcode decides",
        rule: "15/32",
        explains: |request, pair| {
            let known = request.is_ata(&[0x30, 0x34])
                && request.at(24) & 1 == 0
                && are(pair, |ours, theirs| {
                    ours.len() == 60 && theirs.len() > 60 && request.frame[36..].starts_with(&theirs[36..])
                });
            if known {
                pair.theirs[0].truncate(36);
            }
            known
        },
    },
    Entry {
        name: "reserved ATA bytes",
        theirs: "echoed",
        ours: "0",
        rule: "4/good",
        explains: |request, pair| {
            let Some((ours, theirs)) = pair.both() else { return false };
            let known = request.command() == 0
                && theirs.len() >= 36
                && ours[34..36] == [0, 0]
                && theirs[34..36] != [0, 0]
                && theirs[34..36] == request.frame[34..36];
            if known {
                theirs[34..36].fill(0);
            }
            known
        },
    },
    Entry {
        name: "padding of ATA answers",
        theirs: "60 bytes, with what was in the buffer behind the registers: the data of a write, an older frame",
        ours: "zeros",
        rule: "15/8",
        explains: |request, pair| {
            let Some((ours, theirs)) = pair.both() else { return false };
            let known = request.command() == 0
                && (ours.len(), theirs.len()) == (60, 60)
                && theirs[36..].iter().any(|&b| b != 0);
            if known {
                theirs[36..].fill(0);
            }
            known
        },
    },
    Entry {
        name: "short answers",
        theirs: "24 to 59 bytes",
        ours: "60: aoetools take no less",
        rule: "15/8",
        explains: |_, pair| {
            let Some((_, theirs)) = pair.both() else { return false };
            let known = theirs.len() < 60;
            if known {
                theirs.resize(60, 0);
            }
            known
        },
    },
];
