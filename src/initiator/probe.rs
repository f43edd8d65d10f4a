//! `xshelf probe`: does the way to a slot and back carry what the target advertises, and is there one target only.
//!
//! Not here: writing. It reads and identifies, so that it is safe on a slot in use.
//! Invariant: a finding is a problem only if it makes requests fail or puts data at risk; the rest are remarks.
//!
//! Findings by code. Problems: `two_disks_one_address`, `answered_twice`, `answers_from_elsewhere`,
//! `identify_failed`, `reserved`, `replies_vanish`, `requests_vanish`, `advertised_refused`, `loss`,
//! `buffer_count_too_small`, `no_capacity`, `size_beyond_48_bits`, `ignored_by_linux`. Remarks: `several_macs`,
//! `mtu_here_limits`, `mtu_there_limits`, `unaligned_sectors`, `no_lba_bit`.

use super::contact::{self, Clock, Identified, Target, Until};
use super::discover::{hint, shared_addresses};
use super::report::{self, Finding, Probe, ProbePath, ProbeStep};
use super::session::{Nanos, SECOND};
use super::socket::Port;
use super::socket::{Options, WAIT_MILLISECONDS};
use super::wire::{Ask, Failure, HEADER_ROOM, Reply, Route, TAG_OURS, Width};
use super::{Error, seconds};
use crate::exit::Exit;
use crate::limits::{self, ATA_FRAME, ETHERNET, SECTOR};
use crate::protocol::{Address, Mac};
use std::io::Write;
use std::time::Duration;

/// Queries to everybody.
const QUERIES: u32 = 5;
/// How long they are waited for.
const QUERY_TIME: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  xshelf probe eth1 7.0                 is the path healthy?
  xshelf probe eth1 7.0 --count 100     look for frames lost now and then
  xshelf probe eth1 7.0 --json          the same for programs

What it does, without ever writing:
  asks who answers for the address      several MAC addresses or serial
                                        numbers, two answers to one request
  reads 1, 2, 4, 8, 16 … sectors        do large replies arrive, up to the MTU
                                        of this interface?
  IDENTIFY with growing payload         do large requests arrive there?
Small frames that pass while large ones vanish are a jumbo black hole: a
switch port or an interface on the way has a smaller MTU. The Linux initiator
does not notice it; its I/O hangs.

Exit codes: 0 healthy; 1 problems found; 2 usage; 3 no such interface, link
down or no permission; 4 nobody answered. Needs CAP_NET_RAW.";

/// Test the path to one slot: MTU both ways, jumbo black holes, two targets with one address. Never writes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The Ethernet interface the slot is reached by
    #[arg(value_name = "IF")]
    pub interface: String,

    /// The slot to test
    #[arg(value_name = "SHELF.SLOT")]
    pub slot: Address,

    /// Requests of each size
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,

    /// How long to wait for an answer: seconds, or with a unit (0.5, 2s, 300ms)
    #[arg(long, value_name = "TIME", default_value = "0.5", value_parser = seconds)]
    pub timeout: Duration,

    /// Talk in this VLAN, with tagged frames
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,

    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Runs the command and prints to standard output.
///
/// # Errors
/// See [`Error`]; problems of the path are none, but [`Exit::Problem`].
pub fn run(args: &Args) -> Result<Exit, Error> {
    run_to(args, &mut std::io::stdout().lock())
}

/// Runs the command, with the report to `out`.
///
/// # Errors
/// As [`run`].
pub fn run_to(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let mut port = Port::open(&args.interface, Options { vlan: args.vlan, ..Options::default() })?;
    let measured = measure(args, &mut port)?;
    let findings = judge(&measured);
    let report = Probe {
        interface: port.name().to_owned(),
        vlan: port.vlan(),
        mtu: port.mtu(),
        address: args.slot.to_string(),
        healthy: !findings.iter().any(|f| f.problem),
        findings,
        paths: measured.paths.iter().map(path_report).collect(),
    };
    if args.json {
        report::json(&report, out)?;
    } else {
        report.write(out)?;
    }
    Ok(if report.healthy { Exit::Ok } else { Exit::Problem })
}

