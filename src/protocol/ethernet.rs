//! The Ethernet header, with or without one 802.1Q tag.
//!
//! Not a general Ethernet library: it finds AoE behind at most one tag.
//! Invariant: [`Ethernet::parse`] yields a header only if all its bytes are there.

use crate::limits;
use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// EtherType of ATA over Ethernet (AoEr11, section 2).
pub const ETHERTYPE_AOE: u16 = 0x88a2;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;

/// A MAC address.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set (multicast or broadcast).
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is no MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address; write it as 02:00:00:00:00:01")]
pub struct NotAMac;

impl std::str::FromStr for Mac {
    type Err = NotAMac;

    fn from_str(s: &str) -> Result<Self, NotAMac> {
        let mut mac = [0; 6];
        let mut parts = s.split([':', '-']);
        for byte in &mut mac {
            let hex = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(hex).ok_or(NotAMac)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotAMac)?;
        }
        parts.next().is_none().then_some(Self(mac)).ok_or(NotAMac)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Plain {
    destination: Mac,
    source: Mac,
    ethertype: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Tagged {
    destination: Mac,
    source: Mac,
    tpid: U16,
    tci: U16,
    ethertype: U16,
}

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination address.
    pub destination: Mac,
    /// Source address.
    pub source: Mac,
    /// The tag control information of an 802.1Q tag: 3 bits priority, 1 bit drop eligible, 12 bits VLAN.
    pub tag: Option<u16>,
    /// EtherType behind the tag.
    pub ethertype: u16,
}

impl Ethernet {
    /// Reads a header; `None` when the frame is too short.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (h, _) = Plain::ref_from_prefix(frame).ok()?;
        if h.ethertype.get() == ETHERTYPE_VLAN {
            let (h, _) = Tagged::ref_from_prefix(frame).ok()?;
            return Some(Self {
                destination: h.destination,
                source: h.source,
                tag: Some(h.tci.get()),
                ethertype: h.ethertype.get(),
            });
        }
        Some(Self { destination: h.destination, source: h.source, tag: None, ethertype: h.ethertype.get() })
    }

    /// Bytes of the header: where the AoE header starts.
    #[must_use]
    pub const fn len(&self) -> usize {
        if self.tag.is_some() { limits::ETHERNET + limits::VLAN_TAG } else { limits::ETHERNET }
    }

    /// Never: a header has bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Writes the header; does nothing when `frame` is too short for it.
    pub fn emit(&self, frame: &mut [u8]) {
        let (destination, source) = (self.destination, self.source);
        let ethertype = U16::new(self.ethertype);
        // The only error is a short buffer, which the doc comment covers.
        let _ = match self.tag {
            Some(tci) => {
                let tagged = Tagged {
                    destination,
                    source,
                    tpid: U16::new(ETHERTYPE_VLAN),
                    tci: U16::new(tci),
                    ethertype,
                };
                tagged.write_to_prefix(frame).is_ok()
            }
            None => Plain { destination, source, ethertype }.write_to_prefix(frame).is_ok(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_tagged_headers_survive_a_round_trip() {
        for tag in [None, Some(0x2005)] {
            let h = Ethernet {
                destination: Mac::BROADCAST,
                source: Mac([2, 0, 0, 0, 0, 2]),
                tag,
                ethertype: ETHERTYPE_AOE,
            };
            let mut bytes = [0; 18];
            h.emit(&mut bytes);
            assert_eq!(Ethernet::parse(&bytes[..h.len()]), Some(h));
            assert_eq!(Ethernet::parse(&bytes[..h.len() - 1]), None);
        }
    }

    #[test]
    fn macs_parse_as_they_print() {
        let mac: Mac = "02:ae:00:00:01:1f".parse().unwrap();
        assert_eq!(mac.to_string(), "02:ae:00:00:01:1f");
        for bad in [
            "",
            "02:ae:00:00:01",
            "02:ae:00:00:01:1f:00",
            "2:ae:00:00:01:1f",
            "zz:ae:00:00:01:1f",
            "+2:ae:00:00:01:1f",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(NotAMac), "{bad}");
        }
    }
}
