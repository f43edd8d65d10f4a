//! What can keep an initiator command from doing its work, and which exit code that is.
//!
//! Not here: what a target answers (`wire::Failure`); a target that answers with an error is a finding, not one of
//! these. Invariant: every message names the interface or address it is about and says what to do next.

use crate::exit::Exit;
use crate::protocol::Address;
use std::io;

/// Why a command could not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface does not exist in this network namespace.
    #[error(
        "no interface {name} here; there are: {available}. Another network namespace? `ip netns exec NAME …`"
    )]
    NoInterface {
        /// What was asked for.
        name: String,
        /// What there is, comma separated.
        available: String,
    },
    /// The interface is administratively down.
    #[error("interface {name} is down; `ip link set {name} up`")]
    Down {
        /// The interface.
        name: String,
    },
    /// AoE travels in Ethernet frames only.
    #[error("{name} is no Ethernet interface (hardware type {hardware}); AoE needs one")]
    NotEthernet {
        /// The interface.
        name: String,
        /// ARPHRD_* number.
        hardware: u16,
    },
    /// The interface went away while in use.
    #[error("interface {name} was removed while in use")]
    Gone {
        /// The interface.
        name: String,
    },
    /// Raw sockets are not allowed.
    #[error(
        "no permission to open a raw socket on {name}: it needs CAP_NET_RAW; run as root, or grant it once with \
         `setcap cap_net_raw+ep /path/to/xshelf`"
    )]
    Permission {
        /// The interface.
        name: String,
    },
    /// Any other refusal of the kernel.
    #[error("{what} on {name}: {source}")]
    Socket {
        /// What was attempted.
        what: &'static str,
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An address did not answer at all.
    #[error("no answer from {address} on {interface}{hint}")]
    NoAnswer {
        /// Who was asked.
        address: Address,
        /// Where.
        interface: String,
        /// What to look at, starting with punctuation.
        hint: String,
    },
    /// The target answered, but with what the command cannot work on.
    #[error("{address} on {interface}: {what}")]
    Unusable {
        /// Who answered.
        address: Address,
        /// Where.
        interface: String,
        /// What is wrong.
        what: String,
    },
    /// The arguments contradict each other or what was found.
    #[error("{0}")]
    Usage(String),
    /// The report could not be written.
    #[error("cannot write the report: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// The exit code this error ends the process with.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::NoAnswer { .. } => Exit::NoAnswer,
            Self::Unusable { .. } => Exit::Problem,
            Self::NoInterface { .. }
            | Self::Down { .. }
            | Self::NotEthernet { .. }
            | Self::Gone { .. }
            | Self::Permission { .. }
            | Self::Socket { .. }
            | Self::Output(_) => Exit::Environment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_map_to_the_documented_codes() {
        let address = Address { shelf: 7, slot: 0 };
        let silent = Error::NoAnswer { address, interface: "eth1".into(), hint: "; hint".into() };
        assert_eq!(silent.exit(), Exit::NoAnswer);
        assert_eq!(silent.to_string(), "no answer from 7.0 on eth1; hint");
        assert_eq!(Error::Usage("x".into()).exit(), Exit::Usage);
        assert_eq!(Error::Permission { name: "eth1".into() }.exit(), Exit::Environment);
    }
}
