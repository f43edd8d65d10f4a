//! A running `faultdisk` (tests/faultdisk): a mount whose files are told to lose, hang or fail; and loop devices over them.
//!
//! Not here: what the commands mean; its head says that.
//! Invariant: it is unmounted with its [`FaultDisk`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A mounted one.
#[derive(Debug)]
pub struct FaultDisk {
    child: Child,
    mountpoint: PathBuf,
    commands: BufReader<UnixStream>,
}

impl FaultDisk {
    /// Mounts one on a directory that it makes, with files as for `--file` (`disk0=16M`, `disk1=16M,cached`).
    ///
    /// # Errors
    /// A line that says why not.
    pub fn mount(binary: &Path, mountpoint: &Path, files: &[String]) -> Result<Self, String> {
        std::fs::create_dir_all(mountpoint).map_err(|e| format!("{}: {e}", mountpoint.display()))?;
        let socket = mountpoint.with_extension("sock");
        let mut command = Command::new(binary);
        command.arg(mountpoint).arg("--while-stdin").arg("--socket").arg(&socket);
        for file in files {
            command.args(["--file", file]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", binary.display()))?;
        let mut said = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut said).map_err(|e| e.to_string())?;
        }
        let connected = if said == "READY\n" {
            UnixStream::connect(&socket).map_err(|e| format!("{}: {e}", socket.display()))
        } else {
            Err("faultdisk did not mount; what it said is above".to_owned())
        };
        match connected {
            Ok(stream) => Ok(Self { child, mountpoint: mountpoint.into(), commands: BufReader::new(stream) }),
            Err(why) => {
                drop(child.stdin.take());
                let _ = child.wait();
                Err(why)
            }
        }
    }

    /// Where a file of it is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// Gives a command and returns its answer.
    ///
    /// # Panics
    /// When it does not understand, or is gone.
    #[track_caller]
    pub fn tell(&mut self, command: &str) -> String {
        writeln!(self.commands.get_mut(), "{command}").unwrap();
        let mut answer = String::new();
        self.commands.read_line(&mut answer).unwrap();
        match answer.trim_end().strip_prefix("ok") {
            Some(rest) => rest.trim_start().to_owned(),
            None => panic!("{command}: {answer}"),
        }
    }

    /// Kills it: whoever has a file of it open hears that it is not connected, and what hung ends with an error.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A number in the answer to a command, as in `dropped=7 torn=1`.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn number(answer: &str, name: &str) -> u64 {
        let found = answer.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {name} in {answer}"))
    }
}

impl Drop for FaultDisk {
    fn drop(&mut self) {
        // The end of its standard input ends it, and it unmounts; one that was killed could not.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        let _ = Command::new("umount").arg("--lazy").arg(&self.mountpoint).stderr(Stdio::null()).status();
    }
}

/// A loop device, detached when it is dropped.
#[derive(Debug)]
pub struct Loop(PathBuf);

impl Loop {
    /// Attaches a file, which is read and written around the page cache if `direct`, as a device of 512-byte sectors.
    ///
    /// # Panics
    /// When there is no loop device.
    #[must_use]
    #[track_caller]
    pub fn attach(file: &Path, direct: bool) -> Self {
        Self::with_sectors(file, direct, 512)
    }

    /// The same with sectors of so many bytes.
    ///
    /// # Panics
    /// When there is no loop device.
    #[must_use]
    #[track_caller]
    pub fn with_sectors(file: &Path, direct: bool, bytes: u32) -> Self {
        let direct = format!("--direct-io={}", if direct { "on" } else { "off" });
        let done = Command::new("losetup")
            .args(["--find", "--show", &direct, "--sector-size", &bytes.to_string()])
            .arg(file)
            .output()
            .expect("losetup");
        assert!(done.status.success(), "losetup: {}", String::from_utf8_lossy(&done.stderr));
        Self(String::from_utf8_lossy(&done.stdout).trim().into())
    }

    /// The device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // While somebody has it open, the kernel detaches it at the last close.
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).stderr(Stdio::null()).status();
    }
}
