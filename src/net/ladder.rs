//! Which AF_XDP mode is in force on a port: the best rung of the ladder that driver and kernel accept.
//!
//! Not a guess: rungs that the facts do not rule out are tried, with the very flags they will be used with.
//! Invariant: the rung in force was bound once, and every better one has a reason why not.

use super::nic::Facts;
use super::steer::{AttachMode, QUEUES, Steer, SteerError};
use super::xsk::{Rings, Umem, XskError};
use crate::frame::QueueId;
use crate::limits;
use std::fmt;

/// What the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The best that works.
    #[default]
    Auto,
    /// Without copies, or not at all.
    ZeroCopy,
    /// In the driver with a copy, or not at all.
    Native,
    /// In the network stack; works with every driver, slowest.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::ZeroCopy => "zero-copy",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// A text that names no mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such mode; write auto, zero-copy, native or generic")]
pub struct NotAMode;

impl std::str::FromStr for Mode {
    type Err = NotAMode;

    fn from_str(s: &str) -> Result<Self, NotAMode> {
        [Self::Auto, Self::ZeroCopy, Self::Native, Self::Generic]
            .into_iter()
            .find(|mode| mode.to_string() == s)
            .ok_or(NotAMode)
    }
}

/// One way to run AF_XDP. "Segments": frames in several pieces, both ways (XDP_USE_SG, since Linux 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rung {
    /// The card moves frames from and to the UMEM, in several pieces.
    ZeroCopySegments,
    /// The card moves frames from and to the UMEM, one chunk each.
    ZeroCopy,
    /// The driver copies, in several pieces.
    NativeSegments,
    /// The driver copies, one chunk each.
    Native,
    /// The network stack copies, in several pieces.
    GenericSegments,
    /// The network stack copies, one chunk each.
    Generic,
}

/// Bytes of a frame that one chunk takes where the card writes it; drivers count in steps of 128 or more.
const ZERO_COPY_ROOM: u32 = 3584;
/// The same where kernels keep room for the fragments' table behind it.
const ZERO_COPY_SEGMENT_ROOM: u32 = 3200;
/// Bytes around an Ethernet payload that a driver reckons with: header, two VLAN tags, checksum.
const AROUND_PAYLOAD: u32 = 26;
/// Bytes of a frame that one chunk takes where it is copied.
const COPY_ROOM: u32 = (limits::CHUNK - limits::FRAME_AT) as u32;

impl Rung {
    /// All of them, best first.
    pub const ALL: [Self; 6] = [
        Self::ZeroCopySegments,
        Self::ZeroCopy,
        Self::NativeSegments,
        Self::Native,
        Self::GenericSegments,
        Self::Generic,
    ];

