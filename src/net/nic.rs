//! Facts about a network interface, as the kernel tells them now.
//!
//! Not configuration: nothing is changed here, and nothing is cached.
//! Invariant: all facts come from the network namespace of the calling thread; where `/sys` shows another one
//! (it belongs to the mount, not to the thread) it is not believed.

use super::sys;
use crate::protocol::ethernet::Mac;
use std::fmt;
use std::io;
use std::path::Path;

/// What the driver can do with XDP: `xdp-features` of the netdev netlink family (linux/netdev.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    const BASIC: u64 = 1;
    const REDIRECT: u64 = 1 << 1;
    const ZERO_COPY: u64 = 1 << 3;
    const RECEIVE_SEGMENTS: u64 = 1 << 5;

    /// Runs XDP programs in the driver and lets them redirect.
    #[must_use]
    pub const fn native(self) -> bool {
        self.0 & (Self::BASIC | Self::REDIRECT) == Self::BASIC | Self::REDIRECT
    }

    /// Moves frames of AF_XDP sockets without a copy.
    #[must_use]
    pub const fn zero_copy(self) -> bool {
        self.0 & Self::ZERO_COPY != 0
    }

    /// Gives frames in several pieces to XDP programs.
    #[must_use]
    pub const fn receive_segments(self) -> bool {
        self.0 & Self::RECEIVE_SEGMENTS != 0
    }
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before an skb exists.
    Native,
    /// In the network stack, behind an skb; works with every driver.
    Generic,
    /// On the card.
    Offloaded,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        })
    }
}

/// An XDP program attached to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    /// Its number, as `bpftool prog` shows it.
    pub id: u32,
    /// Its name; `None` when we may not ask (that needs CAP_SYS_ADMIN).
    pub name: Option<String>,
    /// Where it runs.
    pub mode: XdpMode,
}

impl fmt::Display for XdpProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (id {}, {})", self.id, self.mode),
            None => write!(f, "id {} ({})", self.id, self.mode),
        }
    }
}

/// The facts of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Its number in this network namespace.
    pub index: u32,
    /// Its address.
    pub mac: Mac,
    /// Bytes of an Ethernet payload.
    pub mtu: u32,
    /// Whether an administrator has switched it on.
    pub up: bool,
    /// Whether it has a carrier, so that frames can pass.
    pub running: bool,
    /// Receive queues in use.
    pub queues: u32,
    /// Transmit queues in use.
    pub transmit_queues: u32,
    /// Driver; empty when it does not say.
    pub driver: String,
    /// What the driver can do with XDP; `None` before kernel 6.3, which does not say.
    pub features: Option<XdpFeatures>,
    /// Pieces of one frame that the driver moves without a copy; 0 where it does not say.
    pub zero_copy_segments: u32,
    /// NUMA node of the card; `None` for a virtual interface or a machine with one node.
    pub numa_node: Option<u32>,
    /// Whether the driver takes VLAN tags out of received frames, so that XDP does not see them.
    pub strips_vlan: Option<bool>,
    /// XDP programs attached now.
    pub programs: Vec<XdpProgram>,
}

/// What of an interface may change while it is served on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its address.
    pub mac: Mac,
    /// Bytes of an Ethernet payload.
    pub mtu: u32,
    /// Whether frames can pass: it is switched on and has a carrier.
    pub running: bool,
}

/// Why an interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// There is none of that name.
    #[error("{name}: no such interface{}", Others(.others))]
    Missing {
        /// The name asked for.
        name: String,
        /// The names there are, most similar first.
        others: Vec<String>,
    },
    /// It is not Ethernet.
    #[error("{name}: not an Ethernet interface (hardware type {kind}); AoE needs one")]
    NotEthernet {
        /// The interface.
        name: String,
        /// ARPHRD_* (linux/if_arp.h).
        kind: u16,
    },
    /// It is switched off.
    #[error("{name}: the interface is down; switch it on with `ip link set dev {name} up`")]
    Down {
        /// The interface.
        name: String,
    },
    /// The kernel refused to tell.
    #[error("{name}: asking for the {what}")]
    Ask {
        /// The interface.
        name: String,
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl NicError {
    /// The interface it is about.
    #[must_use]
    pub fn interface(&self) -> &str {
        match self {
            Self::Missing { name, .. }
            | Self::NotEthernet { name, .. }
            | Self::Down { name }
            | Self::Ask { name, .. } => name,
        }
    }
}

struct Others<'a>(&'a [String]);

