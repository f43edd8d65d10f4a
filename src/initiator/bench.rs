//! `xshelf bench`: load slots and measure, or verify what they keep.
//!
//! Not here: which requests are made (`load`), what is known of the data (`ledger`), the socket (`socket`).
//! Invariant: nothing is written to a slot without consent on the command line.

use super::contact::{self, Clock, Target, Until};
use super::discover::hint;
use super::identify::Disk;
use super::load::{Access, Left, Load, Lun, LunReport, Mode, Outcome, Phase, Plan, Progress, Tally};
use super::report::{
    self, BadSector, BenchSlot, Direction, ErrorCount, Latency, StrayReplies, VerifySlot, size,
};
use super::session::{Nanos, Patience, SECOND};
use super::socket::{Options, Port};
use super::wire::{Ask, Width};
use super::{Error, bytes, seconds};
use crate::exit::Exit;
use crate::limits::{ATA_FRAME, ETHERNET, SECTOR};
use crate::protocol::Address;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes a verification uses of a slot unless told otherwise: it keeps five bytes for each sector.
const VERIFY_SPAN: u64 = 1 << 30;
/// How long a slot is asked for before it counts as not there.
const CONTACT: Duration = Duration::from_secs(3);
/// Nanoseconds between two words about the progress, on a terminal and elsewhere.
const REFRESH: (Nanos, Nanos) = (SECOND / 5, 5 * SECOND);

const EXAMPLES: &str = "\
Examples:
  xshelf bench eth1 7.0
      random reads for 10 s
  xshelf bench eth1 7.0 7.1 7.2 --depth 64 --seconds 60
      three slots at once
  xshelf bench eth1 7.0 --access sequential --sectors 8
      4 KiB requests, one behind the other
  xshelf bench eth1 7.0 --mode mix --reads 70 --destroy-data
      seven reads to three writes
  xshelf bench eth1 7.0 --mode verify --seconds 60 --destroy-data
      is what was acknowledged really there?

Modes (all but read need --destroy-data):
  read    reads; their data is not looked at
  write   writes of meaningless data
  mix     reads and writes, see --reads
  verify  writes sectors stamped with seed, slot, LBA and the number of the
          write, reads them back while writing goes on, and all of them once
          more at the end; every byte is compared. Requests in flight never
          overlap. Where a write had to be sent again, its sectors are not
          rewritten until every copy was answered: a late copy would put old
          data over new, and no target could tell. Of a network that is known
          to hold frames back, --settle says how long.

A request that is not answered within the retransmission timeout is sent
again under a new tag, until --deadline; then its slot is left alone and
counts as failed. The timeout is the measured round trip and four deviations,
within --rto-min and --rto-max, doubled at each copy. An answer to any copy
completes the request. Latencies run from the first copy to that answer.

Exit codes: 0 done; 1 a request failed, a slot stopped answering or a byte was
wrong; 2 usage; 3 no such interface, link down or no permission; 4 a slot did
not answer at all.
Needs CAP_NET_RAW. It uses one CPU; the report says how much of it.";

/// What kind of requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeArg {
    /// Reads.
    Read,
    /// Writes of meaningless data.
    Write,
    /// Reads and writes.
    Mix,
    /// Writes of known data, read back and compared.
    Verify,
}

/// Where requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessArg {
    /// Anywhere in the span.
    Random,
    /// One behind the other.
    Sequential,
}

