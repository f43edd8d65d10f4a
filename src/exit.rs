//! The exit codes of every subcommand, in one place; scripts may rely on them.
//!
//! Not here: what goes wrong and how it is worded (the errors of each module).
//! Invariant: a number, once published, keeps its meaning.

use std::process::{ExitCode, Termination};

/// How a subcommand ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[repr(u8)]
pub enum Exit {
    /// 0: done, and everything is as it should be.
    Ok = 0,
    /// 1: the command ran, but what it looked at is not as it should be: a probe found a problem, a verification
    /// failed, a check refused the configuration, a service stopped on a failure.
    Problem = 1,
    /// 2: the command line or the configuration cannot be understood (clap uses the same number).
    Usage = 2,
    /// 3: the machine does not allow it: no such interface, link down, permission missing, kernel too old.
    Environment = 3,
    /// 4: nobody is there: discovery found nothing, a target or a running appliance did not answer.
    NoAnswer = 4,
}

impl Exit {
    /// The table for `--help`.
    pub const HELP: &str = "\
Exit codes:
  0  done, nothing wrong
  1  the command ran and found a problem (failed verification, unhealthy path, refused check)
  2  usage: the command line or the configuration cannot be understood
  3  environment: no such interface, link down, permission missing
  4  nobody answered";

    /// The number the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code() {
        for exit in [Exit::Ok, Exit::Problem, Exit::Usage, Exit::Environment, Exit::NoAnswer] {
            assert!(Exit::HELP.contains(&format!("\n  {}  ", exit.code())), "{exit:?}");
        }
    }
}
