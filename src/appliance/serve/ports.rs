//! What has become of the ports since they were opened, and what follows from it.
//!
//! Not here: MTU and carrier, which the workers follow as they are (`monitor`), or doing anything about the rest (`service`).
//! Invariant: a port is said to need a new start only if it could be opened now.

use crate::net::ladder::Standing;
use crate::net::nic::Facts;

/// A port as it was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened<'a> {
    /// The facts it was opened with.
    pub facts: &'a Facts,
    /// The rung in force.
    pub standing: &'a Standing,
    /// Its queues that are served.
    pub served: &'a [u16],
    /// Whether those are to be all there are.
    pub all: bool,
}

/// What has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// What it was.
    Well,
    /// Somebody has detached the XDP program, or put another in its place; the sockets are as they were.
    Detached,
    /// It is not there, or cannot be served on; why.
    Away(String),
    /// It can be served on, and frames miss us until it is opened again; why.
    Other(String),
}

/// Tells what has become of a port. `now` are its facts; `attached` says whether the XDP program is in its place, `bound`
/// whether the sockets still belong to the interface; `obstacle` is what would keep it from being opened now.
pub(super) fn judge(
    port: Opened<'_>,
    now: &Facts,
    attached: bool,
    bound: bool,
    obstacle: Option<String>,
) -> Fate {
    let Opened { facts: then, standing, served, all } = port;
    if now.index != then.index || !bound {
        return match obstacle {
            Some(why) => Fate::Away(why),
            None => Fate::Other("the interface was removed and is there again".to_owned()),
        };
    }
    if !attached {
        return Fate::Detached;
    }
    // What could not be opened now is better left as it is.
    if obstacle.is_some() {
        return Fate::Well;
    }
    let transmits =
        |facts: &Facts, queue: u16| standing.rung.zero_copy() || u32::from(queue) < facts.transmit_queues;
    let queues = standing.rung.queues(now);
    if now.mac != then.mac {
        return Fate::Other(format!("its address is {} now, {} before", now.mac, then.mac));
    }
    if all && queues != standing.queues {
        return Fate::Other(format!("frames arrive on {queues} queues now, {} before", standing.queues));
    }
    if served.iter().any(|&queue| transmits(now, queue) != transmits(then, queue)) {
        return Fate::Other(format!(
            "it transmits on {} queues now, {} before",
            now.transmit_queues, then.transmit_queues
        ));
    }
    match standing.rung.ruled_out(now) {
        Some(reason) => Fate::Other(format!("{} is possible no more: {reason}", standing.rung)),
        None => Fate::Well,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ladder::Rung;
    use crate::protocol::Mac;

    fn facts() -> Facts {
        Facts {
            name: "eth1".into(),
            index: 7,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            running: true,
            queues: 4,
            transmit_queues: 4,
            driver: "nic".into(),
            features: None,
            zero_copy_segments: 0,
            numa_node: None,
            strips_vlan: None,
            programs: vec![],
        }
    }

    fn fate(rung: Rung, served: &[u16], all: bool, now: &Facts) -> Fate {
        let then = facts();
        let standing = Standing {
            interface: "eth1".into(),
            rung,
            refused: vec![],
            frame_room: rung.frame_room(&then),
            pieces: rung.pieces(&then),
            queues: rung.queues(&then),
        };
        judge(Opened { facts: &then, standing: &standing, served, all }, now, true, true, None)
    }

    #[track_caller]
    fn other(fate: Fate, words: &str) {
        match fate {
            Fate::Other(why) => assert!(why.contains(words), "{why}"),
            fate => panic!("{fate:?}, not {words}"),
        }
    }

    #[test]
    fn what_makes_frames_miss_us_asks_for_a_new_start() {
        let all = [0, 1, 2, 3];
        let zero_copy = |now: &Facts| fate(Rung::ZeroCopy, &all, true, now);
        let copy = |now: &Facts| fate(Rung::NativeSegments, &all, true, now);
        for well in [
            facts(),
            Facts { mtu: 3500, ..facts() },
            Facts { up: false, running: false, ..facts() },
            // What comes and goes without changing where frames arrive.
            Facts { strips_vlan: Some(true), numa_node: Some(1), ..facts() },
        ] {
            assert_eq!((zero_copy(&well), copy(&well)), (Fate::Well, Fate::Well));
        }
        other(copy(&Facts { mac: Mac([2, 0, 0, 0, 0, 2]), ..facts() }), "is 02:00:00:00:00:02 now, 02:00");
        other(copy(&Facts { index: 8, ..facts() }), "removed and is there again");
        for queues in [3, 5] {
            let now = Facts { queues, ..facts() };
            other(copy(&now), &format!("on {queues} queues now, 4 before"));
            // Somebody who names queues steers frames to them.
            assert_eq!(fate(Rung::NativeSegments, &[0, 1], false, &now), Fate::Well);
        }
        other(copy(&Facts { transmit_queues: 3, ..facts() }), "transmits on 3 queues now");
        assert_eq!(copy(&Facts { transmit_queues: 8, ..facts() }), Fate::Well);
        assert_eq!(zero_copy(&Facts { transmit_queues: 3, ..facts() }), Fate::Well, "the card has its own");
        // A frame of that MTU is more than one chunk.
        let large = Facts { mtu: 9000, ..facts() };
        other(zero_copy(&large), "zero-copy is possible no more");
        assert_eq!(copy(&large), Fate::Well);
    }

    #[test]
    fn what_cannot_be_opened_is_waited_for() {
        let then = facts();
        let rung = Rung::NativeSegments;
        let standing = Standing {
            interface: "eth1".into(),
            rung,
            refused: vec![],
            frame_room: 9000,
            pieces: 3,
            queues: 4,
        };
        let port = Opened { facts: &then, standing: &standing, served: &[0], all: true };
        let down = || Some("it is down".to_owned());
        let again = Facts { index: 9, ..facts() };
        assert_eq!(judge(port, &again, false, true, down()), Fate::Away("it is down".into()));
        // Its number is the same, and the sockets tell that it is another.
        assert_eq!(judge(port, &facts(), false, false, down()), Fate::Away("it is down".into()));
        other(judge(port, &facts(), false, false, None), "removed and is there again");
        assert_eq!(judge(port, &facts(), false, true, None), Fate::Detached);
        assert_eq!(judge(port, &facts(), false, true, down()), Fate::Detached, "it goes again when it is up");
        let moved = Facts { mac: Mac([2, 0, 0, 0, 0, 2]), up: false, ..facts() };
        assert_eq!(judge(port, &moved, true, true, down()), Fate::Well, "until it is up");
    }
}