/// Load slots: rates, latencies, retransmissions; or verify that they keep what they acknowledge.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The Ethernet interface the slots are reached by
    #[arg(value_name = "IF")]
    pub interface: String,

    /// The slots to load, all at once
    #[arg(value_name = "SHELF.SLOT", required = true)]
    pub slots: Vec<Address>,

    /// What to do
    #[arg(long, value_enum, default_value = "read")]
    pub mode: ModeArg,

    /// Yes, overwrite: whatever is on the slots named is lost. Needed by write, mix and verify
    #[arg(long)]
    pub destroy_data: bool,

    /// Where requests go; a verification chooses itself
    #[arg(long, value_enum, default_value = "random")]
    pub access: AccessArg,

    /// Reads among 100 requests, with --mode mix
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub reads: u8,

    /// Sectors of one request [default: as many as the target takes and the MTU carries]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub sectors: Option<u8>,

    /// Requests outstanding for each slot; never more than the target says it can queue (its buffer count)
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub depth: u16,

    /// How long to make requests: seconds, or with a unit (0.5, 60, 300ms)
    #[arg(long, value_name = "TIME", default_value = "10", value_parser = seconds)]
    pub seconds: Duration,

    /// Use only the beginning of each slot: bytes, or with a unit (64M, 1G)
    /// [default: all of it; 1G with --mode verify]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub span: Option<u64>,

    /// Give a request up after this time without an answer
    #[arg(long, value_name = "TIME", default_value = "30", value_parser = seconds)]
    pub deadline: Duration,

    /// Shortest time before a request is sent again
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = seconds)]
    pub rto_min: Duration,

    /// Longest time before a request is sent again
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = seconds)]
    pub rto_max: Duration,

    /// With --mode verify: the network may repeat frames, and hold them back this long. Sectors are not rewritten for
    /// so long after their write was answered, and then even if copies of it were not
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub settle: Option<Duration>,

    /// Repeat the choices and data of an earlier run [default: a new one; the report says which]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Talk in this VLAN, with tagged frames
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,

    /// Send without the interface's queueing discipline: cheaper, and the transmit queue follows the CPU
    #[arg(long)]
    pub bypass_qdisc: bool,

    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the command and prints to standard output and standard error. The first SIGINT or SIGTERM ends the load early,
/// the second the process.
///
/// # Errors
/// See [`Error`].
pub fn run(args: &Args) -> Result<Exit, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    run_to(args, &mut std::io::stdout().lock(), &mut std::io::stderr(), &stop)
}

/// Runs the command, with the report to `out` and remarks and progress to `notes`; `stop` ends the load early.
///
/// # Errors
/// As [`run`].
pub fn run_to(
    args: &Args,
    out: &mut dyn Write,
    notes: &mut dyn Write,
    stop: &AtomicBool,
) -> Result<Exit, Error> {
    check(args)?;
    let found = find(args, notes)?;
    let headers_only = args.mode != ModeArg::Verify;
    let options =
        Options { vlan: args.vlan, headers_only, bypass_qdisc: args.bypass_qdisc, ..Options::default() };
    let mut port = Port::open(&args.interface, options)?;
    let luns =
        found.iter().map(|(target, disk)| lun(args, &port, target, disk)).collect::<Result<Vec<_>, _>>()?;
    for (lun, (target, _)) in luns.iter().zip(&found) {
        if lun.window < usize::from(args.depth) {
            writeln!(
                notes,
                "{}: depth {} limited to {}, what the target says it can queue",
                lun.address, args.depth, target.buffer_count
            )?;
        }
    }
    let nanos = |d: Duration| Nanos::try_from(d.as_nanos()).unwrap_or(Nanos::MAX);
    let patience = Patience {
        rto_min: nanos(args.rto_min),
        rto_max: nanos(args.rto_max),
        rto_first: nanos(args.rto_max).min(Patience::default().rto_first).max(nanos(args.rto_min)),
        deadline: nanos(args.deadline),
    };
    let plan = Plan {
        mode: match args.mode {
            ModeArg::Read => Mode::Read,
            ModeArg::Write => Mode::Write,
            ModeArg::Mix => Mode::Mix { reads: args.reads },
            ModeArg::Verify => Mode::Verify,
        },
        access: match args.access {
            AccessArg::Random => Access::Random,
            AccessArg::Sequential => Access::Sequential,
        },
        duration: nanos(args.seconds),
        patience,
        settle: args.settle.map(nanos),
        // Short enough for every reader of JSON, and for people.
        seed: args.seed.unwrap_or_else(|| contact::random() & 0xffff_ffff),
        first_serial: contact::random() as u32,
        source: port.mac(),
        vlan: args.vlan,
    };
    let mut load = Load::new(plan, &luns);
    let cpu = cpu_time();
    let clock = Clock::start();
    let interrupted = drive(&mut port, &mut load, &clock, &mut Display::new(&plan, notes), stop)?;
    let cpu_share = (cpu_time() - cpu) * 100.0 / (clock.now() as f64 / SECOND as f64);
    let report = report(args, &plan, load.outcome(), port.drops(), cpu_share, interrupted);
    if args.json {
        report::json(&report, out)?;
    } else {
        report.write(out)?;
    }
    Ok(if report.ok { Exit::Ok } else { Exit::Problem })
}

