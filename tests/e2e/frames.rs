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
            let on: libc::c_int = 1;
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            // SAFETY: the option takes an int, and is given one. The kernel takes VLAN tags out of frames; this has it tell.
            let told = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_PACKET,
                    libc::PACKET_AUXDATA,
                    (&raw const on).cast(),
                    size,
                )
            };
            assert_eq!(told, 0, "{}", io::Error::last_os_error());
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
        loop {
            let frame = self.next(until)?;
            if frame.len() >= 24 && frame[12..14] == [0x88, 0xa2] && wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// The next frame that came in, of any kind, with its VLAN tag if it had one; `None` when the time is up.
    pub fn next(&self, until: Instant) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let wait = if left.is_zero() { 0 } else { left.as_millis() as i32 + 1 };
            // SAFETY: one entry.
            if unsafe { libc::poll(&raw mut poll, 1, wait) } <= 0 {
                if left.is_zero() {
                    return None;
                }
                continue;
            }
            // SAFETY: all zeros is a valid address, and a valid message header.
            let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { std::mem::zeroed() };
            let mut control = [0u64; 16];
            let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            message.msg_name = (&raw mut from).cast();
            message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            // SAFETY: everything that the header points to is of the sizes given and lives until the call is over.
            let got = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
            let Ok(got) = usize::try_from(got) else { continue };
            if from.sll_pkttype == libc::PACKET_OUTGOING {
                continue;
            }
            let mut frame = buffer[..got].to_vec();
            if let Some(tag) = tag_taken_out(&message).filter(|_| got >= 12) {
                frame.splice(12..12, [0x81, 0, (tag >> 8) as u8, tag as u8]);
            }
            return Some(frame);
        }
    }
}

/// The VLAN tag control information that the kernel took out of a frame.
fn tag_taken_out(message: &libc::msghdr) -> Option<u16> {
    // SAFETY: the kernel has filled in the header and what it points to.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !control.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return headers inside the message, or null.
        let header = unsafe { &*control };
        if header.cmsg_level == libc::SOL_PACKET && header.cmsg_type == libc::PACKET_AUXDATA {
            // SAFETY: data of this type is a tpacket_auxdata; it may be unaligned.
            let data: libc::tpacket_auxdata =
                unsafe { libc::CMSG_DATA(control).cast::<libc::tpacket_auxdata>().read_unaligned() };
            return (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(data.tp_vlan_tci);
        }
        // SAFETY: as above.
        control = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
    None
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
