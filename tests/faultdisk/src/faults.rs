//! Which requests fail, are cut short, or hang.
//!
//! Not here: what a request does (`disk`).
//! Invariant: a fault strikes after as many requests and as often as was said, and is gone then.

use crate::disk::Errno;
use std::str::FromStr;

/// A kind of request that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Read,
    Write,
    Fsync,
    Punch,
    Size,
    Open,
    Create,
    Rename,
    Unlink,
    /// Closing a descriptor: hangs with the file, and never fails.
    Close,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "read" => Self::Read,
            "write" => Self::Write,
            "fsync" => Self::Fsync,
            "punch" => Self::Punch,
            "size" => Self::Size,
            "open" => Self::Open,
            "create" => Self::Create,
            "rename" => Self::Rename,
            "unlink" => Self::Unlink,
            _ => {
                return Err(format!(
                    "no kind of request: {text}; read, write, fsync, punch, size, open, create, rename, unlink"
                ));
            }
        })
    }
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// With an error.
    Error(Errno),
    /// It does half of what it should, in sectors.
    Short,
}

impl FromStr for Effect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self::Error(match text {
            "SHORT" => return Ok(Self::Short),
            "EIO" => libc::EIO,
            "ENOSPC" => libc::ENOSPC,
            "ETIMEDOUT" => libc::ETIMEDOUT,
            "ENODEV" => libc::ENODEV,
            "ENXIO" => libc::ENXIO,
            "EROFS" => libc::EROFS,
            "EDQUOT" => libc::EDQUOT,
            "EBADMSG" => libc::EBADMSG,
            "ENOMEM" => libc::ENOMEM,
            "EAGAIN" => libc::EAGAIN,
            "EINTR" => libc::EINTR,
            _ => {
                return Err(format!(
                    "no error known: {text}; EIO, ENOSPC, ETIMEDOUT, ENODEV, ENXIO, EROFS, EDQUOT, EBADMSG, ENOMEM, \
                     EAGAIN, EINTR, or SHORT"
                ));
            }
        }))
    }
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The file; `*` for all, `/` for the directory.
    pub file: String,
    /// Of which requests.
    pub kinds: Vec<Kind>,
    /// What happens.
    pub effect: Effect,
    /// Requests that are let pass first.
    pub after: u64,
    /// How often; `None` for always.
    pub times: Option<u64>,
}

/// All faults.
#[derive(Debug, Default)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// What happens to a request for a file.
    pub fn strike(&mut self, file: &str, kind: Kind) -> Option<Effect> {
        for fault in &mut self.0 {
            if (fault.file != "*" && fault.file != file) || !fault.kinds.contains(&kind) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            match &mut fault.times {
                Some(0) => continue,
                Some(times) => *times -= 1,
                None => {}
            }
            return Some(fault.effect);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_waits_strikes_and_is_gone() {
        let fault = Fault {
            file: "a".into(),
            kinds: vec![Kind::Write],
            effect: Effect::Short,
            after: 1,
            times: Some(2),
        };
        let mut faults = Faults(vec![fault]);
        assert_eq!(faults.strike("a", Kind::Read), None);
        assert_eq!(faults.strike("b", Kind::Write), None);
        let struck: Vec<_> = (0..5).map(|_| faults.strike("a", Kind::Write).is_some()).collect();
        assert_eq!(struck, [false, true, true, false, false]);
    }
}
