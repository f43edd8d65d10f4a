//! `xshelf discover`: who is there.
//!
//! Not here: asking (`contact`) and printing (`report`).
//! Invariant: whoever answered is listed, also if it does not identify itself.

use super::contact::{self, Identified, Target, Until};
use super::report::{self, DiscoveredTarget, Discovery, SharedAddress};
use super::socket::{self, Options, Port};
use super::{Error, seconds};
use crate::exit::Exit;
use crate::protocol::Address;
use std::io::Write;
use std::time::Duration;

/// Queries sent within the waiting time; a single one may be lost.
const ROUNDS: u32 = 4;

const EXAMPLES: &str = "\
Examples:
  xshelf discover eth1            who answers on eth1
  xshelf discover eth1 --wait 3   give slow or distant targets three seconds
  xshelf discover eth1 --vlan 5   ask in VLAN 5 (no VLAN interface is needed)
  xshelf discover eth1 --json     the same for programs

Exit codes: 0 something was found; 2 usage; 3 no such interface, link down or
no permission; 4 nobody answered.
Needs CAP_NET_RAW. A target whose MAC mask list does not name this host stays
silent.";

/// Find targets: ask everybody on an interface (Query Config), then each what it is (IDENTIFY DEVICE).
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The Ethernet interface to ask on
    #[arg(value_name = "IF")]
    pub interface: String,

    /// How long to wait for answers: seconds, or with a unit (0.5, 2s, 300ms)
    #[arg(long, value_name = "TIME", default_value = "1", value_parser = seconds)]
    pub wait: Duration,

    /// Ask in this VLAN, with tagged frames
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,

    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the command and prints to standard output and standard error.
///
/// # Errors
/// See [`Error`]; that nobody answers is none, but [`Exit::NoAnswer`].
pub fn run(args: &Args) -> Result<Exit, Error> {
    run_to(args, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}

/// Runs the command, with the report to `out` and hints to `notes`.
///
/// # Errors
/// As [`run`].
pub fn run_to(args: &Args, out: &mut dyn Write, notes: &mut dyn Write) -> Result<Exit, Error> {
    let mut port = Port::open(&args.interface, Options { vlan: args.vlan, ..Options::default() })?;
    let targets = contact::query(&mut port, Address::ANY, args.wait, ROUNDS, Until::TimeIsUp)?;
    let asked: Vec<_> = targets.iter().map(|t| (t.address, t.mac)).collect();
    let identified = contact::identify(&mut port, &asked, Duration::from_secs(2))?;
    let found = discovery(&port, &targets, &identified);
    if args.json {
        report::json(&found, out)?;
    } else if !found.targets.is_empty() {
        found.write(out)?;
    }
    if found.targets.is_empty() {
        writeln!(notes, "nobody answered on {} within {:?}{}", port.name(), args.wait, hint(&port))?;
        return Ok(Exit::NoAnswer);
    }
    Ok(Exit::Ok)
}

/// What to look at when nobody answers, beginning with punctuation.
#[must_use]
pub fn hint(port: &Port) -> String {
    let vlan = match port.vlan() {
        Some(vlan) => format!("does the switch port carry VLAN {vlan} tagged"),
        None => "is the target in a VLAN (--vlan)".to_owned(),
    };
    let carrier =
        if socket::has_carrier(port) { "" } else { "\n  the interface has no carrier: check the cable" };
    format!(
        "; check:{carrier}\n  the target: is it running, on a port of the same Ethernet segment (AoE is not routed)\n  \
         the VLAN: {vlan}\n  the target's MAC mask list: does it name {}\n  the MTU along the way (here {})",
        port.mac(),
        port.mtu()
    )
}

fn discovery(port: &Port, targets: &[Target], identified: &[Identified]) -> Discovery {
    let listed = targets.iter().zip(identified).map(|(target, identified)| {
        let disk = identified.disk.as_ref();
        DiscoveredTarget {
            address: target.address.to_string(),
            mac: target.mac.to_string(),
            bytes: disk.map(super::identify::Disk::bytes).ok(),
            model: disk.map(|d| d.model.clone()).ok(),
            serial: disk.map(|d| d.serial.clone()).ok(),
            firmware: disk.map(|d| d.firmware.clone()).ok(),
            sectors_per_frame: target.sectors,
            buffer_count: target.buffer_count,
            config_string: report::printable(&target.config_string),
            error: disk.err().map(ToString::to_string),
        }
    });
    Discovery {
        interface: port.name().to_owned(),
        vlan: port.vlan(),
        targets: listed.collect(),
        shared_addresses: shared_addresses(targets, identified),
    }
}

/// The addresses for which more than one MAC address answers; `targets` are sorted by address.
#[must_use]
pub fn shared_addresses(targets: &[Target], identified: &[Identified]) -> Vec<SharedAddress> {
    let both: Vec<_> = targets.iter().zip(identified).collect();
    let groups = both.chunk_by(|(a, _), (b, _)| a.address == b.address).filter(|group| group.len() > 1);
    groups
        .map(|group| {
            let address = group[0].0.address;
            let macs: Vec<_> = group.iter().map(|(t, _)| t.mac.to_string()).collect();
            let who =
                |i: &Identified| i.disk.as_ref().ok().map(|d| (d.serial.clone(), d.model.clone(), d.sectors));
            let conflict = group.windows(2).any(|pair| who(pair[0].1) != who(pair[1].1));
            let text = if conflict {
                format!(
                    "{address} is answered by {} and they are different disks: two targets have the same \
                     shelf.slot address; change one before anybody writes",
                    macs.join(" and ")
                )
            } else {
                format!(
                    "{address} is answered by {} with the same serial number: paths to one disk",
                    macs.join(" and ")
                )
            };
            SharedAddress { address: address.to_string(), macs, conflict, text }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initiator::identify::Disk;
    use crate::initiator::wire::Failure;
    use crate::protocol::Mac;

    fn target(slot: u8, mac: u8) -> Target {
        Target {
            address: Address { shelf: 7, slot },
            mac: Mac([2, 0, 0, 0, 0, mac]),
            buffer_count: 16,
            firmware: 0,
            sectors: 2,
            config_string: Vec::new(),
            answered: 4,
            repeated: 0,
        }
    }

    fn disk(serial: &str) -> Identified {
        let disk = Disk {
            model: "m".into(),
            serial: serial.into(),
            firmware: "f".into(),
            sectors: 9,
            lba48: true,
            lba: true,
            oversize: false,
        };
        Identified { disk: Ok(disk), repeated: 0 }
    }

    #[test]
    fn several_macs_for_one_address_are_paths_or_a_conflict() {
        let targets = [target(0, 1), target(0, 2), target(1, 1), target(2, 1), target(2, 2)];
        let silent = Identified { disk: Err(Failure::Silent), repeated: 0 };
        let shared = shared_addresses(&targets, &[disk("a"), disk("a"), disk("x"), disk("b"), disk("c")]);
        let seen: Vec<_> = shared.iter().map(|s| (s.address.as_str(), s.conflict, s.macs.len())).collect();
        assert_eq!(seen, [("7.0", false, 2), ("7.2", true, 2)]);
        let shared = shared_addresses(&targets[..2], &[disk("a"), silent]);
        assert!(shared[0].conflict, "who does not identify itself may be another disk");
    }
}