impl fmt::Display for Others<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str(" (this network namespace has none)"),
            names => write!(f, "; there is {}", names.join(", ")),
        }
    }
}

/// Names of the interfaces of this network namespace, the loopback interface left out.
///
/// # Errors
/// What the kernel says.
pub fn interfaces() -> io::Result<Vec<String>> {
    let mut names = sys::interfaces()?;
    names.retain(|name| name != "lo");
    Ok(names)
}

/// Whether an interface is up and has a carrier now; a missing one has none.
#[must_use]
pub fn has_carrier(name: &str) -> bool {
    sys::Interface::new(name).and_then(|interface| interface.carrier()).unwrap_or(false)
}

/// Asks for the facts of an interface. It may be down ([`Facts::require_up`]).
///
/// # Errors
/// [`NicError`]
pub fn facts(name: &str) -> Result<Facts, NicError> {
    let ask = |what| move |source| NicError::Ask { name: name.to_owned(), what, source };
    let missing = |source: io::Error| {
        if source.raw_os_error() == Some(libc::ENODEV) {
            let mut others = interfaces().unwrap_or_default();
            others.sort_by_cached_key(|other| distance(name, other));
            others.truncate(8);
            NicError::Missing { name: name.to_owned(), others }
        } else {
            NicError::Ask { name: name.to_owned(), what: "index", source }
        }
    };
    let interface = sys::Interface::new(name).map_err(missing)?;
    let index = interface.index().map_err(missing)?;
    let (kind, mac) = interface.address().map_err(ask("address"))?;
    if kind != libc::ARPHRD_ETHER {
        return Err(NicError::NotEthernet { name: name.to_owned(), kind });
    }
    let flags = interface.flags().map_err(ask("flags"))?;
    let (driver, bus) = interface.driver().unwrap_or_default();
    let xdp = sys::xdp_query(index).map_err(ask("XDP programs"))?;
    let (queues, transmit_queues) = match interface.channels() {
        Ok(channels) => (channels.rx + channels.combined, channels.tx + channels.combined),
        Err(_) => (sysfs_queues(name, index, "rx-"), sysfs_queues(name, index, "tx-")),
    };
    let programs =
        [(xdp.native, XdpMode::Native), (xdp.generic, XdpMode::Generic), (xdp.offloaded, XdpMode::Offloaded)]
            .into_iter()
            .filter(|&(id, _)| id != 0)
            .map(|(id, mode)| XdpProgram { id, name: sys::program_name(id).ok(), mode })
            .collect();
    Ok(Facts {
        name: name.to_owned(),
        index,
        mac: Mac(mac),
        mtu: interface.mtu().map_err(ask("MTU"))?,
        up: flags & libc::IFF_UP != 0,
        running: interface.carrier().map_err(ask("carrier"))?,
        queues: queues.max(1),
        transmit_queues: transmit_queues.max(1),
        driver,
        // A driver without any XDP feature and a kernel that cannot tell look the same here; the ladder then tries.
        features: (xdp.features != 0).then_some(XdpFeatures(xdp.features)),
        zero_copy_segments: xdp.zero_copy_segments,
        numa_node: numa_node(&bus),
        strips_vlan: interface.strips_vlan().ok(),
        programs,
    })
}