/// What was measured, before anything is concluded from it.
#[derive(Clone, Debug)]
struct Measured {
    address: Address,
    mtu: u32,
    paths: Vec<Path>,
}

/// One MAC address that answers.
#[derive(Clone, Debug)]
struct Path {
    target: Target,
    identified: Identified,
    /// Reads, by sectors, in the order made.
    replies: Vec<Step>,
    /// IDENTIFY with payload, by bytes of the frame, in the order made.
    requests: Vec<Step>,
}

/// Requests of one size.
#[derive(Clone, Debug, Default)]
struct Step {
    /// Sectors read, or bytes of payload.
    size: usize,
    /// Bytes of the frame under test.
    frame: usize,
    sent: u32,
    answered: u32,
    repeated: u32,
    elsewhere: Vec<Mac>,
    failure: Option<Failure>,
    rtt: Option<Nanos>,
}

impl Step {
    /// Whether not a single frame came back.
    fn is_silent(&self) -> bool {
        self.answered == 0 && self.failure.is_none()
    }

    fn is_good(&self) -> bool {
        self.answered > 0
    }
}

fn measure(args: &Args, port: &mut Port) -> Result<Measured, Error> {
    let targets = contact::query(port, args.slot, QUERY_TIME, QUERIES, Until::TimeIsUp)?;
    if targets.is_empty() {
        let interface = port.name().to_owned();
        return Err(Error::NoAnswer { address: args.slot, interface, hint: hint(port) });
    }
    let asked: Vec<_> = targets.iter().map(|t| (t.address, t.mac)).collect();
    let identified = contact::identify(port, &asked, Duration::from_secs(2))?;
    let mut paths = Vec::new();
    for (target, identified) in targets.into_iter().zip(identified) {
        let mut path = Path { target, identified, replies: Vec::new(), requests: Vec::new() };
        if path.identified.disk.is_ok() {
            measure_path(args, port, &mut path)?;
        }
        paths.push(path);
    }
    Ok(Measured { address: args.slot, mtu: port.mtu(), paths })
}

/// The sizes to try: 1, 2, 4 … and `also`, up to and including `most`, in order.
fn sizes(most: usize, also: &[usize]) -> Vec<usize> {
    let powers = (0..).map(|n| 1 << n).take_while(|&n| n < most);
    let mut sizes: Vec<_> = powers.chain(also.iter().copied()).chain([most]).collect();
    sizes.retain(|&n| (1..=most).contains(&n));
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn measure_path(args: &Args, port: &mut Port, path: &mut Path) -> Result<(), Error> {
    let Ok(disk) = path.identified.disk.clone() else { return Ok(()) };
    let payload = (port.mtu() as usize).saturating_sub(ATA_FRAME - ETHERNET);
    let fits = (payload / SECTOR).min(255).min(usize::try_from(disk.sectors).unwrap_or(255));
    let width = if disk.lba48 { Width::Lba48 } else { Width::Lba28 };
    let advertised = usize::from(path.target.sectors);
    let copies = args.count;
    let window = u32::from(path.target.buffer_count).clamp(1, 64);
    let mut prober = Prober {
        port,
        address: path.target.address,
        mac: path.target.mac,
        window,
        timeout: Nanos::try_from(args.timeout.as_nanos()).unwrap_or(SECOND),
    };
    let read = |prober: &mut Prober<'_>, n: usize, copies| {
        prober.step(Ask::Read { lba: 0, count: n as u8, width }, 0, copies).map(|step| Step {
            size: n,
            frame: ATA_FRAME + n * SECTOR,
            ..step
        })
    };
    for n in sizes(fits, &[advertised]) {
        let step = read(&mut prober, n, copies)?;
        let (good, silent) = (step.is_good(), step.is_silent());
        path.replies.push(step);
        if !good {
            if silent && n <= advertised {
                let below = path.replies.iter().filter(|s| s.is_good()).map(|s| s.size).max().unwrap_or(0);
                let found = search(below, n, |n| {
                    let step = read(&mut prober, n, copies)?;
                    let good = step.is_good();
                    path.replies.push(step);
                    Ok::<_, Error>(good)
                });
                found?;
            }
            break;
        }
    }
    let request = |prober: &mut Prober<'_>, bytes: usize, copies| {
        prober.step(Ask::Identify, bytes, copies).map(|step| Step {
            size: bytes,
            frame: ATA_FRAME + bytes,
            ..step
        })
    };
    path.requests.push(request(&mut prober, 0, copies)?);
    let payloads = sizes(payload / SECTOR, &[]).into_iter().map(|n| n * SECTOR).chain([payload]);
    for bytes in payloads {
        let step = request(&mut prober, bytes, copies)?;
        let good = step.is_good();
        path.requests.push(step);
        if !good {
            let below = path.requests.iter().filter(|s| s.is_good()).map(|s| s.size).max();
            let found = search(below.unwrap_or(0), bytes, |bytes| {
                let step = request(&mut prober, bytes, copies)?;
                let good = step.is_good();
                path.requests.push(step);
                Ok::<_, Error>(good)
            });
            found?;
            break;
        }
    }
    Ok(())
}

