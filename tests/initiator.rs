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

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use xshelf::exit::Exit;
use xshelf::initiator::discover;

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

    /// Starts a vblade with a disk of this size and waits until it answers.
    fn blade(&mut self, slot: u8, bytes: u64, options: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.target, "vblade"]).args(options.split_whitespace());
        command.args(["7", &slot.to_string(), "port"]).arg(file.path());
        self.blades.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        self.files.push(file);
        let start = Instant::now();
        loop {
            let (exit, report, _) = self.discover(Duration::from_millis(40));
            if exit == Exit::Ok && report["targets"].as_array().unwrap().len() >= self.blades.len() {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "vblade does not start");
        }
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
