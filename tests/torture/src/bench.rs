//! `xshelf bench` as a process, and what it reports.
//!
//! Not here: what is done to the target meanwhile.
//! Invariant: none of its processes outlives its [`Bench`].

use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use xshelf_torment::{End, INITIATOR, Lab};

/// A running bench.
#[derive(Debug)]
pub struct Bench {
    child: Child,
}

impl Bench {
    /// Starts `binary bench ini0` with these arguments.
    ///
    /// # Errors
    /// There is no such binary.
    pub fn start(lab: &Lab, binary: &Path, slots: &[String], arguments: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(binary);
        command.args(["bench", INITIATOR]).args(slots).args(arguments).arg("--json");
        lab.enter(End::Initiator, &mut command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| format!("{}: {e}", binary.display()))?;
        Ok(Self { child })
    }

    /// Ends the load early; see [`Bench::end`].
    pub fn interrupt(&self) {
        // SAFETY: the child is ours and not yet waited for, so the number names it and nobody else.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGINT) };
    }

    /// Waits for its end, whatever it found.
    ///
    /// # Errors
    /// It reports nothing.
    pub fn end(mut self) -> Result<Reported, String> {
        let (mut report, mut notes) = (String::new(), String::new());
        let (out, err) = (self.child.stdout.take(), self.child.stderr.take());
        std::thread::scope(|scope| {
            scope.spawn(|| err.map(|mut err| err.read_to_string(&mut notes)));
            out.map(|mut out| out.read_to_string(&mut report))
        });
        let status = self.child.wait().map_err(|e| e.to_string())?;
        let json =
            serde_json::from_str(&report).map_err(|_| format!("bench ended with {status}: {notes}"))?;
        Ok(Reported { json, notes })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a bench reports.
#[derive(Clone, Debug)]
pub struct Reported {
    json: Value,
    notes: String,
}

impl Reported {
    /// Megabytes per second, of reads and writes together.
    #[must_use]
    pub fn megabytes(&self) -> f64 {
        self.sum("mb_per_second")
    }

    /// Requests per second, of reads and writes together.
    #[must_use]
    pub fn iops(&self) -> f64 {
        self.sum("iops")
    }

    fn sum(&self, figure: &str) -> f64 {
        ["reads", "writes"].iter().filter_map(|way| self.json[way][figure].as_f64()).sum()
    }

    /// The 99th percentile of the latency of all reads or all writes, in microseconds.
    #[must_use]
    pub fn p99(&self, way: &str) -> f64 {
        self.json[way]["latency_us"]["p99"].as_f64().unwrap_or(f64::NAN)
    }

    /// The longest latency of all reads or all writes, in microseconds.
    #[must_use]
    pub fn max(&self, way: &str) -> f64 {
        self.json[way]["latency_us"]["max"].as_f64().unwrap_or(f64::NAN)
    }

    /// Requests that ended well, of reads or writes.
    #[must_use]
    pub fn requests(&self, way: &str) -> u64 {
        self.json[way]["requests"].as_u64().unwrap_or(0)
    }

    /// Requests sent again.
    #[must_use]
    pub fn resent(&self) -> u64 {
        self.of_slots(|slot| slot["retransmits"].as_u64())
    }

    /// Requests that failed.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let counts =
            |slot: &Value| Some(slot["errors"].as_array()?.iter().filter_map(|e| e["count"].as_u64()).sum());
        self.of_slots(counts)
    }

    /// One of the numbers of a verification.
    #[must_use]
    pub fn verified(&self, what: &str) -> u64 {
        self.of_slots(|slot| slot["verify"][what].as_u64())
    }

    fn of_slots(&self, number: impl Fn(&Value) -> Option<u64>) -> u64 {
        self.json["slots"].as_array().into_iter().flatten().filter_map(number).sum()
    }

    /// Frames that the bench itself lost.
    #[must_use]
    pub fn own_losses(&self) -> u64 {
        self.json["socket_drops"].as_u64().unwrap_or(0)
    }

    /// Nothing, if every request ended well and every byte was right.
    ///
    /// # Errors
    /// The whole report.
    pub fn well(&self) -> Result<(), String> {
        if self.json["ok"] == true { Ok(()) } else { Err(format!("{:#}\n{}", self.json, self.notes)) }
    }
}