/// Halves the gap between a size that works and one that does not until they are neighbours.
fn search<E>(
    mut good: usize,
    mut bad: usize,
    mut works: impl FnMut(usize) -> Result<bool, E>,
) -> Result<usize, E> {
    while bad > good + 1 {
        let middle = good + (bad - good) / 2;
        if works(middle)? { good = middle } else { bad = middle }
    }
    Ok(good)
}

/// Sends requests of one kind to one MAC address, each once, and counts what comes back.
struct Prober<'a> {
    port: &'a mut Port,
    address: Address,
    mac: Mac,
    window: u32,
    timeout: Nanos,
}

impl Prober<'_> {
    fn step(&mut self, ask: Ask, payload: usize, copies: u32) -> Result<Step, Error> {
        let mut step = Step { sent: copies, ..Step::default() };
        let mut first = 0;
        while first < copies {
            let now = copies.min(first + self.window) - first;
            self.volley(ask, payload, now, &mut step)?;
            first += now;
        }
        Ok(step)
    }

    fn volley(&mut self, ask: Ask, payload: usize, copies: u32, step: &mut Step) -> Result<(), Error> {
        let route = Route { source: self.port.mac(), destination: self.mac, vlan: self.port.vlan() };
        let first_tag = contact::random() as u32 & 0x3fff_ffff | TAG_OURS;
        let mut frame = vec![0; HEADER_ROOM + payload];
        let length = route.emit(self.address, first_tag, ask, &mut frame) + payload;
        frame.truncate(length);
        let clock = Clock::start();
        let mut sent: Vec<Nanos> = Vec::new();
        let mut seen = vec![false; copies as usize];
        let mut done_at = None;
        loop {
            let now = clock.now();
            while sent.len() < copies as usize {
                route.retag(first_tag + sent.len() as u32, &mut frame);
                if self.port.send(&[&frame])? == 0 {
                    break;
                }
                sent.push(clock.now());
            }
            // A second answer to the same request comes, if at all, right behind the first.
            if done_at.is_some_and(|at: Nanos| now >= at + WAIT_MILLISECONDS * 1_000_000)
                || now >= self.timeout
            {
                return Ok(());
            }
            for i in 0..self.port.receive(true)? {
                let Ok(reply) = Reply::parse(self.port.arrival(i)) else { continue };
                let index = reply.tag().wrapping_sub(first_tag) as usize;
                let ours = index < sent.len()
                    && reply.header.address == self.address
                    && reply.header.command == ask.command();
                if !ours {
                    continue;
                }
                if reply.source != self.mac {
                    if !step.elsewhere.contains(&reply.source) {
                        step.elsewhere.push(reply.source);
                    }
                    continue;
                }
                if std::mem::replace(&mut seen[index], true) {
                    step.repeated += 1;
                    continue;
                }
                match reply.result(ask) {
                    Ok(_) => step.answered += 1,
                    Err(failure) => step.failure = Some(failure),
                }
                let rtt = clock.now().saturating_sub(sent[index]);
                step.rtt = Some(step.rtt.map_or(rtt, |best| best.min(rtt)));
            }
            if done_at.is_none() && seen.iter().all(|&s| s) {
                done_at = Some(clock.now());
            }
        }
    }
}

