//! One end of the wire: a packet socket that takes every frame of an interface, with the time it came, and sends frames
//! as they are.
//!
//! Not here: what happens to a frame. VLAN tags are taken out by the kernel and not put back: tagged frames do not pass
//! here unchanged.
//! Invariant: every pointer given to the kernel is made for one call from a borrow that outlives it.
#![allow(unsafe_code)]

use crate::fate::Nanos;
use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// Frames of one system call.
pub const BATCH: usize = 64;
/// Longest frame, with some room.
const ROOM: usize = 9216;
/// Bytes of socket buffer, each way: some thousand long frames, for when this process does not get the CPU.
const SOCKET_BUFFER: libc::c_int = 128 << 20;
/// Room for one control message with a time.
const CONTROL: usize = 64;
/// include/uapi/linux/if_packet.h; the libc crate has it for some targets only.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const PACKET_STATISTICS: libc::c_int = 6;

/// A socket on one interface.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    data: Box<[u8]>,
    control: Box<[[u64; CONTROL / 8]]>,
    /// Of each frame that was taken: its length and when it came.
    taken: Vec<(usize, Nanos)>,
    drops: u64,
}

impl Tap {
    /// Opens interface `name` of this thread's namespace.
    ///
    /// # Errors
    /// No such interface, or no right to open packet sockets.
    pub fn open(name: &str) -> io::Result<Self> {
        let c_name = CString::new(name)?;
        // SAFETY: the name is a NUL-terminated string that lives through the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: socket(2) just returned this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, SOCKET_BUFFER)?;
        option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SOCKET_BUFFER)?;
        option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        // What the other end sends through here must not come back.
        option(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        // SAFETY: sockaddr_ll is plain old data for which zeroes are valid.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as libc::c_int;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel reads one sockaddr_ll, which lives through the call.
        if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            fd,
            name: name.to_owned(),
            data: vec![0; ROOM * BATCH].into(),
            control: vec![[0; CONTROL / 8]; BATCH].into(),
            taken: Vec::with_capacity(BATCH),
            drops: 0,
        })
    }

    /// Takes what is there, at most [`BATCH`] frames; returns how many.
    ///
    /// # Errors
    /// The interface is gone. That it is down is no error.
    pub fn receive(&mut self) -> io::Result<usize> {
        self.taken.clear();
        // SAFETY: iovec and mmsghdr are plain old data for which zeroes are valid.
        let (mut vectors, mut headers) =
            unsafe { (zeroed::<[libc::iovec; BATCH]>(), zeroed::<[libc::mmsghdr; BATCH]>()) };
        let parts = self.data.chunks_exact_mut(ROOM).zip(&mut self.control);
        for ((data, control), (vector, header)) in parts.zip(vectors.iter_mut().zip(&mut headers)) {
            *vector = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
        }
        // SAFETY: the loop above made all BATCH headers lead to a vector, a control area and a buffer, each of the
        // length its header says; all of them live through the call.
        let got = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        if got < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(0),
                _ => Err(error),
            };
        }
        for header in headers.iter().take(got as usize) {
            self.taken.push(((header.msg_len as usize).min(ROOM), stamp(&header.msg_hdr)));
        }
        Ok(self.taken.len())
    }

    /// One of the frames that the last [`Tap::receive`] took, and when it came.
    #[must_use]
    pub fn frame(&self, index: usize) -> (&[u8], Nanos) {
        let (length, came) = self.taken[index];
        (&self.data[index * ROOM..][..length], came)
    }

    /// Sends frames, at most [`BATCH`]; returns how many the kernel took.
    ///
    /// # Errors
    /// It took none, and why.
    pub fn send(&self, frames: &[&[u8]]) -> io::Result<usize> {
        // SAFETY: iovec and mmsghdr are plain old data for which zeroes are valid.
        let (mut vectors, mut headers) =
            unsafe { (zeroed::<[libc::iovec; BATCH]>(), zeroed::<[libc::mmsghdr; BATCH]>()) };
        let count = frames.len().min(BATCH);
        for (frame, (vector, header)) in frames.iter().zip(vectors.iter_mut().zip(&mut headers)) {
            *vector = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the first `count` headers lead to vectors and frames that live through the call, and sendmmsg only
        // reads them.
        let sent =
            unsafe { libc::sendmmsg(self.fd.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }

    /// Frames that came and found no room in the socket's buffer, since the start.
    pub fn drops(&mut self) -> u64 {
        // struct tpacket_stats: packets, drops; reading resets it.
        let mut statistics = [0u32; 2];
        let mut length = size_of::<[u32; 2]>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `statistics`, which is that long.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 {
            self.drops += u64::from(statistics[1]);
        }
        self.drops
    }

    /// Whether there is somebody at the other end of the cable.
    #[must_use]
    pub fn has_carrier(&self) -> bool {
        // SAFETY: ifreq is plain old data for which zeroes are valid.
        let mut request: libc::ifreq = unsafe { zeroed() };
        for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: SIOCGIFFLAGS reads the name and fills the flags of one ifreq, which lives through the call.
        let result =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SIOCGIFFLAGS as libc::Ioctl, &raw mut request) };
        // SAFETY: SIOCGIFFLAGS filled this member.
        result == 0 && libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_RUNNING != 0
    }

    /// Frames that the interface itself threw away, on the way in and on the way out.
    #[must_use]
    pub fn interface_drops(&self) -> (u64, u64) {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        // Two lines of heading, then `name: ` and bytes, packets, errors, drops and four more, each way.
        let line = table.lines().filter_map(|l| l.split_once(':')).find(|(name, _)| name.trim() == self.name);
        let numbers: Vec<u64> = line
            .map(|(_, rest)| rest.split_whitespace().filter_map(|n| n.parse().ok()).collect())
            .unwrap_or_default();
        let at = |i: usize| numbers.get(i).copied().unwrap_or(0);
        (at(3), at(11))
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The wall clock, which the kernel stamps frames with.
#[must_use]
pub fn now() -> Nanos {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// When the kernel got a frame.
fn stamp(header: &libc::msghdr) -> Nanos {
    // SAFETY: the kernel filled the control area of this header and set its length.
    let message = unsafe { libc::CMSG_FIRSTHDR(header) };
    if message.is_null() {
        return now();
    }
    // SAFETY: not null, so it lies in the control area, whole and aligned.
    let (level, kind) = unsafe { ((*message).cmsg_level, (*message).cmsg_type) };
    if (level, kind) != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
        return now();
    }
    // SAFETY: a message of this kind carries one timespec.
    let time = unsafe { ptr::read_unaligned(libc::CMSG_DATA(message).cast::<libc::timespec>()) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn option(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an int from `value`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
