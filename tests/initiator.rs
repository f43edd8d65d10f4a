//! The initiator against Debian's vblade, in network namespaces of its own.
//!
//! ```text
//!   namespace xsi-PID-N-t                 namespace xsi-PID-N-i
//!   vblade 7.0 on `port` ──── veth ────── `port`: discover, bench, probe (this process, one thread inside)
//! ```
//!
//! Needs root, iproute2 and vblade; a test that lacks them says SKIPPED. vblade's replies are not padded and it
//! advertises 17 sectors at MTU 9000.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use clap::Parser;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use xshelf::exit::Exit;
use xshelf::initiator::pattern::Random;
use xshelf::initiator::socket::{Options, Port};
use xshelf::initiator::{Error, bench, discover, probe};
use xshelf::protocol::aoe::Flags;
use xshelf::protocol::ata::{Ata, Outcome};
use xshelf::protocol::config::Config;
use xshelf::protocol::{Address, Command as AoeCommand, Ethernet, Header, Mac};

/// A guard against hangs, not a measure of anything.
const HANG: Duration = Duration::from_secs(300);

fn run(command: &str) -> Result<(), String> {
    let mut words = command.split_whitespace();
    let output =
        Command::new(words.next().unwrap()).args(words).output().map_err(|e| format!("{command}: {e}"))?;
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command}: {error}")) }
}

fn must(command: &str) {
    run(command).unwrap();
}

/// Two namespaces with a cable between them, and the targets on it.
struct Net {
    target: String,
    initiator: String,
    blades: Vec<Child>,
    files: Vec<tempfile::NamedTempFile>,
}

impl Net {
    /// `None`, with the reason on a line of its own, when this cannot be tested here.
    fn new(mtu: u32) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: network namespaces need root");
            return None;
        }
        for program in ["ip", "vblade"] {
            let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
                .iter()
                .any(|d| std::path::Path::new(d).join(program).exists());
            if !found {
                println!("SKIPPED: {program} is not installed (apt-get install iproute2 vblade)");
                return None;
            }
        }
        let name = format!("xsi-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (target, initiator) = (format!("{name}-t"), format!("{name}-i"));
        if let Err(e) = run(&format!("ip netns add {target}")) {
            println!("SKIPPED: {e}");
            return None;
        }
        let net =
            Self { target: target.clone(), initiator: initiator.clone(), blades: vec![], files: vec![] };
        must(&format!("ip netns add {initiator}"));
        must(&format!(
            "ip -n {target} link add port mtu {mtu} type veth peer name port mtu {mtu} netns {initiator}"
        ));
        for ns in [&target, &initiator] {
            must(&format!("ip -n {ns} link set port up"));
        }
        Some(net)
    }

    /// Two namespaces with a switch between them; its port towards the initiator has another MTU than all else.
    fn switched(mtu: u32, mtu_in_the_middle: u32) -> Option<Self> {
        let net = Self::new(mtu)?;
        let (t, i) = (&net.target, &net.initiator);
        // The switch lives in the target's namespace; `far` is what was the initiator's neighbour.
        for command in [
            format!("ip -n {t} link set port name far"),
            format!("ip -n {t} link add switch type bridge"),
            format!("ip -n {t} link add port mtu {mtu} type veth peer name near mtu {mtu}"),
            format!("ip -n {t} link set near master switch up"),
            format!("ip -n {t} link set far mtu {mtu_in_the_middle} master switch up"),
            format!("ip -n {t} link set switch up"),
            format!("ip -n {t} link set port up"),
            format!("ip -n {i} link set port up"),
        ] {
            if let Err(e) = run(&command) {
                println!("SKIPPED: {e}");
                return None;
            }
        }
        Some(net)
    }

    /// Starts a vblade with a disk of this size and waits until it answers.
    fn blade(&mut self, slot: u8, bytes: u64, options: &str) {
        self.blade_on("port", slot, bytes, options);
        let start = Instant::now();
        loop {
            let (exit, report, _) = self.discover(Duration::from_millis(40));
            if exit == Exit::Ok && report["targets"].as_array().unwrap().len() >= self.blades.len() {
                return;
            }
            assert!(start.elapsed() < HANG, "vblade does not start");
        }
    }

    /// Starts a vblade on one of the target's interfaces.
    fn blade_on(&mut self, interface: &str, slot: u8, bytes: u64, options: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.target, "vblade"]).args(options.split_whitespace());
        command.args(["7", &slot.to_string(), interface]).arg(file.path());
        self.blades.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        self.files.push(file);
    }

    /// Runs something on a thread inside a namespace.
    fn inside<T: Send>(&self, ns: &str, what: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{ns}")).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                what()
            });
            thread.join().unwrap()
        })
    }

    fn discover(&self, wait: Duration) -> (Exit, serde_json::Value, String) {
        let args = discover::Args { interface: "port".into(), wait, vlan: None, json: true };
        self.inside(&self.initiator, || {
            let (mut out, mut notes) = (Vec::new(), Vec::new());
            let exit = discover::run_to(&args, &mut out, &mut notes).unwrap();
            (exit, serde_json::from_slice(&out).unwrap(), String::from_utf8(notes).unwrap())
        })
    }
}

