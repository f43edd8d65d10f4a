//! Namespaces, a cable between them, files, and the processes that run there.
//!
//! Invariant: whatever a `Lab` or a `Server` made is gone when it is dropped, also after a panic.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The target's interface, in its namespace.
pub const TARGET: &str = "tgt0";
/// The initiator's interface, in its namespace.
pub const INITIATOR: &str = "ini0";

/// Longest time anything here may take: a guard against hangs, no measure of anything.
const GUARD: Duration = Duration::from_secs(180);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Makes a [`Lab`], or says why there can be none here and returns from the test.
macro_rules! lab {
    ($($cable:tt)*) => {
        match $crate::lab::Lab::new($crate::lab::Cable { $($cable)* }) {
            Some(lab) => lab,
            None => return,
        }
    };
}

/// The veth pair.
#[derive(Clone, Copy, Debug)]
pub struct Cable {
    pub mtu: u32,
    /// Receive and transmit queues at both ends.
    pub queues: u32,
}

impl Default for Cable {
    fn default() -> Self {
        Self { mtu: 9000, queues: 1 }
    }
}

/// Which end of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Target,
    Initiator,
}

/// Two namespaces, the cable, and a directory for files.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: tempfile::TempDir,
}

impl Lab {
    pub fn new(cable: Cable) -> Option<Self> {
        if let Some(why) = impossible() {
            println!("SKIPPED: {why}");
            return None;
        }
        let name = format!("xshelf-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Not /tmp: that may be memory, and then nothing is durable.
        let directory = tempfile::Builder::new().prefix("xshelf-e2e-").tempdir_in("/var/tmp").unwrap();
        // A test runs the binary as somebody who is not root.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let lab = Self { name, directory };
        let (target, initiator) = (lab.namespace(End::Target), lab.namespace(End::Initiator));
        ip(&["netns", "add", &target]);
        ip(&["netns", "add", &initiator]);
        let (mtu, queues) = (cable.mtu.to_string(), cable.queues.to_string());
        let end = ["mtu", &mtu, "numrxqueues", &queues, "numtxqueues", &queues, "netns"];
        let mut add = vec!["link", "add", TARGET];
        add.extend(end);
        add.extend([&target, "type", "veth", "peer", "name", INITIATOR]);
        add.extend(end);
        add.push(&initiator);
        ip(&add);
        for (end, interface, address) in
            [(End::Target, TARGET, "198.18.0.1/30"), (End::Initiator, INITIATOR, "198.18.0.2/30")]
        {
            lab.ip(end, &["address", "add", address, "dev", interface]);
            lab.ip(end, &["link", "set", interface, "up"]);
        }
        Some(lab)
    }

    /// A second cable between the same namespaces, `tgt1` to `ini1`.
    pub fn second_cable(&self, mtu: u32) {
        let mtu = mtu.to_string();
        let (target, initiator) = (self.namespace(End::Target), self.namespace(End::Initiator));
        let mut add = vec!["link", "add", "tgt1", "mtu", &mtu, "netns", &target, "type", "veth"];
        add.extend(["peer", "name", "ini1", "mtu", &mtu, "netns", &initiator]);
        ip(&add);
        self.ip(End::Target, &["link", "set", "tgt1", "up"]);
        self.ip(End::Initiator, &["link", "set", "ini1", "up"]);
    }

    /// Gives both ends the addresses of the conformance cases, and leaves VLAN tags in the frames.
    pub fn as_in_the_cases(&self) {
        for (end, interface, mac) in
            [(End::Target, TARGET, "02:00:00:00:00:01"), (End::Initiator, INITIATOR, "02:00:00:00:00:02")]
        {
            self.ip(end, &["link", "set", interface, "down"]);
            self.ip(end, &["link", "set", interface, "address", mac, "addrgenmode", "none", "up"]);
            let mut ethtool = Command::new("ethtool");
            ethtool.args(["-K", interface, "rxvlan", "off", "txvlan", "off"]);
            self.enter(end, &mut ethtool);
            run(ethtool).well();
        }
    }

    /// The name of a namespace, as for `ip netns`.
    pub fn namespace(&self, end: End) -> String {
        format!("{}-{}", self.name, if end == End::Target { "t" } else { "i" })
    }

    /// A path for a file that goes with the lab.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An image of zeros, not allocated.
    pub fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// `xshelf` in a namespace.
    pub fn xshelf<S: AsRef<OsStr>>(&self, end: End, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xshelf"));
        command.args(arguments);
        self.enter(end, &mut command);
        command
    }

    /// Lets a command start in a namespace.
    pub fn enter(&self, end: End, command: &mut Command) {
        let namespace = self.open(end);
        command.stdin(Stdio::null());
        // SAFETY: setns is async-signal-safe, and the descriptor lives as long as the closure that owns it.
        unsafe {
            command.pre_exec(move || setns(&namespace));
        }
    }

    /// Runs something on a thread in a namespace; sockets it opens stay there.
    pub fn within<T: Send + 'static>(&self, end: End, f: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.open(end);
        std::thread::spawn(move || {
            setns(&namespace).unwrap();
            f()
        })
        .join()
        .unwrap()
    }

