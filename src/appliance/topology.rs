//! Who does what: which CPU a worker has, which worker a queue, and which worker owns a slot.
//!
//! Not here: making any of them. Pure: what the machine has is an argument.
//! Invariant: every queue and every slot has one worker, and no worker runs outside the CPUs that were given.

use super::config::{Cores, List, Workers};
use crate::frame::{PortId, QueueId, WorkerId};

/// Everybody's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The CPU of each worker; not empty.
    pub cpus: Vec<u16>,
    /// Each queue in the order of its [`QueueId`]: port by port.
    pub queues: Vec<QueueSeat>,
    /// The owner of each slot, in the order they were given.
    pub owners: Vec<WorkerId>,
    /// Whether some workers share a CPU.
    pub shared: bool,
}

/// The place of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSeat {
    /// Its number in the process.
    pub id: QueueId,
    /// Its port.
    pub port: PortId,
    /// Its number on the interface.
    pub index: u32,
    /// The worker that serves it.
    pub worker: WorkerId,
}

/// The workers cannot be placed like that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// The mask is empty (it never is for a running process).
    #[error("this process may run on no CPU; check taskset, CPUAffinity= and cpusets")]
    NoCpu,
    /// More asked for than there are.
    #[error(
        "{wanted} cores were asked for, but this process may only run on {have} (CPUs {mask}); \
         ask for fewer, or widen taskset, CPUAffinity= or the cpuset"
    )]
    TooFewCpus {
        /// Asked for.
        wanted: u16,
        /// In the mask.
        have: usize,
        /// The mask.
        mask: String,
    },
    /// A core outside the mask.
    #[error(
        "core {core} is not among the CPUs this process may run on ({mask}); choose others, or widen taskset, \
         CPUAffinity= or the cpuset"
    )]
    OutsideMask {
        /// The core.
        core: u16,
        /// The mask.
        mask: String,
    },
    /// A slot named a worker that there is not.
    #[error("slot {slot} asks for worker {worker}, but there are {count} (0 to {}); set the worker count", count - 1)]
    NoSuchWorker {
        /// The slot, as an address.
        slot: String,
        /// The number it named.
        worker: u16,
        /// How many there are.
        count: usize,
    },
    /// More queues than can be numbered.
    #[error("{0} queues are more than one process can serve; name fewer with the key queues")]
    TooManyQueues(usize),
}

/// A slot that wants an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its address, for messages.
    pub slot: String,
    /// The worker it asks for.
    pub worker: Option<u16>,
}

/// Places everybody. `ports` has the queue numbers to serve of each port, `mask` the CPUs of the inherited affinity.
///
/// * One worker for each queue, but not more than CPUs: a worker without a queue gets its frames second-hand, and
///   two workers on one CPU take turns at best. An explicit count is obeyed.
/// * Queues are dealt out by their number first and by port second: no NIC hashes AoE, so all of it tends to arrive
///   on one queue, mostly queue 0, and the busy queues of two ports should not share a worker.
/// * A slot without a wish goes to the worker with the fewest slots.
///
/// # Errors
/// [`TopologyError`], for wishes the machine cannot fulfil.
pub fn plan(
    ports: &[Vec<u32>],
    tenants: &[Tenant],
    workers: &Workers,
    mask: &[u16],
) -> Result<Topology, TopologyError> {
    let cores = cores(&workers.cores, mask)?;
    let total: usize = ports.iter().map(Vec::len).sum();
    if total > usize::from(u16::MAX) {
        return Err(TopologyError::TooManyQueues(total));
    }
    let count = workers.count.map_or_else(|| cores.len().min(total.max(1)), usize::from).max(1);
    let cpus: Vec<u16> = cores.iter().copied().cycle().take(count).collect();

    let mut queues = Vec::with_capacity(total);
    for (port, numbers) in (0..).map(PortId).zip(ports) {
        for &index in numbers {
            // At most u16::MAX, checked above.
            let id = QueueId(queues.len() as u16);
            queues.push(QueueSeat { id, port, index, worker: WorkerId(0) });
        }
    }
    let mut order: Vec<usize> = (0..queues.len()).collect();
    order.sort_by_key(|&i| (queues[i].index, queues[i].port));
    for (turn, i) in order.into_iter().enumerate() {
        queues[i].worker = worker_id(turn % count);
    }

    let mut load = vec![0usize; count];
    for tenant in tenants {
        if let Some(worker) = tenant.worker {
            let slot = || tenant.slot.clone();
            *load.get_mut(usize::from(worker)).ok_or_else(|| TopologyError::NoSuchWorker {
                slot: slot(),
                worker,
                count,
            })? += 1;
        }
    }
    let owners = tenants
        .iter()
        .map(|tenant| match tenant.worker {
            Some(worker) => WorkerId(worker),
            None => {
                let lightest = (0..count).min_by_key(|&w| load[w]).unwrap_or(0);
                load[lightest] += 1;
                worker_id(lightest)
            }
        })
        .collect();
    Ok(Topology { shared: count > cores.len(), cpus, queues, owners })
}

/// A worker count is a `u16` wherever it comes from.
fn worker_id(i: usize) -> WorkerId {
    WorkerId(u16::try_from(i).unwrap_or(u16::MAX))
}

