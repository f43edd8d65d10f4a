//! What one request costs in the worker: admission, decision, memory, reply, over rings and disks in plain memory.
//!
//! Not a measurement of a kernel, a NIC or a disk: the same code as production between them, and nothing else.

#![allow(missing_docs)] // criterion's macros make public items

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;
use std::time::Duration;
use xshelf::frame::{Layout, PortId, QueueId, Region, WorkerId, WorkerShare};
use xshelf::net::memory::{MemoryConfig, MemoryQueue, Wire};
use xshelf::protocol::{Address, Mac};
use xshelf::shelf::{Path, Routes, Slot, SlotFacts, admit};
use xshelf::storage::memory::MemoryStorage;
use xshelf::worker::{Plan, Port, QueuePlace, Shared, SlotPlan, Worker, WorkerPost};

const PORT: Mac = Mac([2, 0, 0, 0, 0, 1]);
const BATCH: usize = 32;

fn facts() -> Option<SlotFacts> {
    Some(SlotFacts::new(Address { shelf: 7, slot: 0 }, 4096))
}

fn worker() -> Option<(Worker<MemoryQueue, MemoryStorage>, Wire)> {
    let share = WorkerShare { receive: vec![(QueueId(0), 1024)], runs: 256, own: 16 };
    let layout = Layout::plan(&[share]).ok()?;
    let region = Arc::new(Region::heap(layout.chunks()));
    let posts = vec![WorkerPost::for_worker(layout.chunks(), 1).ok()?];
    let (queue, wire) = MemoryQueue::new(QueueId(0), Arc::clone(&region), MemoryConfig::default());
    let mut storage = MemoryStorage::new(Arc::clone(&region), 1024);
    let slots = vec![SlotPlan::new(facts()?, storage.add(vec![0; 4096 * 512]))];
    let shared = Arc::new(Shared {
        region,
        layout,
        ports: vec![Port::new("p0".into(), PORT, 9000, u32::MAX, 3)],
        queues: vec![QueuePlace { port: PortId(0), worker: WorkerId(0), transmits: true }],
        routes: Routes::new([(Address { shelf: 7, slot: 0 }, WorkerId(0))]).ok()?,
        posts,
    });
    let plan = Plan { slots, ..Plan::new(WorkerId(0), shared) };
    Some((Worker::new(plan, vec![queue], storage).ok()?, wire))
}

/// A request; `sectors` of data follow a write.
fn request(opcode: u8, sectors: u8) -> Vec<u8> {
    let mut f = PORT.0.to_vec();
    f.extend([2, 0, 0, 0, 0, 2, 0x88, 0xa2, 0x10, 0, 0, 7, 0, 0, 1, 2, 3, 4]);
    f.extend([0x40, 0, sectors, opcode, 0, 0, 0, 0, 0, 0, 0, 0]);
    if opcode == 0x34 {
        f.resize(36 + 512 * usize::from(sectors), 0x5a);
    }
    f
}

fn decide(c: &mut Criterion) {
    let Some(facts) = facts() else { return };
    let mut slot = Slot::new(facts);
    let path = Path { port: PORT, sectors: 16, longest: 9014, wildcard: false };
    let mut group = c.benchmark_group("decide");
    for (name, frame) in [("read-8", request(0x24, 8)), ("identify", request(0xec, 1))] {
        let mut memory = frame.clone();
        memory.resize(3620, 0);
        group.bench_function(name, |b| {
            b.iter(|| {
                // A reply overwrites its request: put the header back.
                memory[..frame.len()].copy_from_slice(&frame);
                let admitted = admit(&memory[..frame.len()], PORT, [PORT]);
                admitted.map(|a| slot.decide(&a, &path, &mut memory, frame.len(), frame.len()))
            });
        });
    }
}

fn turn(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, frame) in [
        ("query", {
            let mut query = request(0, 0);
            query[19] = 1;
            query.truncate(32);
            query
        }),
        ("read-1", request(0x24, 1)),
        ("read-16", request(0x24, 16)),
        ("write-1", request(0x34, 1)),
        ("write-16", request(0x34, 16)),
    ] {
        let Some((mut worker, wire)) = worker() else { return };
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    for _ in 0..BATCH {
                        let _ = wire.inject(&frame);
                    }
                },
                |()| {
                    while worker.turn(Duration::ZERO) || !worker.is_idle() {}
                    wire.take_all()
                },
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, decide, turn);
criterion_main!(benches);
