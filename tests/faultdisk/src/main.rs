//! A disk that fails: a FUSE file system in memory, for tests, with a socket to tell it how.
//!
//! Not for data: everything is gone with the process. Invariant: a write is volatile until FSYNC of its file, a name until
//! FSYNCDIR; nothing that was synced is ever lost.
//!
//! ```text
//! faultdisk /mnt/x --socket /run/x.sock --file disk0=16M --file disk1=16M,cached &   # says READY once mounted (root)
//! losetup --find --show --direct-io=on /mnt/x/disk0          # a block device over it; xshelf serves that or the file
//! faultdisk --tell /run/x.sock hang disk0                    # its reads, writes, syncs, punches hang; `hang disk0 all`:
//! faultdisk --tell /run/x.sock unhang disk0                  #   stat and open, too; `unhang` runs what was held
//! faultdisk --tell /run/x.sock fail disk0 write,fsync EIO after 10 times 3   # or `fail '*' read SHORT`; `heal [disk0]`
//! faultdisk --tell /run/x.sock fail / rename,fsync,create ENOSPC   # `/` is the directory, say of state files
//! faultdisk --tell /run/x.sock full 65536                    # bytes that may still be allocated; `full off`
//! faultdisk --tell /run/x.sock cut 7                         # power off: drops and tears what is not synced, by seed;
//! faultdisk --tell /run/x.sock on                            #   all requests hang until `on`, and fail with EIO then
//! faultdisk --tell /run/x.sock stats                         # also: resize FILE BYTES, sync, quit (or SIGTERM)
//! ```
//!
//! Files opened before a cut answer EIO for ever; open them again. `FILE=SIZE` goes around the page cache
//! (FOPEN_DIRECT_IO), `FILE=SIZE,cached` through it, and so does what is created later with `--cached`. Around it Linux
//! sends no FSYNC for a write with O_DSYNC or RWF_DSYNC (fs/fuse/file.c, fuse_direct_write_iter), only the flag, which
//! makes nothing durable here: whoever writes to such a file has to call fsync.
//! With `--while-stdin` it ends when its standard input does: with whoever started it.

mod disk;
mod faults;
mod fuse;

use clap::Parser;
use fuse::FaultDisk;
use fuser::{Config, MountOption, Session, SessionACL};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

/// A FUSE file system in memory that loses what was not flushed when told so, hangs, fails and is full. For tests.
#[derive(Debug, Parser)]
struct Arguments {
    /// An empty directory to mount it on
    #[arg(required_unless_present = "tell")]
    mountpoint: Option<PathBuf>,
    /// The socket to be told commands by
    #[arg(long, value_name = "PATH", requires = "mountpoint")]
    socket: Option<PathBuf>,
    /// A file of zeroes to begin with; `cached`: through the page cache
    #[arg(long = "file", value_name = "NAME=SIZE[,cached]")]
    files: Vec<String>,
    /// Every file goes through the page cache
    #[arg(long)]
    cached: bool,
    /// End with standard input
    #[arg(long)]
    while_stdin: bool,
    /// Tell a running one a command, and print its answer
    #[arg(long, num_args = 2.., value_names = ["SOCKET", "COMMAND"], conflicts_with = "mountpoint")]
    tell: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (&arguments.tell, &arguments.mountpoint) {
        (Some(words), _) => tell(words),
        (None, Some(mountpoint)) => serve(&arguments, mountpoint),
        (None, None) => Err("nothing to do".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("faultdisk: {why}");
            ExitCode::FAILURE
        }
    }
}

fn tell(words: &[String]) -> Result<(), String> {
    let (socket, command) = words.split_first().ok_or("no socket")?;
    let mut stream = UnixStream::connect(socket).map_err(|e| format!("{socket}: {e}"))?;
    writeln!(stream, "{}", command.join(" ")).map_err(|e| format!("{socket}: {e}"))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(|e| format!("{socket}: {e}"))?;
    match answer.trim_end().strip_prefix("ok") {
        Some(rest) => {
            println!("{}", rest.trim_start());
            Ok(())
        }
        None => Err(answer.trim_end().to_owned()),
    }
}

fn serve(arguments: &Arguments, mountpoint: &Path) -> Result<(), String> {
    let disk = FaultDisk::default();
    for file in &arguments.files {
        let wrong = || format!("{file}: write NAME=SIZE or NAME=SIZE,cached, as in disk0=16M");
        let (name, rest) = file.split_once('=').ok_or_else(wrong)?;
        let (size, cached) = match rest.split_once(',') {
            Some((size, "cached")) => (size, true),
            None => (rest, false),
            Some(_) => return Err(wrong()),
        };
        disk.add(name, bytes(size).ok_or_else(wrong)?, cached)?;
    }
    if arguments.cached {
        disk.cache_all();
    }
    let (end, ended) = mpsc::channel();
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|e| e.to_string())?;
    if let Some(path) = &arguments.socket {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let (disk, end) = (disk.clone(), end.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (disk, end) = (disk.clone(), end.clone());
                thread::spawn(move || listen(&disk, stream, &end));
            }
        });
    }
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("faultdisk".into()),
        MountOption::Subtype("faultdisk".into()),
        MountOption::NoAtime,
    ];
    config.acl = SessionACL::All;
    let session = Session::new(disk, mountpoint, &config)
        .map_err(|e| format!("cannot mount on {}: {e}; it takes root and /dev/fuse", mountpoint.display()))?;
    let server = session.spawn().map_err(|e| e.to_string())?;
    {
        let end = end.clone();
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                let _ = end.send(());
            }
        });
    }
    if arguments.while_stdin {
        thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock().by_ref(), &mut std::io::sink());
            let _ = end.send(());
        });
    }
    println!("READY");
    let _ = ended.recv();
    // Whoever has a file open gets ENOTCONN; a mount that is busy goes with the last of them.
    let target =
        std::ffi::CString::new(mountpoint.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    detach(&target);
    drop(server);
    Ok(())
}

#[allow(unsafe_code)]
fn detach(target: &std::ffi::CStr) {
    // SAFETY: the path is a NUL-terminated string that lives through the call.
    unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
}

fn listen(disk: &FaultDisk, stream: UnixStream, end: &mpsc::Sender<()>) {
    let Ok(mut answers) = stream.try_clone() else { return };
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let answer = if line.trim() == "quit" {
            let _ = end.send(());
            "ok".to_owned()
        } else {
            match disk.command(&line) {
                Ok(said) => format!("ok {said}"),
                Err(why) => format!("error: {why}"),
            }
        };
        if writeln!(answers, "{}", answer.trim_end()).is_err() {
            return;
        }
    }
}

/// A size: bytes, or with K, M or G behind it.
fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (digits, 1 << (10 * (1 + "KMG".find(&text[digits.len()..])?))),
        None => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}