    /// Name for log and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZeroCopySegments => "zero-copy with segments",
            Self::ZeroCopy => "zero-copy",
            Self::NativeSegments => "native copy with segments",
            Self::Native => "native copy",
            Self::GenericSegments => "generic copy with segments",
            Self::Generic => "generic copy",
        }
    }

    /// Mode the XDP program is attached in.
    #[must_use]
    pub const fn attach_mode(self) -> AttachMode {
        match self {
            Self::GenericSegments | Self::Generic => AttachMode::Generic,
            _ => AttachMode::Native,
        }
    }

    /// Whether frames move without a copy.
    #[must_use]
    pub const fn zero_copy(self) -> bool {
        matches!(self, Self::ZeroCopySegments | Self::ZeroCopy)
    }

    /// Whether a frame may be in several pieces.
    #[must_use]
    pub const fn segments(self) -> bool {
        matches!(self, Self::ZeroCopySegments | Self::NativeSegments | Self::GenericSegments)
    }

    /// Whether ports of the two rungs can share one UMEM: it takes its flags from the first socket.
    #[must_use]
    pub fn shares_umem_with(self, other: Self) -> bool {
        (self.zero_copy(), self.segments()) == (other.zero_copy(), other.segments())
    }

    const fn allowed_by(self, mode: Mode) -> bool {
        match mode {
            Mode::Auto => true,
            Mode::ZeroCopy => self.zero_copy(),
            Mode::Native => matches!(self, Self::NativeSegments | Self::Native),
            Mode::Generic => matches!(self, Self::GenericSegments | Self::Generic),
        }
    }

    /// Pieces of the longest frame that can be sent, at most what a reply has.
    #[must_use]
    pub fn pieces(self, facts: &Facts) -> usize {
        match self {
            Self::ZeroCopySegments => match facts.zero_copy_segments {
                // The kernel does not say, and accepted: more than one it is.
                0 => 2,
                n => (n as usize).min(limits::REPLY_PIECES),
            },
            Self::NativeSegments | Self::GenericSegments => limits::REPLY_PIECES,
            _ => 1,
        }
    }

    /// Bytes of the longest frame that can be sent and received, Ethernet header included.
    #[must_use]
    pub fn frame_room(self, facts: &Facts) -> u32 {
        let pieces = self.pieces(facts) as u32;
        // A reply is a header chunk and, when its data does not fit there, whole chunks of a run.
        let sent = match pieces {
            0 | 1 => COPY_ROOM,
            n => (n - 1) * limits::CHUNK as u32 + limits::ATA_FRAME as u32,
        };
        let received = match self {
            Self::ZeroCopySegments => ZERO_COPY_SEGMENT_ROOM * pieces,
            Self::ZeroCopy => ZERO_COPY_ROOM,
            Self::NativeSegments | Self::GenericSegments => COPY_ROOM * limits::MAX_FRAGMENTS as u32,
            Self::Native | Self::Generic => COPY_ROOM,
        };
        sent.min(received)
    }

    /// Receive queues that frames can arrive on.
    #[must_use]
    pub fn queues(self, facts: &Facts) -> u32 {
        // veth does not note the queue on an skb, so generic XDP sees 0 always.
        if self.attach_mode() == AttachMode::Generic && facts.driver == "veth" {
            1
        } else {
            facts.queues.clamp(1, QUEUES)
        }
    }

    /// Why the facts rule the rung out, if they do.
    #[must_use]
    pub fn ruled_out(self, facts: &Facts) -> Option<String> {
        let driver = if facts.driver.is_empty() { "the driver" } else { &facts.driver };
        if let Some(features) = facts.features {
            if self.attach_mode() == AttachMode::Native && !features.native() {
                return Some(format!("{driver} has no native XDP"));
            }
            if self.zero_copy() && !features.zero_copy() {
                return Some(format!("{driver} has no zero-copy"));
            }
        }
        match self {
            Self::ZeroCopySegments if facts.zero_copy_segments == 1 => {
                Some(format!("{driver} moves only one piece a frame without a copy"))
            }
            Self::ZeroCopy if facts.mtu + AROUND_PAYLOAD > ZERO_COPY_ROOM => Some(format!(
                "MTU {} does not fit into one chunk (at most {})",
                facts.mtu,
                ZERO_COPY_ROOM - AROUND_PAYLOAD
            )),
            _ => None,
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a rung is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rung.
    pub rung: Rung,
    /// Why.
    pub reason: String,
}

/// The rung in force on a port. Prints as one line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The interface.
    pub interface: String,
    /// The rung.
    pub rung: Rung,
    /// The better rungs, and why they are not in force.
    pub refused: Vec<Refusal>,
    /// Longest frame that can be sent and received, in bytes: for [`limits::sectors_for`].
    pub frame_room: u32,
    /// Pieces a frame to send may have.
    pub pieces: usize,
    /// Receive queues to bind sockets to, counted from 0.
    pub queues: u32,
}

struct Refusals<'a>(&'a [Refusal]);

impl fmt::Display for Refusals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rungs refused for the same reason share it.
        for (i, group) in self.0.chunk_by(|a, b| a.reason == b.reason).enumerate() {
            f.write_str(if i == 0 { "" } else { "; " })?;
            for (j, refusal) in group.iter().enumerate() {
                write!(f, "{}{}", if j == 0 { "" } else { ", " }, refusal.rung)?;
            }
            write!(f, ": {}", group[0].reason)?;
        }
        Ok(())
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.interface, self.rung)?;
        if !self.refused.is_empty() {
            write!(f, " (no {})", Refusals(&self.refused))?;
        }
        Ok(())
    }
}

