//! What an interface offers: its facts, the modes it can be served in, and why not better ones.
//!
//! Not a trial: nothing is attached or bound, so a mode that the facts allow may still be refused by the driver.
//! Invariant: what is reported as impossible is what `serve` would refuse for the same reason.

use crate::appliance::config::Wrong;
use crate::appliance::serve::start;
use crate::limits;
use crate::net::ladder::{self, Attempt, LadderError, Mode, Rung};
use crate::net::nic::Facts;
use crate::net::steer::SteerError;
use serde::Serialize;
use std::io::{self, Write};

/// One rung of the mode ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// Its name.
    pub mode: String,
    /// Why it cannot be had, if the facts say so.
    pub refused: Option<String>,
    /// Sectors of one command in it, at the interface's MTU.
    pub sectors: u8,
    /// Receive queues that frames arrive on in it.
    pub queues: u32,
}

/// What is known of an interface.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub interface: String,
    /// Its address.
    pub mac: String,
    /// Its driver; empty when it does not say.
    pub driver: String,
    /// NUMA node of the card.
    pub numa_node: Option<u32>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Bytes of an Ethernet payload.
    pub mtu: u32,
    /// Receive queues.
    pub queues: u32,
    /// Transmit queues.
    pub transmit_queues: u32,
    /// Whether VLAN tags are taken out of frames before XDP sees them.
    pub strips_vlan: Option<bool>,
    /// XDP programs of others.
    pub programs: Vec<String>,
    /// Modes, best first.
    pub modes: Vec<Offer>,
    /// Why it cannot be served on now.
    pub problem: Option<String>,
}

/// The rungs, and which of them the facts rule out.
#[must_use]
pub fn offers(facts: &Facts) -> Vec<Offer> {
    let offer = |rung: Rung, refused| Offer {
        mode: rung.to_string(),
        refused,
        sectors: limits::sectors_for(facts.mtu, rung.frame_room(facts)),
        queues: rung.queues(facts),
    };
    // Whatever is tried has not been ruled out.
    let mut offered = Vec::new();
    let climbed = ladder::climb(Mode::Auto, facts, |rung| -> Result<(), Attempt<SteerError>> {
        offered.push(rung);
        Err(Attempt::Refused(String::new()))
    });
    let Err(LadderError::Exhausted { refused, .. }) = climbed else { return Vec::new() };
    refused
        .into_iter()
        .map(|r| offer(r.rung, Some(r.reason).filter(|_| !offered.contains(&r.rung))))
        .collect()
}

impl Report {
    /// What the facts say.
    #[must_use]
    pub fn new(facts: &Facts) -> Self {
        Self {
            interface: facts.name.clone(),
            mac: facts.mac.to_string(),
            driver: facts.driver.clone(),
            numa_node: facts.numa_node,
            up: facts.up,
            carrier: facts.running,
            mtu: facts.mtu,
            queues: facts.queues,
            transmit_queues: facts.transmit_queues,
            strips_vlan: facts.strips_vlan,
            programs: facts.programs.iter().map(ToString::to_string).collect(),
            modes: offers(facts),
            problem: start::obstacles(facts, &[]).first().map(ToString::to_string),
        }
    }