/// The subcommands' arguments, as the command line gives them.
#[derive(Parser)]
struct BenchLine {
    #[command(flatten)]
    args: bench::Args,
}

#[derive(Parser)]
struct ProbeLine {
    #[command(flatten)]
    args: probe::Args,
}

impl Net {
    /// `xshelf probe port ARGUMENTS --json`, and the codes of what it found.
    fn probe(&self, arguments: &str) -> Result<(Exit, serde_json::Value, Vec<String>), Error> {
        let line = ["probe", "port"].into_iter().chain(arguments.split_whitespace()).chain(["--json"]);
        let args = ProbeLine::try_parse_from(line).unwrap().args;
        self.inside(&self.initiator, || {
            let mut out = Vec::new();
            let exit = probe::run_to(&args, &mut out)?;
            let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let findings = report["findings"].as_array().unwrap();
            let codes = findings.iter().map(|f| f["code"].as_str().unwrap().to_owned()).collect();
            Ok((exit, report, codes))
        })
    }
}

impl Net {
    /// `xshelf bench port ARGUMENTS --json`
    fn bench(&self, arguments: &str) -> Result<(Exit, serde_json::Value, String), Error> {
        let line = ["bench", "port"].into_iter().chain(arguments.split_whitespace()).chain(["--json"]);
        let args = BenchLine::try_parse_from(line).unwrap().args;
        self.inside(&self.initiator, || {
            let (mut out, mut notes) = (Vec::new(), Vec::new());
            let exit = bench::run_to(&args, &mut out, &mut notes, &AtomicBool::new(false))?;
            Ok((exit, serde_json::from_slice(&out).unwrap(), String::from_utf8(notes).unwrap()))
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for blade in &mut self.blades {
            let _ = blade.kill();
            let _ = blade.wait();
        }
        for ns in [&self.target, &self.initiator] {
            let _ = run(&format!("ip netns delete {ns}"));
        }
    }
}

#[test]
fn discover_lists_size_model_and_sectors() {
    for (mtu, sectors) in [(1500, 2), (9000, 17)] {
        let Some(mut net) = Net::new(mtu) else { return };
        net.blade(0, 64 << 20, "");
        net.blade(1, 3 << 20, "-b 40");
        let (exit, report, _) = net.discover(Duration::from_millis(300));
        assert_eq!(exit, Exit::Ok);
        let targets = report["targets"].as_array().unwrap();
        assert_eq!(targets.len(), 2, "{report:#}");
        assert_eq!(targets[0]["address"], "7.0");
        assert_eq!(targets[0]["bytes"], 64 << 20);
        assert_eq!(targets[0]["model"], "Coraid EtherDrive vblade");
        assert_eq!(targets[0]["sectors_per_frame"], sectors);
        assert_eq!(targets[0]["buffer_count"], 16);
        assert_eq!(targets[1]["buffer_count"], 40);
        assert_eq!(targets[1]["bytes"], 3 << 20);
        assert_eq!(report["shared_addresses"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn discover_says_what_to_check_when_nobody_answers() {
    let Some(net) = Net::new(1500) else { return };
    let (exit, report, notes) = net.discover(Duration::from_millis(50));
    assert_eq!(exit, Exit::NoAnswer);
    assert!(report["targets"].as_array().unwrap().is_empty());
    for word in ["nobody answered on port", "VLAN", "MAC mask", "MTU"] {
        assert!(notes.contains(word), "{notes}");
    }
}

#[test]
fn an_interface_that_is_down_is_an_error_of_the_environment() {
    let Some(net) = Net::new(1500) else { return };
    must(&format!("ip -n {} link set port down", net.initiator));
    let args =
        discover::Args { interface: "port".into(), wait: Duration::from_secs(1), vlan: None, json: false };
    let error =
        net.inside(&net.initiator, || discover::run_to(&args, &mut Vec::new(), &mut Vec::new())).unwrap_err();
    assert_eq!(error.exit(), Exit::Environment);
    assert_eq!(error.to_string(), "interface port is down; `ip link set port up`");
}

#[test]
fn bench_reads_writes_and_mixes() {
    for (mtu, sectors) in [(1500, 2), (9000, 17)] {
        let Some(mut net) = Net::new(mtu) else { return };
        net.blade(0, 64 << 20, "");
        for (mode, reads, writes) in [
            ("--mode read", true, false),
            ("--mode read --access sequential --sectors 1", true, false),
            ("--mode write --destroy-data", false, true),
            ("--mode mix --reads 50 --destroy-data --bypass-qdisc", true, true),
        ] {
            let (exit, report, notes) = net.bench(&format!("7.0 {mode} --seconds 300ms --depth 32")).unwrap();
            assert_eq!((exit, &report["ok"]), (Exit::Ok, &true.into()), "{report:#}");
            let slot = &report["slots"][0];
            let want = if mode.contains("--sectors 1") { 1 } else { sectors };
            assert_eq!((&slot["window"], &slot["sectors_per_request"]), (&16.into(), &want.into()));
            assert!(notes.contains("depth 32 limited to 16"), "{notes}");
            for (direction, used) in [("reads", reads), ("writes", writes)] {
                assert_eq!(slot[direction]["requests"].as_u64().unwrap() > 0, used, "{mode}: {report:#}");
                let bytes = slot[direction]["requests"].as_u64().unwrap() * want as u64 * 512;
                assert_eq!(slot[direction]["bytes"], bytes);
                let latency = &slot[direction]["latency_us"];
                let order = ["min", "p50", "p90", "p99", "p99_9", "max"].map(|f| latency[f].as_f64());
                assert!(order.is_sorted() && order[0].is_some() == used, "{order:?}");
            }
        }
    }
}

#[test]
fn bench_verifies_several_slots() {
    for mtu in [1500, 9000] {
        let Some(mut net) = Net::new(mtu) else { return };
        net.blade(0, 4 << 20, "-b 64");
        net.blade(1, 2 << 20, "-b 64");
        let line = "7.0 7.1 --mode verify --destroy-data --seconds 1 --depth 64 --seed 7";
        let (exit, report, _) = net.bench(line).unwrap();
        assert_eq!(exit, Exit::Ok, "{report:#}");
        assert_eq!(report["seed"], 7);
        for slot in report["slots"].as_array().unwrap() {
            let verify = &slot["verify"];
            assert_eq!(verify["bad_sectors"], 0, "{report:#}");
            assert!(verify["sectors_read_back"].as_u64().unwrap() > 1000, "{report:#}");
            assert_eq!(verify["sectors_read_back"], verify["sectors_written"]);
            assert_eq!(slot["window"], 64);
        }
    }
}

/// Somebody else writes to the disk behind the target's back: that is what bad data looks like.
#[test]
fn bench_finds_foreign_data() {
    use std::os::unix::fs::FileExt;
    let Some(mut net) = Net::new(1500) else { return };
    net.blade(0, 1 << 20, "");
    let file = net.files[0].reopen().unwrap();
    let done = AtomicBool::new(false);
    let (exit, report, _) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                file.write_all_at(b"gotcha", 100 * 512 + 77).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = net.bench("7.0 --mode verify --destroy-data --seconds 1 --span 64K");
        done.store(true, Ordering::Relaxed);
        result.unwrap()
    });
    assert_eq!((exit, &report["ok"]), (Exit::Problem, &false.into()), "{report:#}");
    let bad = &report["mismatches"][0];
    assert_eq!((&bad["lba"], &bad["offset"], &bad["address"]), (&100.into(), &77.into(), &"7.0".into()));
    assert_eq!(bad["got"], u64::from(b'g'));
}

#[test]
fn bench_names_the_errors_of_the_target() {
    let Some(mut net) = Net::new(1500) else { return };
    net.blade(0, 1 << 20, "-r");
    let (exit, report, _) = net.bench("7.0 --mode write --destroy-data --seconds 1").unwrap();
    assert_eq!(exit, Exit::Problem);
    let slot = &report["slots"][0];
    assert_eq!(slot["errors"][0]["error"], "ATA 41/04 (aborted)", "{report:#}");
    assert!(slot["left"].as_str().unwrap().contains("nothing but errors"), "{report:#}");
}

#[test]
fn bench_gives_up_on_a_target_that_dies() {
    let Some(mut net) = Net::new(1500) else { return };
    net.blade(0, 1 << 20, "");
    let id = net.blades[0].id();
    let (exit, report, _) = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(1500));
            must(&format!("kill -STOP {id}"));
        });
        net.bench("7.0 --seconds 3 --deadline 1").unwrap()
    });
    assert_eq!(exit, Exit::Problem);
    let left = report["slots"][0]["left"].as_str().unwrap();
    assert!(left.contains("did not answer a read of 1 KiB at LBA"), "{left}");
    assert!(report["slots"][0]["reads"]["requests"].as_u64().unwrap() > 0);
    must(&format!("kill -CONT {id}"));
}

