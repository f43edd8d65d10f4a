//! A network namespace of its own for a test, with veth pairs in it; gone with the test's thread, also on panic.
//!
//! ```text
//!   namespace without a name, of one thread
//!   ┌──────────────────────────────────────────────┐
//!   │  tgt0 ◄──── veth ────► ini0                  │
//!   │  (XDP, AF_XDP)         (packet socket, AF_XDP)│
//!   └──────────────────────────────────────────────┘
//! ```
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

/// Only guards against a hang; no verdict depends on how long something took.
const HANG: Duration = Duration::from_secs(120);

/// The end that is served, and the end that asks.
pub const TARGET: &str = "tgt0";
pub const INITIATOR: &str = "ini0";
pub const TARGET_MAC: [u8; 6] = [2, 0xae, 0, 0, 1, 0x10];
pub const INITIATOR_MAC: [u8; 6] = [2, 0xae, 0, 0, 0, 0x10];

/// Runs the test in a thread with a network namespace of its own; says SKIPPED where that is not possible.
pub fn alone(test: impl FnOnce() + Send + 'static) {
    // SAFETY: takes and changes nothing.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIPPED: needs root (network namespaces, XDP)");
        return;
    }
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        // SAFETY: affects this thread only, which nothing else relies on.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            println!("SKIPPED: no network namespace: {}", io::Error::last_os_error());
            return;
        }
        test();
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// Version of the running kernel, major and minor.
#[allow(dead_code, reason = "not every test binary asks")]
pub fn linux() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("release of the kernel");
    let mut parts = release.split(['.', '-']).map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => panic!("kernel release {release:?}"),
    }
}

/// Runs `ip` in the namespace of this thread.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip (iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A veth pair, both ends up, without IPv6 chatter.
pub fn veth(mtu: u32, target_queues: u32, initiator_queues: u32) {
    ip(&format!(
        "link add {TARGET} mtu {mtu} numrxqueues {target_queues} numtxqueues {target_queues} type veth \
         peer name {INITIATOR} mtu {mtu} numrxqueues {initiator_queues} numtxqueues {initiator_queues}"
    ));
    for (name, mac) in [(TARGET, TARGET_MAC), (INITIATOR, INITIATOR_MAC)] {
        let mac: Vec<_> = mac.iter().map(|b| format!("{b:02x}")).collect();
        ip(&format!("link set dev {name} addrgenmode none address {} up", mac.join(":")));
    }
}

/// Waits until `done` says so.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < HANG, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An AoE frame of `len` bytes to a shelf; what follows the header is a pattern.
pub fn request(destination: [u8; 6], shelf: u16, len: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(destination);
    frame.extend(INITIATOR_MAC);
    frame.extend([0x88, 0xa2, 0x10, 0]);
    frame.extend(shelf.to_be_bytes());
    frame.extend([3, 1, 0, 0, 0, 42]);
    frame.extend((frame.len()..len.max(frame.len())).map(|i| (i % 251) as u8));
    frame.truncate(len);
    frame
}

/// The same with an 802.1Q tag.
pub fn tagged(mut frame: Vec<u8>, vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    frame.splice(12..12, [0x81, 0, high, low]);
    frame
}

/// A packet socket on one end: sends frames and sees all AoE frames that reach the stack there.
pub struct Station(OwnedFd);

impl Station {
    pub fn on(interface: &str) -> Self {
        let protocol = 0x88a2u16.to_be();
        // SAFETY: plain calls with arguments that live through them; the descriptor is ours alone.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
            assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let name = std::ffi::CString::new(interface).unwrap();
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let len = size_of::<libc::sockaddr_ll>() as u32;
            assert_eq!(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len), 0);
            Self(fd)
        }
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame that arrived here, if one has; what this station sent is left out.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        loop {
            // SAFETY: plain data for which zero is a value.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut len = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: both buffers are as long as said.
            let got = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut from).cast(),
                    &raw mut len,
                )
            };
            let got = usize::try_from(got).ok()?;
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                buffer.truncate(got);
                return Some(buffer);
            }
        }
    }

    /// Waits for the next frame that arrives here.
    pub fn expect(&self) -> Vec<u8> {
        let mut frame = None;
        eventually("a frame arrives", || {
            frame = self.take();
            frame.is_some()
        });
        frame.unwrap()
    }
}