/// Asks for what may change. Cheaper than [`facts`].
///
/// # Errors
/// [`NicError::Missing`], without names of others, and [`NicError::Ask`].
pub fn link(name: &str) -> Result<Link, NicError> {
    let ask = |what| {
        move |source: io::Error| match source.raw_os_error() {
            Some(libc::ENODEV) => NicError::Missing { name: name.to_owned(), others: Vec::new() },
            _ => NicError::Ask { name: name.to_owned(), what, source },
        }
    };
    let interface = sys::Interface::new(name).map_err(ask("index"))?;
    let (_, mac) = interface.address().map_err(ask("address"))?;
    let mtu = interface.mtu().map_err(ask("MTU"))?;
    let running = interface.flags().map_err(ask("flags"))? & libc::IFF_RUNNING != 0;
    Ok(Link { mac: Mac(mac), mtu, running })
}

impl Facts {
    /// What of it may change.
    #[must_use]
    pub fn link(&self) -> Link {
        Link { mac: self.mac, mtu: self.mtu, running: self.running }
    }

    /// Demands that the interface is switched on. A missing carrier is no reason to refuse: it may come.
    ///
    /// # Errors
    /// [`NicError::Down`]
    pub fn require_up(&self) -> Result<(), NicError> {
        if self.up { Ok(()) } else { Err(NicError::Down { name: self.name.clone() }) }
    }
}

/// Queues of an interface without channels (tun, macvlan), if `/sys` shows this network namespace; else 0.
fn sysfs_queues(name: &str, index: u32, prefix: &str) -> u32 {
    let directory = Path::new("/sys/class/net").join(name);
    let theirs = std::fs::read_to_string(directory.join("ifindex")).unwrap_or_default();
    if theirs.trim() != index.to_string() {
        return 0;
    }
    let Ok(entries) = std::fs::read_dir(directory.join("queues")) else { return 0 };
    let count = entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// By the bus address, which is the same in every network namespace.
fn numa_node(bus: &str) -> Option<u32> {
    if bus.is_empty() || bus.contains('/') {
        return None;
    }
    let node = std::fs::read_to_string(format!("/sys/bus/pci/devices/{bus}/numa_node")).ok()?;
    // −1: the machine has one node, or does not say.
    node.trim().parse().ok()
}

/// Edits from one name to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names_come_first() {
        assert_eq!(distance("eth0", "eth0"), 0);
        assert_eq!(distance("eth0", "eth1"), 1);
        assert_eq!(distance("eth0", "ens3"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("enp3s0", "enp3s0f0"), 2);
    }

    #[test]
    fn a_missing_interface_is_named_with_the_ones_there_are() {
        for name in ["", "no-such-if0", "a-name-that-is-much-too-long", "nul\0"] {
            let error = facts(name).unwrap_err();
            assert!(matches!(&error, NicError::Missing { name: n, .. } if n == name), "{error:?}");
            let text = error.to_string();
            assert!(text.starts_with(&format!("{name}: no such interface")), "{text}");
        }
        let error = NicError::Missing { name: "eth9".into(), others: vec!["eth0".into(), "eth1".into()] };
        assert_eq!(error.to_string(), "eth9: no such interface; there is eth0, eth1");
        let error = NicError::Missing { name: "eth9".into(), others: vec![] };
        assert_eq!(error.to_string(), "eth9: no such interface (this network namespace has none)");
    }

    #[test]
    fn the_link_is_asked_for_alone() {
        let lo = link("lo").unwrap();
        assert_eq!(lo.mac, Mac([0; 6]));
        assert!(lo.mtu > 1500);
        assert!(matches!(link("no-such-if0"), Err(NicError::Missing { .. })));
    }

    #[test]
    fn loopback_is_no_ethernet() {
        assert!(matches!(facts("lo"), Err(NicError::NotEthernet { kind: libc::ARPHRD_LOOPBACK, .. })));
    }

    #[test]
    fn a_switched_off_interface_is_told_how_to_switch_it_on() {
        let error = NicError::Down { name: "eth1".into() };
        assert!(error.to_string().contains("ip link set dev eth1 up"));
    }
}