fn path_report(path: &Path) -> ProbePath {
    let disk = path.identified.disk.as_ref();
    let largest = |steps: &[Step]| steps.iter().filter(|s| s.is_good()).map(|s| s.frame).max().unwrap_or(0);
    let steps = |steps: &[Step], unit: usize| {
        let mut steps: Vec<_> = steps.iter().collect();
        steps.sort_by_key(|s| s.size);
        let step = |s: &&Step| ProbeStep {
            sectors: s.size / unit,
            frame_bytes: s.frame,
            sent: s.sent,
            answered: s.answered,
            rtt_us: s.rtt.map(|ns| (ns as f64 / 100.0).round() / 10.0),
            error: s.failure.map(|f| f.to_string()),
        };
        steps.iter().map(step).collect()
    };
    ProbePath {
        mac: path.target.mac.to_string(),
        model: disk.map(|d| d.model.clone()).ok(),
        serial: disk.map(|d| d.serial.clone()).ok(),
        bytes: disk.map(super::identify::Disk::bytes).ok(),
        error: disk.err().map(ToString::to_string),
        sectors_per_frame: path.target.sectors,
        buffer_count: path.target.buffer_count,
        queries: QUERIES,
        queries_answered: path.target.answered,
        replies: steps(&path.replies, 1),
        requests: steps(&path.requests, SECTOR),
        largest_reply_bytes: largest(&path.replies),
        largest_request_bytes: largest(&path.requests),
    }
}

/// What follows from the measurements. Pure.
fn judge(measured: &Measured) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |problem, code, text: String| findings.push(Finding { code, problem, text });
    let targets: Vec<_> = measured.paths.iter().map(|p| p.target.clone()).collect();
    let identified: Vec<_> = measured.paths.iter().map(|p| p.identified.clone()).collect();
    for shared in shared_addresses(&targets, &identified) {
        let code = if shared.conflict { "two_disks_one_address" } else { "several_macs" };
        add(shared.conflict, code, shared.text);
    }
    let address = measured.address;
    if limits::RESERVED_SHELVES.contains(&address.shelf) {
        add(true, "ignored_by_linux", format!("the Linux initiator ignores shelf {}", address.shelf));
    }
    for path in &measured.paths {
        judge_path(path, measured.mtu, &mut add);
    }
    findings
}