/// What the arguments alone can be refused for.
fn check(args: &Args) -> Result<(), Error> {
    if args.mode != ModeArg::Read && !args.destroy_data {
        let slots: Vec<_> = args.slots.iter().map(ToString::to_string).collect();
        return Err(Error::Usage(format!(
            "this mode overwrites {}; if whatever is there may be lost, say --destroy-data",
            slots.join(", ")
        )));
    }
    let mut sorted = args.slots.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::Usage(format!("{} is named twice", pair[0])));
    }
    if args.settle.is_some() && args.mode != ModeArg::Verify {
        return Err(Error::Usage(
            "--settle is for --mode verify: no other looks at what it reads".to_owned(),
        ));
    }
    if args.rto_min > args.rto_max {
        return Err(Error::Usage("--rto-min is longer than --rto-max".to_owned()));
    }
    Ok(())
}

/// Asks for every slot and what it is.
fn find(args: &Args, notes: &mut dyn Write) -> Result<Vec<(Target, Disk)>, Error> {
    let mut port = Port::open(&args.interface, Options { vlan: args.vlan, ..Options::default() })?;
    let mut targets = Vec::new();
    for &address in &args.slots {
        let mut answers = contact::query(&mut port, address, CONTACT, 12, Until::Answered)?;
        if answers.is_empty() {
            let interface = port.name().to_owned();
            return Err(Error::NoAnswer { address, interface, hint: hint(&port) });
        }
        let target = answers.remove(0);
        if !answers.is_empty() {
            writeln!(
                notes,
                "{address} answers from {} MAC addresses; using {}",
                answers.len() + 1,
                target.mac
            )?;
        }
        if args.mode != ModeArg::Read && !target.config_string.is_empty() {
            writeln!(
                notes,
                "{address} has the config string \"{}\": is somebody using it?",
                report::printable(&target.config_string)
            )?;
        }
        targets.push(target);
    }
    let asked: Vec<_> = targets.iter().map(|t| (t.address, t.mac)).collect();
    let identified = contact::identify(&mut port, &asked, CONTACT)?;
    let mut found = Vec::new();
    for (target, identified) in targets.into_iter().zip(identified) {
        let unusable =
            |what| Error::Unusable { address: target.address, interface: port.name().to_owned(), what };
        let disk = identified.disk.map_err(|e| unusable(format!("IDENTIFY DEVICE: {e}")))?;
        if disk.sectors == 0 {
            return Err(unusable("it says it has no sectors".to_owned()));
        }
        found.push((target, disk));
    }
    Ok(found)
}

fn lun(args: &Args, port: &Port, target: &Target, disk: &Disk) -> Result<Lun, Error> {
    // Initiators count the Ethernet header as payload, too (drivers/block/aoe/aoecmd.c); a request for exactly so
    // many sectors as fit is granted.
    let usual = (port.mtu() as usize).saturating_sub(ATA_FRAME) / SECTOR;
    let exact = (port.mtu() as usize).saturating_sub(ATA_FRAME - ETHERNET) / SECTOR;
    let sectors = match args.sectors {
        Some(n) if n > target.sectors => {
            return Err(Error::Usage(format!(
                "{} takes at most {} sectors in a request, not {n}",
                target.address, target.sectors
            )));
        }
        Some(n) if usize::from(n) > exact => {
            return Err(Error::Usage(format!(
                "{n} sectors need an MTU of {}, {} has {}",
                usize::from(n) * SECTOR + ATA_FRAME - ETHERNET,
                port.name(),
                port.mtu()
            )));
        }
        Some(n) => n,
        None => target.sectors.min(u8::try_from(usual).unwrap_or(u8::MAX)),
    };
    if sectors == 0 {
        return Err(Error::Usage(format!("the MTU of {} ({}) is too small", port.name(), port.mtu())));
    }
    let wanted = args.span.unwrap_or(if args.mode == ModeArg::Verify { VERIFY_SPAN } else { u64::MAX });
    Ok(Lun {
        address: target.address,
        mac: target.mac,
        sectors,
        window: usize::from(args.depth.min(target.buffer_count.max(1))),
        span: (wanted / SECTOR as u64).clamp(1, disk.sectors),
        width: if disk.lba48 { Width::Lba48 } else { Width::Lba28 },
    })
}