#[test]
fn bench_survives_a_cable_that_is_pulled_for_a_moment() {
    // Behind a switch: a vblade whose own port has no carrier ends at its next answer.
    let Some(mut net) = Net::switched(1500, 1500) else { return };
    net.blade(0, 1 << 20, "");
    let ns = net.initiator.clone();
    let (exit, report, _) = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(1500));
            must(&format!("ip -n {ns} link set port down"));
            std::thread::sleep(Duration::from_millis(500));
            must(&format!("ip -n {ns} link set port up"));
        });
        net.bench("7.0 --mode verify --destroy-data --seconds 3").unwrap()
    });
    assert_eq!(exit, Exit::Ok, "{report:#}");
    assert!(report["slots"][0]["retransmits"].as_u64().unwrap() > 0, "{report:#}");
}

#[test]
fn bench_refuses_what_cannot_be() {
    let Some(mut net) = Net::new(1500) else { return };
    net.blade(0, 1 << 20, "");
    for (line, exit, text) in [
        (
            "7.0 --mode write",
            Exit::Usage,
            "this mode overwrites 7.0; if whatever is there may be lost, say --destroy-data",
        ),
        ("7.0 --sectors 3", Exit::Usage, "7.0 takes at most 2 sectors in a request, not 3"),
        ("7.0 7.0", Exit::Usage, "7.0 is named twice"),
        ("7.9", Exit::NoAnswer, "no answer from 7.9 on port; check:"),
    ] {
        let error = net.bench(line).unwrap_err();
        assert_eq!(error.exit(), exit, "{line}");
        assert!(error.to_string().starts_with(text), "{error}");
    }
}