/// How trying a rung failed.
#[derive(Debug)]
pub enum Attempt<E> {
    /// The rung cannot be had here; the next one may.
    Refused(String),
    /// No rung will do better.
    Fatal(E),
}

/// Why no rung is in force.
#[derive(Debug, thiserror::Error)]
pub enum LadderError<E: std::error::Error + 'static> {
    /// All that the configuration allows were refused.
    #[error("{interface}: mode {mode} cannot be had: {}", Refusals(.refused))]
    Exhausted {
        /// The interface.
        interface: String,
        /// What was asked for.
        mode: Mode,
        /// The rungs and why not.
        refused: Vec<Refusal>,
    },
    /// Something that no other rung would mend.
    #[error(transparent)]
    Fatal(E),
}

/// Tries the rungs that `mode` allows and the facts do not rule out, best first.
///
/// # Errors
/// [`LadderError`]
pub fn climb<T, E: std::error::Error + 'static>(
    mode: Mode,
    facts: &Facts,
    mut attempt: impl FnMut(Rung) -> Result<T, Attempt<E>>,
) -> Result<(T, Standing), LadderError<E>> {
    let mut refused = Vec::new();
    for rung in Rung::ALL.into_iter().filter(|rung| rung.allowed_by(mode)) {
        let result = match rung.ruled_out(facts) {
            Some(reason) => Err(Attempt::Refused(reason)),
            None => attempt(rung),
        };
        match result {
            Ok(it) => {
                let standing = Standing {
                    interface: facts.name.clone(),
                    rung,
                    refused,
                    frame_room: rung.frame_room(facts),
                    pieces: rung.pieces(facts),
                    queues: rung.queues(facts),
                };
                return Ok((it, standing));
            }
            Err(Attempt::Refused(reason)) => {
                // Whoever prints the reason has named the interface.
                let reason = match reason.strip_prefix(&format!("{}: ", facts.name)) {
                    Some(rest) => rest.to_owned(),
                    None => reason,
                };
                refused.push(Refusal { rung, reason });
            }
            Err(Attempt::Fatal(error)) => return Err(LadderError::Fatal(error)),
        }
    }
    Err(LadderError::Exhausted { interface: facts.name.clone(), mode, refused })
}

