//! Cases: what they are, what counts as a good answer, and how one is played against a target of any kind.
//!
//! Not here: a target. `core` is one without a kernel; the tests between namespaces bring one with everything.
//! Invariant: nothing of the product is used here, so that it cannot agree with itself.

use serde::Deserialize;
use std::fmt::Write as _;

/// Sectors of a fresh slot, unless its case says otherwise; these have content.
pub const SECTORS: u64 = 2048;

/// What a fresh slot holds in sector `lba`.
pub fn sector(lba: u64) -> impl Iterator<Item = u8> {
    (0..512u64).map(move |byte| (31 * lba + byte) as u8)
}

/// Bytes, written as hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Hex(pub Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(from)?;
        let pairs = digits.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        pairs.collect::<Option<_>>().map(Self).ok_or_else(|| serde::de::Error::custom("not hexadecimal"))
    }
}

impl std::fmt::Debug for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Bytes as digits, cut where they are many.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(100) {
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > 100 {
        let _ = write!(text, "... ({} bytes)", bytes.len());
    }
    text
}

/// The state of the slot before a case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pre {
    pub mtu: Option<u32>,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub vlan: u16,
    pub sectors: Option<u64>,
    pub slots: Option<Vec<u8>>,
    #[serde(default)]
    pub write_cache: bool,
    pub trim: Option<bool>,
    pub health: Option<String>,
    #[serde(default)]
    pub allow: Vec<String>,
    pub reserved_answer: Option<String>,
    pub serial: Option<String>,
    pub model: Option<String>,
    pub firmware: Option<String>,
    pub wwn: Option<String>,
    pub physical_block: Option<u32>,
    pub misalignment: Option<u32>,
    #[serde(default)]
    pub rotational: bool,
    pub store: Option<String>,
    pub fault: Option<(String, i32)>,
}

/// Bounds of a field.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    field: String,
    offset: usize,
    size: usize,
    min: Option<u64>,
    max: Option<u64>,
    mask: Option<u64>,
    equals: Option<u64>,
    #[serde(default)]
    sum: bool,
    #[serde(default, rename = "le")]
    _little_endian: bool,
    #[serde(default, rename = "when")]
    _when: String,
}

/// What has to come back.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    reply: Option<bool>,
    response_hex: Option<Hex>,
    significant_bytes: Option<usize>,
    #[serde(default)]
    dont_care: Vec<(usize, usize)>,
    compare_only: Option<Vec<(usize, usize)>>,
    #[serde(default)]
    constraints: Vec<Constraint>,
    trailing: Option<String>,
    #[serde(default)]
    also_acceptable: Vec<Expect>,
    /// Frames that differ in the slot they come from only.
    replies: Option<usize>,
    content: Option<(usize, u64, u64)>,
    length: Option<usize>,
    #[serde(default, rename = "why")]
    _why: String,
}

impl Expect {
    /// Whether a frame has to come back.
    pub fn answered(&self) -> bool {
        self.reply.unwrap_or(self.response_hex.is_some())
    }

    /// How many frames have to come back.
    pub fn replies(&self) -> usize {
        if self.answered() { self.replies.unwrap_or(1) } else { 0 }
    }

    /// Compares as the format says. On top of it a reply has to have the 60 bytes of a real wire, zeros behind what
    /// it says included.
    fn judge(&self, frames: &[Vec<u8>]) -> Result<(), String> {
        if frames.len() != self.replies() {
            let first = frames.first().map_or(String::new(), |f| format!(": {}", hex(f)));
            return Err(format!("{} replies instead of {}{first}", frames.len(), self.replies()));
        }
        frames.iter().try_for_each(|frame| self.judge_one(frame))
    }