fn judge_path(path: &Path, mtu: u32, add: &mut impl FnMut(bool, &'static str, String)) {
    let mac = path.target.mac;
    let steps = || path.replies.iter().chain(&path.requests);
    let repeated = path.target.repeated + path.identified.repeated + steps().map(|s| s.repeated).sum::<u32>();
    if repeated > 0 {
        add(
            true,
            "answered_twice",
            format!(
                "{mac} answers single requests more than once ({repeated} times): two targets with this address \
                 behind it, or a loop in the network"
            ),
        );
    }
    let mut elsewhere: Vec<_> = steps().flat_map(|s| &s.elsewhere).collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    for other in elsewhere {
        add(
            true,
            "answers_from_elsewhere",
            format!(
                "requests to {mac} are answered from {other}; initiators ignore or misroute such replies"
            ),
        );
    }
    if path.target.buffer_count < 2 {
        add(
            true,
            "buffer_count_too_small",
            format!(
                "{mac} says it can queue {} requests: with less than 2 the Linux initiator never attaches",
                path.target.buffer_count
            ),
        );
    }
    let disk = match &path.identified.disk {
        Ok(disk) => disk,
        Err(failure) => {
            add(true, "identify_failed", format!("{mac} does not identify itself: {failure}"));
            return;
        }
    };
    if disk.sectors == 0 {
        add(true, "no_capacity", format!("{mac} says the disk has no sectors"));
    }
    if disk.oversize {
        add(
            true,
            "size_beyond_48_bits",
            format!("{mac}: IDENTIFY word 103 is not 0; the Linux initiator takes it for a part of the size"),
        );
    }
    if !disk.lba {
        add(
            false,
            "no_lba_bit",
            format!("{mac}: IDENTIFY word 49 bit 9 is clear; Plan 9 refuses such disks"),
        );
    }
    judge_sizes(path, mtu, add);
}

fn judge_sizes(path: &Path, mtu: u32, add: &mut impl FnMut(bool, &'static str, String)) {
    let mac = path.target.mac;
    let advertised = usize::from(path.target.sectors);
    let good = |steps: &[Step]| steps.iter().filter(|s| s.is_good()).map(|s| s.frame).max();
    let due = || path.replies.iter().filter(|s| s.size <= advertised);

    let reserved = Failure::Aoe(6);
    if due().any(|s| s.failure == Some(reserved)) {
        let text = format!(
            "{mac} refuses reads because it is reserved for other hosts ({reserved}); Linux hangs for 180 s here"
        );
        add(true, "reserved", text);
    } else if let Some(step) = due().filter(|s| s.failure.is_some()).min_by_key(|s| s.size) {
        if let Some(failure) = step.failure {
            let text =
                format!("{mac} advertises {advertised} sectors but fails a read of {}: {failure}", step.size);
            add(true, "advertised_refused", text);
        }
    }
    if let Some(step) = due().filter(|s| s.is_silent()).min_by_key(|s| s.size) {
        let upto = match good(&path.replies) {
            Some(bytes) => format!("replies of up to {bytes} bytes arrive, those of {} vanish", step.frame),
            None => "no read is answered at all".to_owned(),
        };
        add(
            true,
            "replies_vanish",
            format!(
                "from {mac} to here {upto}, though it advertises {advertised} sectors: on the way, or at one end, the \
                 MTU is below {}; raise it, or let the target use a smaller MTU",
                step.frame - ETHERNET
            ),
        );
    }
    if let Some(step) = path.requests.iter().filter(|s| s.is_silent()).min_by_key(|s| s.size) {
        let upto = match good(&path.requests) {
            Some(bytes) => format!("requests of up to {bytes} bytes arrive, those of {} vanish", step.frame),
            None => "no request is answered".to_owned(),
        };
        // Only writes of that size need it: of what nobody will send, it is worth a remark.
        let needed = ATA_FRAME + advertised.min(usable(mtu)) * SECTOR;
        let problem = step.frame <= needed;
        let consequence = if problem {
            "large writes will hang; raise the MTU on the way, or let the target use a smaller one"
        } else {
            "it advertises no more than fits, so initiators will not notice"
        };
        let code = if problem { "requests_vanish" } else { "mtu_there_limits" };
        add(problem, code, format!("from here to {mac} {upto}: {consequence}"));
    }
    let lost: u32 =
        due().chain(&path.requests).filter(|s| s.is_good()).map(|s| s.sent - s.answered.min(s.sent)).sum();
    let sent: u32 = due().chain(&path.requests).filter(|s| s.is_good()).map(|s| s.sent).sum();
    if lost > 0 {
        add(
            true,
            "loss",
            format!("{lost} of {sent} requests to {mac} were not answered in time: frames get lost"),
        );
    }
    judge_mtu(path, mtu, add);
}

/// Sectors an initiator here would put into one request: it counts the Ethernet header as payload, too
/// (drivers/block/aoe/aoecmd.c).
const fn usable(mtu: u32) -> usize {
    (mtu as usize).saturating_sub(ATA_FRAME) / SECTOR
}

fn judge_mtu(path: &Path, mtu: u32, add: &mut impl FnMut(bool, &'static str, String)) {
    let mac = path.target.mac;
    let advertised = usize::from(path.target.sectors);
    let here = usable(mtu);
    if advertised > here {
        add(
            false,
            "mtu_here_limits",
            format!("{mac} takes {advertised} sectors in a frame, the MTU here ({mtu}) carries {here}"),
        );
    } else if here >= 2 * advertised {
        add(
            false,
            "mtu_there_limits",
            format!(
                "the MTU here ({mtu}) carries {here} sectors, {mac} advertises {advertised}: a larger MTU there would \
                 make requests larger"
            ),
        );
    }
    if advertised > 8 && advertised % 8 != 0 {
        add(
            false,
            "unaligned_sectors",
            format!(
                "{mac} advertises {advertised} sectors, no multiple of 4 KiB: the Linux initiator uses it all, so that \
                 most of its requests begin and end within a block"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initiator::identify::Disk;

    fn step(size: usize, answered: u32) -> Step {
        Step { size, frame: ATA_FRAME + size * SECTOR, sent: 5, answered, ..Step::default() }
    }

    fn request(bytes: usize, answered: u32) -> Step {
        Step { size: bytes, frame: ATA_FRAME + bytes, sent: 5, answered, ..Step::default() }
    }

    fn healthy() -> Measured {
        let target = Target {
            address: Address { shelf: 7, slot: 0 },
            mac: Mac([2, 0, 0, 0, 0, 1]),
            buffer_count: 16,
            firmware: 0,
            sectors: 16,
            config_string: Vec::new(),
            answered: 5,
            repeated: 0,
        };
        let disk = Disk {
            model: "m".into(),
            serial: "s".into(),
            firmware: "f".into(),
            sectors: 1000,
            lba48: true,
            lba: true,
            oversize: false,
        };
        let path = Path {
            target,
            identified: Identified { disk: Ok(disk), repeated: 0 },
            replies: [1, 2, 4, 8, 16].map(|n| step(n, 5)).to_vec(),
            requests: [0, 512, 1024, 2048, 4096, 8192, 8978].map(|n| request(n, 5)).to_vec(),
        };
        Measured { address: Address { shelf: 7, slot: 0 }, mtu: 9000, paths: vec![path] }
    }

    fn codes(change: impl FnOnce(&mut Measured)) -> Vec<(&'static str, bool)> {
        let mut measured = healthy();
        change(&mut measured);
        judge(&measured).iter().map(|f| (f.code, f.problem)).collect()
    }

    fn replies(steps: Vec<Step>) -> Vec<(&'static str, bool)> {
        codes(|m| m.paths[0].replies = steps)
    }

    #[test]
    fn a_healthy_path_has_no_findings() {
        assert_eq!(codes(|_| ()), []);
    }

    #[test]
    fn large_replies_that_vanish_are_a_black_hole() {
        let mut measured = healthy();
        measured.paths[0].replies = vec![step(1, 5), step(2, 5), step(4, 0), step(3, 0)];
        let findings = judge(&measured);
        assert_eq!((findings.len(), findings[0].code, findings[0].problem), (1, "replies_vanish", true));
        assert!(
            findings[0].text.contains("replies of up to 1060 bytes arrive, those of 1572 vanish"),
            "{}",
            findings[0].text
        );
        assert!(findings[0].text.contains("below 1558"), "{}", findings[0].text);
        assert_eq!(replies(vec![step(1, 0)]), [("replies_vanish", true)]);
    }

    #[test]
    fn silence_beyond_what_is_advertised_is_no_problem() {
        assert_eq!(replies(vec![step(1, 5), step(16, 5), step(17, 0)]), []);
        let refused = Step { failure: Some(Failure::Aoe(2)), ..step(17, 0) };
        assert_eq!(replies(vec![step(1, 5), step(16, 5), refused]), []);
    }

    #[test]
    fn a_target_that_refuses_what_it_advertises_is_a_problem() {
        let refused = Step { failure: Some(Failure::Ata { status: 0x41, error: 4 }), ..step(8, 0) };
        assert_eq!(replies(vec![step(1, 5), step(4, 5), refused]), [("advertised_refused", true)]);
        let reserved = Step { failure: Some(Failure::Aoe(6)), ..step(1, 0) };
        assert_eq!(replies(vec![reserved]), [("reserved", true)]);
    }

    #[test]
    fn large_requests_that_vanish_are_a_problem_where_they_are_needed() {
        let small = vec![request(0, 5), request(1024, 5), request(2048, 0)];
        assert_eq!(codes(|m| m.paths[0].requests = small), [("requests_vanish", true)]);
        let enough = vec![request(0, 5), request(8192, 5), request(8978, 0)];
        assert_eq!(codes(|m| m.paths[0].requests = enough), [("mtu_there_limits", false)]);
    }

    #[test]
    fn some_lost_frames_are_loss_not_a_black_hole() {
        assert_eq!(replies(vec![step(1, 5), step(16, 4)]), [("loss", true)]);
    }

    #[test]
    fn two_targets_are_told_from_two_paths() {
        let second = |serial: &'static str| {
            move |m: &mut Measured| {
                let mut path = m.paths[0].clone();
                path.target.mac = Mac([2, 0, 0, 0, 0, 2]);
                path.identified.disk = path.identified.disk.map(|d| Disk { serial: serial.into(), ..d });
                m.paths.push(path);
            }
        };
        assert_eq!(codes(second("s")), [("several_macs", false)]);
        assert_eq!(codes(second("other")), [("two_disks_one_address", true)]);
    }

    #[test]
    fn answers_that_should_not_be_are_problems() {
        assert_eq!(codes(|m| m.paths[0].target.repeated = 1), [("answered_twice", true)]);
        assert_eq!(codes(|m| m.paths[0].identified.repeated = 1), [("answered_twice", true)]);
        assert_eq!(codes(|m| m.paths[0].replies[2].repeated = 1), [("answered_twice", true)]);
        let other = Mac([2, 0, 0, 0, 0, 9]);
        assert_eq!(
            codes(|m| m.paths[0].requests[0].elsewhere = vec![other]),
            [("answers_from_elsewhere", true)]
        );
    }

    #[test]
    fn what_initiators_trip_over_is_told() {
        fn disk(m: &mut Measured) -> &mut Disk {
            m.paths[0].identified.disk.as_mut().unwrap()
        }
        assert_eq!(codes(|m| m.paths[0].target.buffer_count = 1), [("buffer_count_too_small", true)]);
        assert_eq!(codes(|m| m.address.shelf = 4095), [("ignored_by_linux", true)]);
        assert_eq!(codes(|m| disk(m).sectors = 0), [("no_capacity", true)]);
        assert_eq!(codes(|m| disk(m).oversize = true), [("size_beyond_48_bits", true)]);
        assert_eq!(codes(|m| disk(m).lba = false), [("no_lba_bit", false)]);
        let silent = Identified { disk: Err(Failure::Silent), repeated: 0 };
        assert_eq!(codes(|m| m.paths[0].identified = silent), [("identify_failed", true)]);
        assert_eq!(codes(|m| m.paths[0].target.sectors = 17), [("unaligned_sectors", false)]);
        assert_eq!(codes(|m| m.mtu = 1500), [("mtu_here_limits", false)]);
        assert_eq!(codes(|m| m.paths[0].target.sectors = 8), [("mtu_there_limits", false)]);
    }

    #[test]
    fn sizes_double_up_to_what_fits() {
        assert_eq!(sizes(17, &[16]), [1, 2, 4, 8, 16, 17]);
        assert_eq!(sizes(2, &[2]), [1, 2]);
        assert_eq!(sizes(17, &[9, 40]), [1, 2, 4, 8, 9, 16, 17]);
        assert_eq!(sizes(0, &[1]), [0; 0]);
    }

    #[test]
    fn the_search_ends_at_the_largest_that_works() {
        for largest in 3..100 {
            assert_eq!(search(3, 100, |n| Ok::<_, ()>(n <= largest)), Ok(largest));
        }
        assert_eq!(search(5, 6, |_| Err(())), Ok(5));
    }
}