    /// Writes it for people.
    ///
    /// # Errors
    /// As `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut line = |name: &str, text: String| writeln!(out, "  {name:<13} {text}");
        let driver = if self.driver.is_empty() { "does not say" } else { &self.driver };
        let node = self.numa_node.map_or(String::new(), |n| format!(", NUMA node {n}"));
        line("driver", format!("{driver}{node}"))?;
        line("address", self.mac.clone())?;
        let carrier = if self.carrier { "carrier" } else { "no carrier" };
        line("link", format!("{}, {carrier}", if self.up { "up" } else { "down" }))?;
        let more = match limits::sectors_for(self.mtu, u32::MAX) {
            limits::MAX_SECTORS => String::new(),
            sectors => {
                let next = u32::from(sectors) * 2 * limits::SECTOR as u32 + limits::ATA_FRAME as u32;
                format!(" (for {} sectors per frame it would have to be {next})", sectors * 2)
            }
        };
        line("MTU", format!("{}{more}", self.mtu))?;
        line("queues", format!("{} to receive, {} to transmit", self.queues, self.transmit_queues))?;
        let vlan = match self.strips_vlan {
            Some(true) => format!("taken out: slots on a VLAN need ethtool -K {} rxvlan off", self.interface),
            Some(false) => "left in frames".to_owned(),
            None => "driver does not say".to_owned(),
        };
        line("VLAN tags", vlan)?;
        let programs = if self.programs.is_empty() { "none".to_owned() } else { self.programs.join(", ") };
        line("XDP programs", programs)?;
        for (i, offer) in self.modes.iter().enumerate() {
            let text = match &offer.refused {
                Some(reason) => format!("no: {reason}"),
                None => {
                    let s = |n: u32| if n == 1 { "" } else { "s" };
                    format!(
                        "possible: {} sector{} per frame, {} queue{}",
                        offer.sectors,
                        s(offer.sectors.into()),
                        offer.queues,
                        s(offer.queues)
                    )
                }
            };
            line(if i == 0 { "modes" } else { "" }, format!("{:<27} {text}", offer.mode))?;
        }
        match &self.problem {
            Some(problem) => line("verdict", format!("cannot be served on now: {problem}")),
            None => match self.modes.iter().find(|offer| offer.refused.is_none()) {
                Some(best) => line("verdict", format!("can be served on; tried first: {}", best.mode)),
                None => line("verdict", "cannot be served on: no mode is possible".to_owned()),
            },
        }
    }

    /// Whether `serve` could start here.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.problem.is_none() && self.modes.iter().any(|offer| offer.refused.is_none())
    }
}

/// An error of a start as a mistake has it: what, and behind the first semicolon the remedy.
#[must_use]
pub fn wrong(error: &dyn std::fmt::Display) -> Wrong {
    let text = error.to_string();
    match text.split_once("; ") {
        Some((what, remedy)) => Wrong::new(what, remedy),
        None => Wrong::new(text, "see xshelf check --keys"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::nic::XdpFeatures;
    use crate::protocol::Mac;

    fn facts() -> Facts {
        Facts {
            name: "eth1".into(),
            index: 2,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            running: true,
            queues: 4,
            transmit_queues: 4,
            driver: "veth".into(),
            // Native with redirect, segments, but not zero-copy (linux/netdev.h).
            features: Some(XdpFeatures(1 | 2 | 32)),
            zero_copy_segments: 0,
            numa_node: None,
            strips_vlan: Some(false),
            programs: vec![],
        }
    }

    #[test]
    fn every_rung_is_either_possible_or_says_why_not() {
        let offers = offers(&facts());
        assert_eq!(offers.len(), Rung::ALL.len());
        for (offer, rung) in offers.iter().zip(Rung::ALL) {
            assert_eq!(offer.mode, rung.to_string());
            assert_eq!(offer.refused.is_some(), rung.zero_copy(), "{offer:?}");
            assert_eq!(offer.sectors, 2);
        }
        assert_eq!(offers[0].refused.as_deref(), Some("veth has no zero-copy"));
        assert_eq!((offers[2].queues, offers[4].queues), (4, 1), "generic mode on veth has one queue");
    }

    #[test]
    fn the_report_is_readable_and_says_what_is_tried_first() {
        let mut out = Vec::new();
        Report::new(&facts()).write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for want in [
            "  MTU           1500 (for 4 sectors per frame it would have to be 2084)\n",
            "  modes         zero-copy with segments     no: veth has no zero-copy\n",
            "                native copy with segments   possible: 2 sectors per frame, 4 queues\n",
            "  verdict       can be served on; tried first: native copy with segments\n",
        ] {
            assert!(text.contains(want), "{want}{text}");
        }
    }

    #[test]
    fn a_link_that_is_down_is_a_verdict() {
        let report = Report::new(&Facts { up: false, ..facts() });
        assert!(!report.can_serve());
        assert!(report.problem.unwrap().contains("ip link set dev eth1 up"));
    }

    #[test]
    fn a_start_error_is_split_into_what_and_remedy() {
        let errors = start::obstacles(&Facts { up: false, mtu: 500, ..facts() }, &[]);
        assert_eq!(errors.len(), 2);
        let wrong = wrong(&errors[0]);
        assert_eq!(wrong.what, "eth1: the interface is down");
        assert!(wrong.remedy.starts_with("switch it on with"));
    }
}