/// The CPUs that workers may have, out of the mask.
///
/// # Errors
/// When the mask does not have them.
pub fn cores(wish: &Cores, mask: &[u16]) -> Result<Vec<u16>, TopologyError> {
    if mask.is_empty() {
        return Err(TopologyError::NoCpu);
    }
    let shown = || List(mask).to_string();
    match wish {
        Cores::All => Ok(mask.to_vec()),
        Cores::First(n) if usize::from(*n) > mask.len() => {
            Err(TopologyError::TooFewCpus { wanted: *n, have: mask.len(), mask: shown() })
        }
        Cores::First(n) => Ok(mask[..usize::from(*n)].to_vec()),
        Cores::These(list) => match list.iter().find(|core| !mask.contains(core)) {
            Some(&core) => Err(TopologyError::OutsideMask { core, mask: shown() }),
            None => Ok(list.clone()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenants(wishes: &[Option<u16>]) -> Vec<Tenant> {
        wishes.iter().enumerate().map(|(i, w)| Tenant { slot: format!("7.{i}"), worker: *w }).collect()
    }

    #[test]
    fn one_worker_for_each_queue_but_not_more_than_cpus() {
        for (queues, cpus, want) in [(1, 8, 1), (4, 8, 4), (8, 4, 4), (4, 4, 4)] {
            let mask: Vec<u16> = (0..cpus).collect();
            let t = plan(&[(0..queues).collect()], &tenants(&[None]), &Workers::default(), &mask).unwrap();
            assert_eq!(t.cpus.len(), want, "{queues} queues, {cpus} CPUs");
            assert!(!t.shared);
        }
    }

    #[test]
    fn first_queues_of_two_ports_have_two_workers() {
        let t =
            plan(&[vec![0, 1], vec![0, 1]], &[], &Workers { count: Some(2), ..Workers::default() }, &[4, 5])
                .unwrap();
        let seats: Vec<(u16, u32, u16)> = t.queues.iter().map(|q| (q.port.0, q.index, q.worker.0)).collect();
        assert_eq!(seats, [(0, 0, 0), (0, 1, 0), (1, 0, 1), (1, 1, 1)]);
        assert_eq!(t.queues.iter().map(|q| q.id.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(t.cpus, [4, 5]);
    }

    #[test]
    fn more_workers_than_queues_and_cpus_are_obeyed() {
        let workers = Workers { count: Some(3), ..Workers::default() };
        let t = plan(&[vec![0]], &tenants(&[None, None, None]), &workers, &[2, 3]).unwrap();
        assert_eq!(t.cpus, [2, 3, 2]);
        assert!(t.shared);
        assert_eq!(t.owners, [WorkerId(0), WorkerId(1), WorkerId(2)]);
    }

    #[test]
    fn wishes_of_slots_are_met_and_the_rest_balanced_around_them() {
        let workers = Workers { count: Some(2), ..Workers::default() };
        let t = plan(&[vec![0]], &tenants(&[None, Some(0), Some(0), None, None]), &workers, &[0, 1]).unwrap();
        assert_eq!(t.owners.iter().map(|w| w.0).collect::<Vec<_>>(), [1, 0, 0, 1, 0]);
        let e = plan(&[vec![0]], &tenants(&[None, Some(2)]), &workers, &[0, 1]).unwrap_err();
        assert_eq!(
            e.to_string(),
            "slot 7.1 asks for worker 2, but there are 2 (0 to 1); set the worker count"
        );
    }

    #[test]
    fn cores_never_leave_the_mask() {
        assert_eq!(cores(&Cores::First(2), &[3, 5, 7]), Ok(vec![3, 5]));
        assert_eq!(cores(&Cores::These(vec![7, 3]), &[3, 5, 7]), Ok(vec![7, 3]));
        let e = cores(&Cores::These(vec![3, 4]), &[3, 5, 6, 7]).unwrap_err().to_string();
        assert!(e.starts_with("core 4 is not among the CPUs this process may run on (3,5-7)"), "{e}");
        let e = cores(&Cores::First(4), &[3]).unwrap_err().to_string();
        assert!(e.starts_with("4 cores were asked for, but this process may only run on 1 (CPUs 3)"), "{e}");
        assert_eq!(cores(&Cores::All, &[]), Err(TopologyError::NoCpu));
    }

    proptest! {
        #[test]
        fn everybody_has_a_place(
            ports in proptest::collection::vec(0u32..9, 1..4),
            slots in 0usize..40,
            count in proptest::option::of(1u16..12),
            cpus in 1u16..9,
        ) {
            let ports: Vec<Vec<u32>> = ports.into_iter().map(|n| (0..n).collect()).collect();
            let mask: Vec<u16> = (0..cpus).collect();
            let t = plan(&ports, &tenants(&vec![None; slots]), &Workers { count, ..Workers::default() }, &mask)
                .unwrap();
            let workers = t.cpus.len();
            prop_assert_eq!(t.queues.len(), ports.iter().map(Vec::len).sum::<usize>());
            prop_assert_eq!(t.owners.len(), slots);
            prop_assert!(t.cpus.iter().all(|cpu| mask.contains(cpu)));
            // No worker has two queues more, or two slots more, than another.
            for places in [
                t.queues.iter().map(|q| q.worker).collect::<Vec<_>>(),
                t.owners.clone(),
            ] {
                let load = |w: usize| places.iter().filter(|p| usize::from(p.0) == w).count();
                let (low, high) = ((0..workers).map(load).min().unwrap(), (0..workers).map(load).max().unwrap());
                prop_assert!(high <= low + 1, "{places:?}");
            }
        }
    }
}
