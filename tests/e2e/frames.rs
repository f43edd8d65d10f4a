//! Raw Ethernet frames over an AF_PACKET socket, made and read by hand: the product's own code shall not check itself.

use crate::lab::{End, INITIATOR, Lab, TARGET};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A packet socket on one end of the cable.
pub struct Raw {
    fd: OwnedFd,
    pub mac: [u8; 6],
}

impl Raw {
    pub fn open(lab: &Lab, end: End) -> Self {
        let interface = if end == End::Target { TARGET } else { INITIATOR };
        lab.within(end, move || {
            let protocol = (libc::ETH_P_ALL as u16).to_be();
            // SAFETY: no memory; the descriptor is owned from the next line on.
            let fd = unsafe {
                libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol))
            };
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            // SAFETY: just opened, nobody else has it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let name = std::ffi::CString::new(interface).unwrap();
            // SAFETY: a terminated string.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            assert_ne!(index, 0, "{interface}: {}", io::Error::last_os_error());
            // SAFETY: all zeros is a valid address.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = index as i32;
            let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: the address is of the size given.
            let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) };
            assert_eq!(bound, 0, "{}", io::Error::last_os_error());
            let mut size = size;
            // SAFETY: as above; the kernel writes no more than `size`.
            let named =
                unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut size) };
            assert_eq!(named, 0, "{}", io::Error::last_os_error());
            let mut mac = [0; 6];
            mac.copy_from_slice(&address.sll_addr[..6]);
            Self { fd, mac }
        })
    }

    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: pointer and length are of one slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(usize::try_from(sent).ok(), Some(frame.len()), "{}", io::Error::last_os_error());
    }

    /// The next AoE frame that came in (not one we sent) and that `wanted` likes, or `None` after the time.
    pub fn receive(&self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let until = Instant::now() + patience;
        let mut buffer = vec![0; 65536];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry.
            if unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32 + 1) } <= 0 {
                continue;
            }
            // SAFETY: all zeros is a valid address.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address are of the sizes given.
            let got = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut from).cast(),
                    &raw mut size,
                )
            };
            let Ok(got) = usize::try_from(got) else { continue };
            let frame = &buffer[..got];
            let aoe = got >= 24 && frame[12..14] == [0x88, 0xa2];
            if aoe && from.sll_pkttype != libc::PACKET_OUTGOING && wanted(frame) {
                return Some(frame.to_vec());
            }
        }
    }
}

/// The head of an AoE frame: Ethernet and AoE header, 24 bytes.
pub fn head(to: [u8; 6], from: [u8; 6], flags: u8, shelf: u16, slot: u8, command: u8, tag: u32) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64);
    frame.extend(to);
    frame.extend(from);
    frame.extend([0x88, 0xa2, 0x10 | flags, 0]);
    frame.extend(shelf.to_be_bytes());
    frame.extend([slot, command]);
    frame.extend(tag.to_be_bytes());
    frame
}

/// Query Config, read.
pub fn query(to: [u8; 6], from: [u8; 6], shelf: u16, slot: u8, tag: u32) -> Vec<u8> {
    let mut frame = head(to, from, 0, shelf, slot, 1, tag);
    frame.resize(32, 0);
    frame
}

/// The tag of a frame.
pub fn tag_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[20], frame[21], frame[22], frame[23]])
}

/// Whether a frame is a response.
pub fn is_response(frame: &[u8]) -> bool {
    frame[14] & 0x08 != 0
}