    fn judge_one(&self, frame: &[u8]) -> Result<(), String> {
        let Some(Hex(want)) = &self.response_hex else { return Ok(()) };
        let significant = self.significant_bytes.unwrap_or(36);
        let free = |i: usize| {
            self.dont_care.iter().any(|&(at, n)| (at..at + n).contains(&i))
                || (self.replies.is_some() && i == 18)
        };
        let mut bad = Vec::new();
        let compared: Vec<usize> = match &self.compare_only {
            Some(ranges) => ranges.iter().flat_map(|&(at, n)| at..at + n).collect(),
            None => (0..significant).filter(|&i| !free(i)).collect(),
        };
        for i in compared {
            match (want.get(i), frame.get(i)) {
                (want, got) if want == got => {}
                (Some(want), Some(got)) => bad.push(format!("[{i}] {got:02x} instead of {want:02x}")),
                _ => bad.push(format!("[{i}] is missing")),
            }
        }
        let exact = match (self.length, self.content) {
            (Some(length), _) => Some(length),
            (None, Some((at, _, sectors))) => Some(at + 512 * sectors as usize),
            (None, None) if self.compare_only.is_some() || self.trailing.is_some() => None,
            (None, None) => Some(want.len()),
        };
        if exact.is_some_and(|length| length != frame.len()) || frame.len() < 60 {
            bad.push(format!("{} bytes instead of {}", frame.len(), exact.unwrap_or(60)));
        }
        if let Some((at, lba, sectors)) = self.content {
            let data = (lba..lba + sectors).flat_map(sector);
            if !frame.get(at..).unwrap_or_default().iter().copied().eq(data) {
                bad.push(format!("the data is not that of {sectors} sectors from {lba}"));
            }
        } else if self.trailing.is_none() && self.compare_only.is_none() {
            if let Some(i) = (significant..frame.len()).find(|&i| frame[i] != 0 && !free(i)) {
                bad.push(format!("[{i}] {:02x} in the padding", frame[i]));
            }
        }
        bad.extend(self.constraints.iter().filter_map(|c| c.judge(frame).err()));
        let more = bad.len().saturating_sub(6);
        bad.truncate(6);
        match bad.join("; ") {
            none if none.is_empty() => Ok(()),
            text if more == 0 => Err(text),
            text => Err(format!("{text}; and {more} more")),
        }
    }

    /// What may come back: this, or one of the others that are as good.
    fn all<'a>(&'a self, others: &'a [Self]) -> impl Iterator<Item = Self> + 'a {
        let inherited = |other: &Self| Self {
            significant_bytes: other.significant_bytes.or(self.significant_bytes),
            ..other.clone()
        };
        std::iter::once(self.clone()).chain(self.also_acceptable.iter().chain(others).map(inherited))
    }
}

impl Constraint {
    fn judge(&self, frame: &[u8]) -> Result<(), String> {
        let bytes = frame
            .get(self.offset..self.offset + self.size)
            .ok_or_else(|| format!("{} is missing", self.field))?;
        if self.sum {
            let sum = bytes.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
            return match u64::from(sum) == self.equals.unwrap_or(0) {
                true => Ok(()),
                false => Err(format!("{}: the bytes add up to {sum:02x}", self.field)),
            };
        }
        let big = bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b));
        let little = bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
        let good = match (self.mask, self.equals) {
            (Some(mask), Some(equals)) => little & mask == equals,
            _ => big >= self.min.unwrap_or(0) && big <= self.max.unwrap_or(u64::MAX),
        };
        if good { Ok(()) } else { Err(format!("{} is {}", self.field, hex(bytes))) }
    }
}

/// What is sent after the request of a case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `None`: the target speaks on its own.
    pub request_hex: Option<Hex>,
    pub expect: Option<Expect>,
    /// The target starts anew before it.
    #[serde(default)]
    pub restart: bool,
}

/// One case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    pub rule: Vec<String>,
    pub title: String,
    pub level: String,
    #[serde(default)]
    pub pre: Pre,
    #[serde(default)]
    pub setup_hex: Vec<Hex>,
    /// `None`: the target speaks on its own.
    pub request_hex: Option<Hex>,
    pub expect: Expect,
    #[serde(default)]
    pub also_acceptable: Vec<Expect>,
    #[serde(default)]
    pub then: Vec<Step>,
    /// "core": only the pure core can be brought into that state.
    pub runs: Option<String>,
    #[serde(default, rename = "group")]
    _group: String,
    #[serde(default, rename = "why")]
    _why: String,
    #[serde(default, rename = "sources")]
    _sources: String,
    #[serde(default, rename = "observed")]
    _observed: serde_json::Value,
}

