//! Why an appliance could not start, each as one plain line.
//!
//! Not here: what was tried (`start`).
//! Invariant: every message says what, which, and what to do.

use crate::appliance::guard::GuardError;
use crate::appliance::serve::slots::SlotError;
use crate::appliance::topology::TopologyError;
use crate::exit::Exit;
use crate::frame::LayoutError;
use crate::net::ladder::{EstablishError, LadderError};
use crate::net::nic::NicError;
use crate::net::steer::SteerError;
use crate::net::xsk::XskError;
use crate::shelf::RoutesError;
use crate::storage::uring::SetupError;
use crate::worker;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why it could not start. Every message says what, which, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be had.
    #[error("state directory {}: {}; {}", path.display(), Causes(source), state_remedy(source))]
    StateDirectory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A slot cannot be served.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// An interface cannot be used.
    #[error("{}", Causes(.0))]
    Nic(#[from] NicError),
    /// It cannot carry one sector.
    #[error(
        "{interface}: MTU {mtu} does not carry one sector; raise it: ip link set dev {interface} mtu 1500 (or 9000)"
    )]
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
    },
    /// Tags that the card takes out are not seen by the XDP program.
    #[error(
        "{interface} takes VLAN tags out of frames, so slot {slot} on VLAN {vlan} would answer hosts that it must not; \
         turn that off: ethtool -K {interface} rxvlan off"
    )]
    StripsVlan {
        /// The interface.
        interface: String,
        /// The slot, as an address.
        slot: String,
        /// Its VLAN.
        vlan: u16,
    },
    /// A queue that there is not.
    #[error("{interface}: queue {queue} cannot be served: there are {queues} that receive (0 to {}); {remedy}", queues - 1)]
    NoSuchQueue {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u16,
        /// How many there are.
        queues: u32,
        /// What to do.
        remedy: &'static str,
    },
    /// None of the queues to serve can send an answer.
    #[error(
        "{interface}: the queues to serve can only receive, because there are {queues} to transmit; \
         serve queue 0 too, or give the interface more with ethtool -L"
    )]
    NoTransmitQueue {
        /// The interface.
        interface: String,
        /// Queues that transmit, counted from 0.
        queues: u32,
    },
    /// No mode is possible.
    #[error("{}", Causes(.0))]
    Ladder(#[from] LadderError<EstablishError>),
    /// Ports whose modes cannot share memory.
    #[error(
        "{first} runs as {first_rung}, {second} as {second_rung}, and interfaces of one xshelf share frame memory; \
         give them the same mode, or run one xshelf for each"
    )]
    Mixed {
        /// An interface.
        first: String,
        /// Its rung.
        first_rung: String,
        /// Another.
        second: String,
        /// Its rung.
        second_rung: String,
    },
    /// The XDP program.
    #[error("{}", Causes(.0))]
    Steer(#[from] SteerError),
    /// Another target answers for our addresses, but each time after it was decided to serve them.
    #[error(
        "another target keeps answering for one of our addresses, but too late to tell which; stop it, or say \
         rivals = \"alarm\" for our slots"
    )]
    Unsure,
    /// The guard against other targets with our addresses.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Other targets have the addresses of all slots.
    #[error(
        "no slot can be served, because other targets answer for {slots}; the lines before this name them and say \
         what to do"
    )]
    AllTaken {
        /// The slots.
        slots: String,
    },
    /// No slot can be opened, for the devices have not answered what they were sent before.
    #[error(
        "none of the slots {slots} can be opened before its device has answered what it was sent; check the devices"
    )]
    AllHeld {
        /// The slots.
        slots: String,
    },
    /// Memory or a socket.
    #[error("{}", Causes(.0))]
    Xsk(#[from] XskError),
    /// Not enough huge pages, though they were demanded.
    #[error(
        "frame memory takes {pages} huge pages of 2 MiB, and there are not enough; \
         raise vm.nr_hugepages, or say huge-pages = \"try\""
    )]
    HugePages {
        /// How many it takes.
        pages: u64,
    },
    /// Workers cannot be placed.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Memory cannot be laid out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Slots cannot be dealt out.
    #[error(transparent)]
    Routes(#[from] RoutesError),
    /// More queues for a worker than it can watch.
    #[error(
        "worker {worker} would have {queues} queues, and can watch {most}; use more workers or fewer queues"
    )]
    TooManyQueues {
        /// The worker.
        worker: u16,
        /// Its queues.
        queues: usize,
        /// The most.
        most: usize,
    },
    /// The thread that keeps the state of slots cannot start.
    #[error("cannot start the thread that keeps the state of slots: {source}; raise TasksMax (ulimit -u)")]
    StateThread {
        /// Why not.
        source: io::Error,
    },
    /// A worker cannot start.
    #[error("{}", Causes(.0))]
    Spawn(#[from] worker::SpawnError<StorageError>),
    /// Something small that the kernel refuses only when it is out of it.
    #[error("cannot {what}: {source}; raise LimitNOFILE (ulimit -n)")]
    Descriptors {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Why a worker has no storage.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The ring.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A descriptor that is to wake it.
    #[error("cannot watch a descriptor: {0}")]
    Watch(io::Error),
}

fn state_remedy(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::WouldBlock => "another xshelf uses it: stop that, or name another directory",
        io::ErrorKind::NotFound => "make the directory above it first",
        _ => "name a directory that this user can write",
    }
}

/// An error with what is behind it, as far as it does not say so itself.
pub(crate) struct Causes<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(e) = cause {
            let text = e.to_string();
            if !said.contains(&text) {
                said.push_str(": ");
                said.push_str(&text);
            }
            cause = e.source();
        }
        f.write_str(&said)
    }
}

impl StartError {
    /// The interface without which it might start, if there is one.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Nic(e) => Some(e.interface()),
            Self::Mtu { interface, .. }
            | Self::StripsVlan { interface, .. }
            | Self::NoSuchQueue { interface, .. }
            | Self::NoTransmitQueue { interface, .. }
            | Self::Mixed { second: interface, .. }
            | Self::Ladder(LadderError::Exhausted { interface, .. }) => Some(interface),
            Self::Ladder(LadderError::Fatal(EstablishError::Steer(e))) | Self::Steer(e) => {
                Some(e.interface())
            }
            Self::Ladder(LadderError::Fatal(EstablishError::Xsk(e))) | Self::Xsk(e) => e.interface(),
            _ => None,
        }
    }

    /// The exit code for it: what another configuration would mend is [`Exit::Usage`], and so systemd does not try
    /// again; what the machine may offer a moment later is [`Exit::Environment`].
    pub fn exit(&self) -> Exit {
        match self {
            Self::Slot(SlotError::Twice { .. })
            | Self::Mixed { .. }
            | Self::Layout(_)
            | Self::Routes(_)
            | Self::Topology(TopologyError::NoSuchWorker { .. })
            | Self::TooManyQueues { .. } => Exit::Usage,
            _ => Exit::Environment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let inner = io::Error::from_raw_os_error(libc::EIO);
        let steer =
            SteerError::Kernel { interface: "eth1".into(), what: "attach the XDP program", source: inner };
        assert_eq!(
            StartError::from(steer).to_string(),
            "eth1: cannot attach the XDP program: Input/output error (os error 5)"
        );
    }
}