/// Runs a load to its end; true when it was stopped early.
fn drive(
    port: &mut Port,
    load: &mut Load,
    clock: &Clock,
    display: &mut Display<'_>,
    stop: &AtomicBool,
) -> Result<bool, Error> {
    let mut interrupted = false;
    loop {
        let now = clock.now();
        load.turn(now);
        if load.is_done() {
            display.end();
            return Ok(interrupted);
        }
        load.flush(|frames| port.send(frames))?;
        let taken = port.receive(true)?;
        let now = clock.now();
        for i in 0..taken {
            load.take(now, port.arrival(i));
        }
        if display.is_due(now) {
            display.show(now, &load.progress())?;
            if stop.load(Ordering::Relaxed) && !interrupted {
                interrupted = true;
                load.stop(now);
            }
        }
    }
}

/// The progress: a bar on a terminal, a line now and then elsewhere.
struct Display<'a> {
    bar: Option<ProgressBar>,
    notes: &'a mut dyn Write,
    duration: Nanos,
    due: Nanos,
    said: Nanos,
    last: (Nanos, u64, u64),
}

impl<'a> Display<'a> {
    fn new(plan: &Plan, notes: &'a mut dyn Write) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(plan.duration);
            // A template that is wrong would show in the first test on a terminal; then the plain bar does.
            if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, notes, duration: plan.duration.max(1), due: 0, said: 0, last: (0, 0, 0) }
    }

    fn is_due(&self, now: Nanos) -> bool {
        now >= self.due
    }

    fn show(&mut self, now: Nanos, p: &Progress) -> Result<(), Error> {
        self.due = now + REFRESH.0;
        let say = now.saturating_sub(self.said) >= REFRESH.1;
        if self.bar.is_none() && !say {
            return Ok(());
        }
        let (then, completed, bytes) = self.last;
        let time = (now.saturating_sub(then)).max(1) as f64 / SECOND as f64;
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / time;
        let mut message = match p.phase {
            Phase::Loading | Phase::Done => {
                format!("{:.0} IOPS, {:.1} MB/s", rate(p.completed, completed), rate(p.bytes, bytes) / 1e6)
            }
            Phase::Draining => "waiting for the last answers".to_owned(),
            Phase::ReadingBack => format!("reading back {} of {} sectors", p.read_back.0, p.read_back.1),
        };
        for (count, what) in [(p.retransmits, "resent"), (p.errors, "errors"), (p.bad, "BAD SECTORS")] {
            if count > 0 {
                message += &format!(", {count} {what}");
            }
        }
        self.last = (now, p.completed, p.bytes);
        if let Some(bar) = &self.bar {
            let (at, of) = if p.phase == Phase::ReadingBack {
                p.read_back
            } else {
                (now.min(self.duration), self.duration)
            };
            bar.set_length(of);
            bar.set_position(at);
            bar.set_message(message);
        } else {
            self.said = now;
            writeln!(self.notes, "{:.0} s: {message}", now as f64 / SECOND as f64)?;
        }
        Ok(())
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// CPU time of this thread, in seconds.
fn cpu_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn report(
    args: &Args,
    plan: &Plan,
    outcome: Outcome,
    socket_drops: u64,
    cpu_share: f64,
    interrupted: bool,
) -> report::Bench {
    let time = (outcome.loaded_for.max(1)) as f64 / SECOND as f64;
    let rounded = |x: f64| (x * 10.0).round() / 10.0;
    let direction = |tally: &Tally| Direction {
        requests: tally.completed,
        bytes: tally.bytes,
        iops: rounded(tally.completed as f64 / time),
        mb_per_second: rounded(tally.bytes as f64 / time / 1e6),
        latency_us: Latency::of(&tally.latency),
    };
    let all = |of: fn(&LunReport) -> &Tally| {
        let mut luns = outcome.luns.iter();
        let mut sum = luns.next().map(|l| of(l).clone());
        for lun in luns {
            if let Some(sum) = &mut sum {
                let tally = of(lun);
                sum.completed += tally.completed;
                sum.bytes += tally.bytes;
                // All histograms have the same bounds.
                let _ = sum.latency.add(&tally.latency);
            }
        }
        sum.as_ref().map(direction).unwrap_or_default()
    };
    let slots: Vec<_> = outcome.luns.iter().map(|lun| slot_report(args, lun, &direction)).collect();
    let s = outcome.strays;
    let ok = outcome.bad == 0 && slots.iter().all(|s| s.errors.is_empty() && s.left.is_none());
    report::Bench {
        interface: args.interface.clone(),
        vlan: args.vlan,
        mode: match plan.mode {
            Mode::Read => "read",
            Mode::Write => "write",
            Mode::Mix { .. } => "mix",
            Mode::Verify => "verify",
        }
        .to_owned(),
        access: match plan.access {
            _ if plan.mode == Mode::Verify => "random",
            Access::Random => "random",
            Access::Sequential => "sequential",
        }
        .to_owned(),
        depth: usize::from(args.depth),
        seconds: (time * 1000.0).round() / 1000.0,
        seed: plan.seed,
        reads: all(|l| &l.reads),
        writes: all(|l| &l.writes),
        slots,
        stray_replies: StrayReplies {
            late: s.late,
            duplicate: s.duplicate,
            unexpected: s.unexpected,
            wrong_source: s.wrong_source,
            wrong_address: s.wrong_address,
            wrong_command: s.wrong_command,
            malformed: s.malformed,
        },
        socket_drops,
        initiator_cpu_percent: rounded(cpu_share),
        interrupted,
        mismatches: outcome
            .mismatches
            .iter()
            .map(|m| BadSector {
                address: m.expected.address.to_string(),
                lba: m.expected.lba,
                offset: m.offset,
                expected: m.expected_byte,
                got: m.got_byte,
                wrong_bytes: m.wrong_bytes,
                text: m.to_string(),
            })
            .collect(),
        ok,
    }
}

fn slot_report(args: &Args, report: &LunReport, direction: &impl Fn(&Tally) -> Direction) -> BenchSlot {
    let lun = &report.lun;
    let left = report.left.map(|left| match left {
        Left::Silent { ask, transmissions } => format!(
            "left alone: it did not answer a {} in {:.0} s, sent {transmissions} times",
            asked(ask),
            args.deadline.as_secs_f64()
        ),
        Left::Errors(failure) => format!("left alone: nothing but errors, the last one {failure}"),
    });
    BenchSlot {
        address: lun.address.to_string(),
        mac: lun.mac.to_string(),
        sectors_per_request: lun.sectors,
        window: lun.window,
        span_bytes: lun.span * SECTOR as u64,
        reads: direction(&report.reads),
        writes: direction(&report.writes),
        retransmits: report.retransmits,
        errors: report
            .errors
            .iter()
            .map(|(error, &count)| ErrorCount { error: error.to_string(), count })
            .collect(),
        left,
        verify: report.totals.map(|t| VerifySlot {
            sectors_written: t.written,
            sectors_checked: t.checked,
            sectors_read_back: report.read_back,
            bad_sectors: t.bad,
            quarantined_sectors: t.frozen,
            unknown_sectors: t.lost,
        }),
    }
}

fn asked(ask: Ask) -> String {
    match ask {
        Ask::Config => "query".to_owned(),
        Ask::Identify => "IDENTIFY DEVICE".to_owned(),
        Ask::Read { lba, count, .. } => format!("read of {} at LBA {lba}", size(u64::from(count) * 512)),
        Ask::Write { lba, count, .. } => format!("write of {} at LBA {lba}", size(u64::from(count) * 512)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_the_progress_is_a_line_now_and_then() {
        let mut notes = Vec::new();
        let mut display =
            Display { bar: None, notes: &mut notes, duration: 60 * SECOND, due: 0, said: 0, last: (0, 0, 0) };
        let progress = |phase, completed| Progress {
            phase,
            completed,
            bytes: completed * 1_000_000,
            retransmits: 3,
            errors: 0,
            bad: 0,
            read_back: (5, 9),
        };
        for tenth in 0..=60 {
            let now = tenth * SECOND / 10;
            if display.is_due(now) {
                display.show(now, &progress(Phase::Loading, 10 * tenth)).unwrap();
            }
        }
        display.show(20 * SECOND, &progress(Phase::ReadingBack, 600)).unwrap();
        display.end();
        let text = String::from_utf8(notes).unwrap();
        assert_eq!(
            text,
            "5 s: 100 IOPS, 100.0 MB/s, 3 resent\n20 s: reading back 5 of 9 sectors, 3 resent\n"
        );
    }
}