impl Case {
    /// How a deviation is reported: which case, how much it matters, for which rules.
    pub fn name(&self) -> String {
        format!("{} [{}, {}] {}", self.id, self.level, self.rule.join(" "), self.title)
    }

    /// All frames it sends.
    pub fn requests(&self) -> impl Iterator<Item = &[u8]> {
        let then = self.then.iter().filter_map(|step| step.request_hex.as_ref());
        self.setup_hex.iter().chain(&self.request_hex).chain(then).map(|hex| &hex.0[..])
    }
}

#[derive(Deserialize)]
struct File {
    format: String,
    vectors: Vec<Case>,
}

/// The cases of all files.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, text) in [
        ("aoe-vectors.json", include_str!("aoe-vectors.json")),
        ("extended.json", include_str!("extended.json")),
    ] {
        let file: File = serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(file.format, "aoe-vectors/1", "{name}");
        cases.extend(file.vectors);
    }
    cases
}

/// Something that answers frames.
pub trait Target {
    /// Sends a frame and gives what comes back for it. `wanted` frames are expected: the target may stop waiting when
    /// it has that many and is sure that no more come. `or_none`: silence would be as good.
    fn ask(&mut self, frame: &[u8], wanted: usize, or_none: bool) -> Vec<Vec<u8>>;

    /// Frames it has sent on its own since they were last taken; waits for one that `wanted` likes, if there are to be any.
    fn spoken(&mut self, wanted: &dyn Fn(&[u8]) -> bool) -> Vec<Vec<u8>>;

    /// Starts it anew, with the disk and the state that it has.
    fn restart(&mut self);
}

/// Whether a frame is one that a target sends on its own, and no answer to `request`.
pub fn is_announcement(frame: &[u8], request: Option<&[u8]>) -> bool {
    let at = if frame.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 };
    let Some(&[flags, _, _, _, _, 1, 0, 0, 0, 0]) = frame.get(at..at + 10) else { return false };
    let asked_with_tag_0 = request.is_some_and(|r| r.get(20..24) == Some(&[0; 4]));
    flags & 0x0c == 0x08 && (frame[..6] == [0xff; 6] || !asked_with_tag_0)
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// Another answer that is as good.
    Alternative,
    Deviates(String),
}

/// Plays one case against a target in the state the case starts from.
pub fn play(case: &Case, target: &mut dyn Target) -> Verdict {
    for frame in &case.setup_hex {
        // Setups are changes and writes, and every one of them is answered.
        if target.ask(&frame.0, 1, false).len() != 1 {
            return Verdict::Deviates(format!("setup {frame:?} got no answer"));
        }
    }
    let mut verdict = Verdict::Same;
    match step(target, case.request_hex.as_ref(), &case.expect, &case.also_acceptable) {
        Ok(true) => {}
        Ok(false) => verdict = Verdict::Alternative,
        Err(why) => return Verdict::Deviates(why),
    }
    for (i, next) in case.then.iter().enumerate() {
        if next.restart {
            target.restart();
        }
        let Some(expect) = &next.expect else { continue };
        if let Err(why) = step(target, next.request_hex.as_ref(), expect, &[]) {
            return Verdict::Deviates(format!("then {i}: {why}"));
        }
    }
    verdict
}

fn step(
    target: &mut dyn Target,
    request: Option<&Hex>,
    expect: &Expect,
    others: &[Expect],
) -> Result<bool, String> {
    let Some(request) = request else {
        let wanted = |frame: &[u8]| expect.judge_one(frame).is_ok();
        let spoken = target.spoken(&wanted);
        if spoken.iter().any(|frame| wanted(frame)) {
            return Ok(true);
        }
        let frames: Vec<_> = spoken.iter().map(|frame| hex(frame)).collect();
        return Err(format!("it does not say on its own what it should, but {frames:?}"));
    };
    let or_none = expect.answered() && expect.all(others).any(|other| !other.answered());
    let frames = target.ask(&request.0, expect.replies(), or_none);
    let mut first = None;
    for (i, expect) in expect.all(others).enumerate() {
        match expect.judge(&frames) {
            Ok(()) => return Ok(i == 0),
            Err(why) => first = first.or(Some(why)),
        }
    }
    Err(first.unwrap_or_default())
}