#[test]
fn probe_finds_a_good_path_healthy() {
    for (mtu, sectors, codes) in [(1500, 2, vec![]), (9000, 17, vec!["unaligned_sectors"])] {
        let Some(mut net) = Net::new(mtu) else { return };
        net.blade(0, 1 << 20, "");
        let (exit, report, found) = net.probe("7.0").unwrap();
        assert_eq!(
            (exit, &report["healthy"], found),
            (Exit::Ok, &true.into(), codes.iter().map(ToString::to_string).collect())
        );
        let path = &report["paths"][0];
        assert_eq!(path["largest_reply_bytes"], 36 + sectors * 512);
        assert_eq!(path["largest_request_bytes"], mtu + 14, "the whole MTU");
        assert_eq!(path["queries_answered"], 5);
    }
}

#[test]
fn probe_finds_a_jumbo_black_hole() {
    let Some(mut net) = Net::switched(9000, 3000) else { return };
    net.blade(0, 1 << 20, "");
    let (exit, report, found) = net.probe("7.0 --count 2 --timeout 100ms").unwrap();
    assert_eq!(exit, Exit::Problem);
    assert!(found.contains(&"replies_vanish".to_owned()), "{report:#}");
    assert!(found.contains(&"requests_vanish".to_owned()), "{report:#}");
    // A veth lets a frame through that is 4 bytes longer than its MTU, for a VLAN tag.
    let path = &report["paths"][0];
    assert_eq!(path["largest_request_bytes"], 3000 + 14 + 4, "{report:#}");
    assert_eq!(path["largest_reply_bytes"], 36 + 5 * 512);
}