    fn open(&self, end: End) -> File {
        let path = Path::new("/run/netns").join(self.namespace(end));
        File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// `ip` in a namespace; returns what it printed. (`ip -n` would remount the root, which no chroot allows.)
    pub fn ip(&self, end: End, arguments: &[&str]) -> String {
        let mut command = Command::new("ip");
        command.args(arguments);
        self.enter(end, &mut command);
        run(command).well().output
    }

    /// Whether an XDP program is attached to an interface of the target.
    pub fn xdp_attached(&self) -> bool {
        self.ip(End::Target, &["-d", "link", "show"]).contains("xdp")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for end in [End::Target, End::Initiator] {
            // A namespace that was never made needs no removal; anything else is seen by the next look at `ip netns`.
            let _ = Command::new("ip")
                .args(["netns", "del", &self.namespace(end)])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// Why no test can run here.
fn impossible() -> Option<String> {
    // SAFETY: no arguments, no memory.
    if unsafe { libc::geteuid() } != 0 {
        return Some("network namespaces and AF_XDP need root".into());
    }
    let unshared = std::thread::spawn(|| {
        // SAFETY: changes the namespace of this thread, which ends here.
        match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    });
    if let Err(e) = unshared.join().unwrap() {
        return Some(format!("no network namespaces here: {e}"));
    }
    // SAFETY: no memory; the descriptor is closed below.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0) };
    if fd < 0 {
        return Some(format!("no AF_XDP here: {}", io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(fd) };
    None
}

fn setns(namespace: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; no memory is passed.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn ip(arguments: &[&str]) {
    let mut command = Command::new("ip");
    command.args(arguments);
    run(command).well();
}

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Done {
    pub status: ExitStatus,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Done {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Panics unless it ended with 0.
    #[track_caller]
    pub fn well(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n--- output\n{}\n--- errors\n{}", self.status, self.output, self.errors)
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(mut command: Command) -> Done {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let output = drain(child.stdout.take().unwrap());
    let errors = drain(child.stderr.take().unwrap());
    let status = wait(&mut child, GUARD);
    let (output, errors) = (output.join().unwrap(), errors.join().unwrap());
    match status {
        Some(status) => Done { status, output, errors },
        None => panic!("{command:?} did not end\n--- output\n{output}\n--- errors\n{errors}"),
    }
}

fn drain(mut from: impl io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a child; kills it when the guard is over and says `None`.
fn wait(child: &mut Child, guard: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + guard;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running `xshelf serve`.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: PathBuf,
    notify: UnixDatagram,
    /// What it last told the service manager of its status.
    status: String,
}

impl Server {
    /// Starts it on the target's interface with these arguments besides, and waits until it says READY.
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(lab: &Lab, arguments: &[S]) -> Self {
        let mut all: Vec<OsString> = ["serve", "--interface", TARGET].map(OsString::from).to_vec();
        all.extend(arguments.iter().map(|a| a.as_ref().to_owned()));
        Self::start_command(lab, lab.xshelf(End::Target, &all))
    }

    /// The same with a command of one's own.
    #[track_caller]
    pub fn start_command(lab: &Lab, command: Command) -> Self {
        let mut server = Self::spawn(lab, command);
        if let Some(status) = server.settle() {
            panic!("it ended before it was ready: {status}\n{}", server.log());
        }
        server
    }

    /// Starts it, and leaves it to itself.
    #[track_caller]
    pub fn spawn(lab: &Lab, mut command: Command) -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = lab.path(&format!("log-{n}"));
        let notify = lab.path(&format!("notify-{n}"));
        let socket = UnixDatagram::bind(&notify).unwrap();
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o777)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let file = File::create(&log).unwrap();
        // Its control socket is the lab's, unless the test wants another: all labs have the same names of interfaces.
        if !command.get_envs().any(|(name, _)| name == "RUNTIME_DIRECTORY") {
            command.env("RUNTIME_DIRECTORY", lab.directory.path());
        }
        command.env("NOTIFY_SOCKET", &notify).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, log, notify: socket, status: String::new() }
    }

    /// Takes one message to the service manager, if there is one within a moment; says whether it was READY.
    pub fn notified(&mut self) -> bool {
        let mut buffer = [0; 65536];
        let Ok(n) = self.notify.recv(&mut buffer) else { return false };
        let message = String::from_utf8_lossy(&buffer[..n]);
        for line in message.lines() {
            if let Some(status) = line.strip_prefix("STATUS=") {
                self.status = status.to_owned();
            }
        }
        message.lines().any(|line| line == "READY=1")
    }

    /// Waits until it is ready, or has ended; then says how.
    #[track_caller]
    pub fn settle(&mut self) -> Option<ExitStatus> {
        let until = Instant::now() + GUARD;
        loop {
            if self.notified() {
                return None;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            assert!(Instant::now() < until, "it does not become ready\n{}", self.log());
        }
    }

    /// Waits until what it said and its status are as wanted.
    #[track_caller]
    pub fn until(&mut self, what: &str, wanted: impl Fn(&str, &str) -> bool) {
        let until = Instant::now() + GUARD;
        while !wanted(&self.log(), &self.status) {
            self.notified();
            assert!(Instant::now() < until, "never: {what}\nstatus: {}\n{}", self.status, self.log());
        }
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child is ours and not yet waited for, so the number names it and nobody else.
        let result = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child, GUARD);
        let log = self.log();
        (status.unwrap_or_else(|| panic!("xshelf serve did not end\n{log}")), log)
    }

    /// Stops it as systemd does, and panics unless all was well to the end. Returns what it said.
    #[track_caller]
    pub fn stop(self) -> String {
        self.signal(libc::SIGTERM);
        let (status, log) = self.end();
        assert_eq!(status.code(), Some(0), "{status}, signal {:?}\n{log}", status.signal());
        assert!(!log.contains("panicked"), "{log}");
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            // What it said helps whoever reads the failure that brought us here.
            if std::thread::panicking() {
                eprintln!("--- the shelf said\n{}", self.log());
            }
        }
    }
}