/// Why a port could not be established.
#[derive(Debug, thiserror::Error)]
pub enum EstablishError {
    /// The XDP program.
    #[error(transparent)]
    Steer(#[from] SteerError),
    /// The AF_XDP socket.
    #[error(transparent)]
    Xsk(#[from] XskError),
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

impl From<SteerError> for Attempt<EstablishError> {
    fn from(error: SteerError) -> Self {
        match error {
            SteerError::Mtu { .. }
            | SteerError::RefusedAtMtu { .. }
            | SteerError::TooFewQueues { .. }
            | SteerError::NoNative { .. }
            | SteerError::Kernel { .. } => Self::Refused(with_causes(&error)),
            _ => Self::Fatal(error.into()),
        }
    }
}

impl From<XskError> for Attempt<EstablishError> {
    fn from(error: XskError) -> Self {
        match error {
            // EINVAL is what a kernel says that does not know the flag, and no facts tell that beforehand.
            XskError::Unsupported { rung, ref source, .. }
                if rung.segments() && source.raw_os_error() == Some(libc::EINVAL) =>
            {
                Self::Refused(format!(
                    "{} (frames of several pieces: Linux 6.6 or newer)",
                    with_causes(&error)
                ))
            }
            XskError::Unsupported { .. } | XskError::Downgraded { .. } => Self::Refused(with_causes(&error)),
            _ => Self::Fatal(error.into()),
        }
    }
}

/// Loads the XDP program, attaches it and finds the rung by binding a socket to queue 0 for a moment.
///
/// On return the program is attached in the rung's mode and passes everything, for no socket is inserted and no
/// shelf is set. Binding for good may meet a queue that the kernel has not let go yet; [`Umem::bind`] waits for it.
///
/// # Errors
/// [`LadderError`]; nothing is attached then.
pub fn establish(facts: &Facts, mode: Mode) -> Result<(Steer, Standing), LadderError<EstablishError>> {
    let fatal = |error: EstablishError| LadderError::Fatal(error);
    let mut steer = Steer::load(facts).map_err(|e| fatal(e.into()))?;
    let ((), standing) = climb(mode, facts, |rung| {
        let mode = rung.attach_mode();
        // Attaching may reset the card: once for each mode is enough.
        if steer.attached() != Some(mode) {
            steer.attach(mode, facts)?;
        }
        let umem = Umem::new(limits::RUN_CHUNKS as u32, Rings::TINY)?;
        umem.bind(QueueId(0), facts, 0, rung)?;
        Ok(())
    })?;
    Ok((steer, standing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::nic::XdpFeatures;
    use crate::protocol::ethernet::Mac;

    /// linux/netdev.h: basic, redirect, zero-copy, segments.
    const ALL_FEATURES: u64 = 1 | 2 | 8 | 32;

    fn facts(driver: &str, mtu: u32, features: Option<u64>, zero_copy_segments: u32) -> Facts {
        Facts {
            name: "eth1".into(),
            index: 2,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu,
            up: true,
            running: true,
            queues: 4,
            transmit_queues: 4,
            driver: driver.into(),
            features: features.map(XdpFeatures),
            zero_copy_segments,
            numa_node: None,
            strips_vlan: Some(false),
            programs: vec![],
        }
    }

    /// What `climb` ends with when the kernel accepts `accepted`, and which rungs it tried.
    fn climbed(mode: Mode, facts: &Facts, accepted: &[Rung]) -> (Option<Standing>, Vec<Rung>) {
        let mut tried = Vec::new();
        let result = climb(mode, facts, |rung| {
            tried.push(rung);
            if accepted.contains(&rung) {
                Ok(())
            } else {
                Err(Attempt::<SteerError>::Refused("the kernel says no".into()))
            }
        });
        (result.ok().map(|((), standing)| standing), tried)
    }

    #[test]
    fn the_best_accepted_rung_is_in_force_and_better_ones_say_why_not() {
        let facts = facts("ice", 9000, Some(ALL_FEATURES), 8);
        let (standing, tried) = climbed(Mode::Auto, &facts, &Rung::ALL);
        assert_eq!(tried, [Rung::ZeroCopySegments]);
        let standing = standing.unwrap();
        assert_eq!((standing.rung, standing.pieces, standing.queues), (Rung::ZeroCopySegments, 3, 4));
        assert!(standing.refused.is_empty());
        assert_eq!(standing.to_string(), "eth1: zero-copy with segments");

        let (standing, tried) = climbed(Mode::Auto, &facts, &[Rung::NativeSegments, Rung::Generic]);
        let standing = standing.unwrap();
        assert_eq!(standing.rung, Rung::NativeSegments);
        assert_eq!(tried, [Rung::ZeroCopySegments, Rung::NativeSegments], "zero-copy needs a smaller MTU");
        assert_eq!(
            standing.to_string(),
            "eth1: native copy with segments (no zero-copy with segments: the kernel says no; \
             zero-copy: MTU 9000 does not fit into one chunk (at most 3558))"
        );
    }

    #[test]
    fn facts_rule_rungs_out_without_trying() {
        for (facts, first) in [
            (facts("veth", 1500, Some(1 | 2 | 32), 0), Rung::NativeSegments),
            (facts("dummy", 1500, Some(32), 0), Rung::GenericSegments),
            (facts("mlx5_core", 1500, Some(ALL_FEATURES), 1), Rung::ZeroCopy),
            (facts("mlx5_core", 3558, Some(ALL_FEATURES), 1), Rung::ZeroCopy),
            (facts("mlx5_core", 3559, Some(ALL_FEATURES), 1), Rung::NativeSegments),
            // An old kernel does not tell: everything is tried.
            (facts("ixgbe", 1500, None, 0), Rung::ZeroCopySegments),
        ] {
            assert_eq!(climbed(Mode::Auto, &facts, &Rung::ALL).1, [first], "{facts:?}");
        }
    }

    #[test]
    fn a_pinned_mode_tries_nothing_else() {
        let facts = facts("ice", 1500, Some(ALL_FEATURES), 8);
        for (mode, rungs) in [
            (Mode::ZeroCopy, [Rung::ZeroCopySegments, Rung::ZeroCopy]),
            (Mode::Native, [Rung::NativeSegments, Rung::Native]),
            (Mode::Generic, [Rung::GenericSegments, Rung::Generic]),
        ] {
            assert_eq!(climbed(mode, &facts, &[]), (None, rungs.to_vec()));
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("fast".parse::<Mode>(), Err(NotAMode));
        let error = climb(Mode::ZeroCopy, &facts, |_| -> Result<(), _> {
            Err(Attempt::<SteerError>::Refused("no".into()))
        });
        assert_eq!(
            error.unwrap_err().to_string(),
            "eth1: mode zero-copy cannot be had: zero-copy with segments, zero-copy: no"
        );
    }

    #[test]
    fn a_fatal_failure_ends_the_climb() {
        let facts = facts("ice", 1500, Some(ALL_FEATURES), 8);
        let mut tries = 0;
        let result = climb(Mode::Auto, &facts, |_| -> Result<(), _> {
            tries += 1;
            let interface = "eth1".to_owned();
            Err(Attempt::Fatal(SteerError::NotPermitted { interface, what: "load" }))
        });
        assert!(matches!(result, Err(LadderError::Fatal(SteerError::NotPermitted { .. }))));
        assert_eq!(tries, 1);
    }

    #[test]
    fn a_kernel_without_segments_is_told_by_its_refusal() {
        let of = |rung, code| {
            let error = XskError::Unsupported {
                interface: "eth1".into(),
                queue: 0,
                queues: 2,
                rung,
                source: std::io::Error::from_raw_os_error(code),
            };
            match Attempt::<EstablishError>::from(error) {
                Attempt::Refused(reason) => reason,
                Attempt::Fatal(error) => panic!("{error}"),
            }
        };
        assert_eq!(
            of(Rung::NativeSegments, libc::EINVAL),
            "eth1: queue 0 (of 2) cannot do native copy with segments: Invalid argument (os error 22) \
             (frames of several pieces: Linux 6.6 or newer)"
        );
        assert!(!of(Rung::NativeSegments, libc::EOPNOTSUPP).contains("6.6"));
        assert!(!of(Rung::Native, libc::EINVAL).contains("6.6"));
    }

    #[test]
    fn the_room_of_a_rung_decides_the_sectors() {
        let sectors = |rung: Rung, mtu, segments| {
            limits::sectors_for(mtu, rung.frame_room(&facts("x", mtu, None, segments)))
        };
        assert_eq!(sectors(Rung::ZeroCopySegments, 9000, 8), 16);
        assert_eq!(sectors(Rung::ZeroCopySegments, 9000, 3), 16);
        assert_eq!(sectors(Rung::ZeroCopySegments, 9000, 2), 8);
        assert_eq!(sectors(Rung::ZeroCopySegments, 9000, 0), 8);
        assert_eq!(sectors(Rung::ZeroCopy, 3500, 1), 4);
        assert_eq!(sectors(Rung::NativeSegments, 9000, 0), 16);
        assert_eq!(sectors(Rung::GenericSegments, 9000, 0), 16);
        assert_eq!(sectors(Rung::Native, 9000, 0), 4);
        assert_eq!(sectors(Rung::Generic, 1500, 0), 2);
    }

    #[test]
    fn generic_mode_on_veth_has_one_queue() {
        let veth = facts("veth", 1500, None, 0);
        assert_eq!(Rung::GenericSegments.queues(&veth), 1);
        assert_eq!(Rung::NativeSegments.queues(&veth), 4);
        assert_eq!(Rung::Generic.queues(&facts("virtio_net", 1500, None, 0)), 4);
    }

    #[test]
    fn rungs_share_a_umem_when_their_bind_flags_are_equal() {
        assert!(Rung::NativeSegments.shares_umem_with(Rung::GenericSegments));
        assert!(!Rung::NativeSegments.shares_umem_with(Rung::Native));
        assert!(!Rung::ZeroCopySegments.shares_umem_with(Rung::NativeSegments));
    }
}