#[test]
fn probe_finds_two_targets_with_one_address() {
    let Some(mut net) = Net::switched(1500, 1500) else { return };
    net.blade(0, 1 << 20, "");
    let ns = net.target.clone();
    for command in
        ["link add port2 type veth peer name near2", "link set near2 master switch up", "link set port2 up"]
    {
        must(&format!("ip -n {ns} {command}"));
    }
    net.blade_on("port2", 0, 2 << 20, "");
    let start = Instant::now();
    let (exit, report, found) = loop {
        let result = net.probe("7.0").unwrap();
        if result.1["paths"].as_array().unwrap().len() == 2 || start.elapsed() > HANG {
            break result;
        }
    };
    assert_eq!((exit, found), (Exit::Problem, vec!["two_disks_one_address".to_owned()]), "{report:#}");
    let (exit, report, _) = net.discover(Duration::from_millis(300));
    assert_eq!(exit, Exit::Ok);
    assert_eq!(report["shared_addresses"][0]["conflict"], true, "{report:#}");
}

#[test]
fn probe_finds_two_targets_behind_one_mac() {
    let Some(mut net) = Net::new(1500) else { return };
    net.blade(0, 1 << 20, "");
    net.blade_on("port", 0, 1 << 20, "");
    let start = Instant::now();
    loop {
        let (exit, report, found) = net.probe("7.0").unwrap();
        if exit == Exit::Problem {
            assert_eq!(found, ["answered_twice"], "{report:#}");
            return;
        }
        assert!(start.elapsed() < HANG, "{report:#}");
    }
}

#[test]
fn probe_of_nobody_says_so() {
    let Some(net) = Net::new(1500) else { return };
    let error = net.probe("7.0").unwrap_err();
    assert_eq!(error.exit(), Exit::NoAnswer);
}

/// A target of a few lines in plain memory, behind the initiator's own socket: for what vblade cannot do (tagged
/// frames on a kernel without VLAN interfaces) and for a wire that loses frames on a kernel without netem.
struct Toy {
    vlan: Option<u16>,
    /// Of 1000 frames, requests and replies alike.
    lost: u64,
}

impl Toy {
    const ADDRESS: Address = Address { shelf: 7, slot: 0 };

    /// Lets it serve 7.0 in the target's namespace while `what` runs.
    fn during(&self, net: &Net, what: impl FnOnce()) {
        let stop = AtomicBool::new(false);
        let ready = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                net.inside(&net.target, || {
                    let options = Options { vlan: self.vlan, ..Options::default() };
                    let mut port = Port::open("port", options).unwrap();
                    ready.store(true, Ordering::Relaxed);
                    self.serve(&mut port, &mut vec![0; 1 << 20], &stop);
                });
            });
            // Whatever fails must not leave the target running, or this would never end.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let start = Instant::now();
                while !ready.load(Ordering::Relaxed) {
                    assert!(start.elapsed() < HANG, "the target does not start");
                    std::thread::sleep(Duration::from_millis(1));
                }
                what();
            }));
            stop.store(true, Ordering::Relaxed);
            result.unwrap();
        });
    }

    fn serve(&self, port: &mut Port, disk: &mut [u8], stop: &AtomicBool) {
        let mut random = Random::new(1);
        while !stop.load(Ordering::Relaxed) {
            let mut replies = Vec::new();
            for i in 0..port.receive(true).unwrap() {
                if random.below(1000) >= self.lost {
                    replies.extend(self.answer(port.mac(), port.arrival(i).bytes, disk));
                }
            }
            replies.retain(|_| random.below(1000) >= self.lost);
            for reply in replies {
                assert_eq!(port.send(&[&reply]).unwrap(), 1);
            }
        }
    }

    fn answer(&self, mac: Mac, request: &[u8], disk: &mut [u8]) -> Option<Vec<u8>> {
        let (ethernet, header) = (Ethernet::parse(request)?, Header::parse(&request[14..])?);
        if header.flags.contains(Flags::RESPONSE) || !header.address.covers(Self::ADDRESS) {
            return None;
        }
        let at = if self.vlan.is_some() { 18 } else { 14 };
        let mut reply = vec![0; at + 22];
        Ethernet { destination: ethernet.source, source: mac, tag: self.vlan, ..ethernet }.emit(&mut reply);
        header.response(Self::ADDRESS, None).emit(&mut reply[at..]);
        if header.command != AoeCommand::Ata {
            let config = Config::parse(&request[24..])?;
            reply.truncate(at + 18);
            Config { buffer_count: 16, sectors: 16, ..config }.emit(&mut reply[at + 10..]);
            return Some(reply);
        }
        let registers = Ata::parse(&request[24..])?;
        let from = registers.lba48() as usize * 512;
        let range = from..from + usize::from(registers.count) * 512;
        registers.response(Outcome::GOOD).emit(&mut reply[at + 10..]);
        match registers.command {
            0xec => {
                let mut page = [0; 512];
                for (word, value) in
                    [(49, 0x200u16), (83, 0x5400), (86, 0x1400), (100, (disk.len() / 512) as u16)]
                {
                    page[2 * word..2 * word + 2].copy_from_slice(&value.to_le_bytes());
                }
                reply.extend_from_slice(&page);
            }
            0x24 => reply.extend_from_slice(&disk[range]),
            _ => disk[range.clone()].copy_from_slice(&request[36..36 + range.len()]),
        }
        Some(reply)
    }
}

