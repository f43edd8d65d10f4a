//! The client that remembers, on a thread of its own: it writes and reads all the time, whatever happens to the target, and
//! compares everything now and then.
//!
//! Not here: what happens to the target.
//! Invariant: no report is lost; the first that is not clean ends the load.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use xshelf_torment::{Client, End, INITIATOR, Lab, Options, Report, Tally};

/// What a load has done, as far as it is known now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sofar {
    /// What the client did.
    pub tally: Tally,
    /// Times that everything was read and compared.
    pub checks: u64,
    /// Sectors compared by that.
    pub sectors: u64,
    /// Config strings, masks and reservations compared by that.
    pub settings: u64,
}

impl Sofar {
    /// Nothing, if no request was answered with an error.
    ///
    /// # Errors
    /// How many were.
    pub fn without_errors(&self) -> Result<(), String> {
        match (self.tally.errors, self.tally.refused) {
            (0, 0) => Ok(()),
            (data, settings) => {
                Err(format!("{data} requests and {settings} settings were answered with an error"))
            }
        }
    }
}

impl fmt::Display for Sofar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tally, checks, sectors, settings } = self;
        writeln!(
            f,
            "acknowledged: {} writes, {} flushes, {} settings; {} reads compared; {} requests sent again; {} errors, {} \
             settings refused",
            tally.writes,
            tally.flushes,
            tally.settings,
            tally.reads,
            tally.retransmissions,
            tally.errors,
            tally.refused
        )?;
        write!(
            f,
            "everything compared {checks} times: {sectors} sectors, {settings} settings; 0 sectors lost, 0 bad, 0 \
             settings lost"
        )
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sofar: Mutex<Sofar>,
}

/// A load that goes on until it is ended, or something is wrong.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<(), String>>,
}

impl Load {
    /// Finds the slots and begins. With `every`, all is compared after so many acknowledged writes, and once more at the
    /// end.
    ///
    /// # Errors
    /// The slots do not answer.
    pub fn begin(lab: &Lab, addresses: &[String], options: Options, every: u64) -> Result<Self, String> {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|a| a.parse().map_err(|_| format!("{a} is no address")))
            .collect::<Result<_, _>>()?;
        let client = lab.within(End::Initiator, move || Client::new(INITIATOR, &addresses, options));
        let mut client = client.map_err(|e| e.to_string())?;
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || work(&mut client, &own, every));
        Ok(Self { shared, thread })
    }

    /// What it has done.
    ///
    /// # Panics
    /// When the load did.
    #[must_use]
    pub fn sofar(&self) -> Sofar {
        *self.shared.sofar.lock().unwrap()
    }

    /// Itself, if it goes on.
    ///
    /// # Errors
    /// It ended because something is wrong, and what.
    pub fn still(self) -> Result<Self, String> {
        if !self.thread.is_finished() {
            return Ok(self);
        }
        self.end().and(Err("the load ended by itself".into()))
    }

    /// Makes no new requests, waits for answers to all, and compares everything; the target must be up.
    ///
    /// # Errors
    /// What is wrong.
    pub fn end(self) -> Result<Sofar, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err("the client panicked".into()))?;
        let sofar = *self.shared.sofar.lock().map_err(|_| "the client panicked")?;
        Ok(sofar)
    }
}

fn work(client: &mut Client, shared: &Shared, every: u64) -> Result<(), String> {
    let stop = || shared.stop.load(Ordering::Relaxed);
    let tell = |tally: Tally, report: Option<&Report>| {
        let Ok(mut sofar) = shared.sofar.lock() else { return };
        sofar.tally = tally;
        if let Some(report) = report {
            sofar.checks += 1;
            sofar.sectors += report.sectors;
            sofar.settings += report.settings;
        }
    };
    loop {
        let enough = client.tally().writes + every;
        let going = |tally: &Tally| {
            tell(*tally, None);
            !stop() && tally.writes < enough
        };
        client.run_while(going).map_err(|e| e.to_string())?;
        let last = stop();
        let report = client.check_all().map_err(|e| e.to_string())?;
        tell(client.tally(), Some(&report));
        if !report.is_clean() {
            return Err(report.to_string());
        }
        if last {
            return Ok(());
        }
    }
}
