//! xshelf: an ATA-over-Ethernet target over AF_XDP and io_uring.
//!
//! ```text
//! wire ─► XDP steer ─► AF_XDP RX ─► parse ─► admit ─► slot: decide ─► storage (io_uring) ─► reply in place ─► AF_XDP TX ─► wire
//!                                                     └─► answer at once (config, identify, errors) ─┘
//! ```
//!
//! Read the modules in this order; it is the way of a frame. `protocol` and `shelf` are pure: no descriptors, no
//! threads, no clocks. `net` and `storage` know nothing of ATA. Only `worker` names both.
//!
//! `unsafe` is denied but where a module allows it for itself: `frame::region` (the memory behind the tokens), `net::ring`,
//! `net::xsk` and `net::sys` (rings and system calls), `storage::uring` with its `bounce` (memory that the kernel works on),
//! `storage::ioctl` (questions to block devices) and `initiator::socket` (packet sockets).

#![deny(unsafe_code)]

pub mod exit;
pub mod limits;

pub mod protocol;
pub mod shelf;

pub mod frame;
pub mod net;
pub mod storage;

pub mod worker;

pub mod appliance;

pub mod initiator;

pub mod sim;