#[test]
fn a_vlan_is_spoken_without_a_vlan_interface() {
    let Some(mut net) = Net::new(9000) else { return };
    net.blade(1, 1 << 20, "");
    Toy { vlan: Some(5), lost: 0 }.during(&net, || {
        let (exit, report, _) = net.probe("7.0 --vlan 5").unwrap();
        assert_eq!(
            (exit, &report["vlan"], &report["healthy"]),
            (Exit::Ok, &5.into(), &true.into()),
            "{report:#}"
        );
        assert_eq!(report["paths"][0]["largest_reply_bytes"], 36 + 17 * 512);
        assert_eq!(report["paths"][0]["largest_request_bytes"], 9014);
        let line = "7.0 --vlan 5 --mode verify --destroy-data --seconds 300ms";
        let (exit, report, _) = net.bench(line).unwrap();
        assert_eq!((exit, &report["vlan"]), (Exit::Ok, &5.into()), "{report:#}");
        // Neither side of the tag sees the other.
        assert_eq!(net.bench("7.1 --vlan 5").unwrap_err().exit(), Exit::NoAnswer);
        assert_eq!(net.bench("7.0 --vlan 6").unwrap_err().exit(), Exit::NoAnswer);
        let (_, report, _) = net.discover(Duration::from_millis(300));
        let targets = report["targets"].as_array().unwrap();
        assert_eq!(targets.iter().map(|t| t["address"].clone()).collect::<Vec<_>>(), ["7.1"]);
    });
}

/// The wire loses frames both ways; the verification still ends well, and says what it had to do.
#[test]
fn bench_verifies_over_a_lossy_wire() {
    let Some(net) = Net::new(9000) else { return };
    Toy { vlan: None, lost: 30 }.during(&net, || {
        let (exit, report, _) = net.bench("7.0 --mode verify --destroy-data --seconds 2").unwrap();
        assert_eq!(exit, Exit::Ok, "{report:#}");
        let slot = &report["slots"][0];
        assert!(slot["retransmits"].as_u64().unwrap() > 0, "{report:#}");
        assert!(slot["verify"]["quarantined_sectors"].as_u64().unwrap() > 0, "{report:#}");
        assert_eq!(slot["verify"]["bad_sectors"], 0);
    });
}

#[test]
fn probe_finds_loss() {
    let Some(net) = Net::new(1500) else { return };
    Toy { vlan: None, lost: 150 }.during(&net, || {
        let (exit, report, found) = net.probe("7.0 --count 60 --timeout 50ms").unwrap();
        assert_eq!(exit, Exit::Problem);
        // 16 sectors do not fit the MTU here, and that is told, too.
        assert_eq!(found, ["loss", "mtu_here_limits"], "{report:#}");
    });
}
