//! The edge to the kernel: one packet socket on one interface, in batches.
//!
//! Not here: what is in a frame, beyond its EtherType and the VLAN tag the kernel takes out.
//! Invariant: every pointer given to the kernel is made for one call from a borrow that outlives it; this module is
//! the only one of the initiator that says `unsafe`.
#![allow(unsafe_code)]

use super::Error;
use super::wire::Arrival;
use crate::limits::{ETHERNET, VLAN_TAG};
use crate::protocol::ethernet::ETHERTYPE_AOE;
use crate::protocol::{Command, Mac};
use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use zerocopy::IntoBytes;

/// Frames taken or sent in one system call.
pub const BATCH: usize = 64;
/// Bytes kept of a frame when its data does not matter.
const SNIPPET: usize = 128;
/// Milliseconds [`Port::receive`] waits for the first frame; the resolution of our timers.
pub const WAIT_MILLISECONDS: u64 = 4;
/// Bytes of socket buffer asked for, each way: more than the answers to the deepest load.
const SOCKET_BUFFER: libc::c_int = 32 << 20;
/// Room for one control message that holds a `tpacket_auxdata`.
const CONTROL: usize = 64;

/// include/uapi/linux/if_packet.h; the libc crate has them for some targets only.
const PACKET_STATISTICS: libc::c_int = 6;
const PACKET_AUXDATA: libc::c_int = 8;
const PACKET_QDISC_BYPASS: libc::c_int = 20;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
/// include/uapi/linux/if_arp.h
const ARPHRD_ETHER: u16 = 1;
/// include/uapi/linux/if_packet.h
const PACKET_OTHERHOST: u8 = 3;

/// How a port is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Send and accept frames of this VLAN only; `None` for untagged frames.
    pub vlan: Option<u16>,
    /// Keep only the headers of what comes in, when nobody looks at the data.
    pub headers_only: bool,
    /// Receive Query Config frames only; what else comes in costs nothing then.
    pub config_only: bool,
    /// Send without the queueing discipline. The kernel then picks the transmit queue by CPU.
    pub bypass_qdisc: bool,
}

/// A packet socket bound to one interface.
pub struct Port {
    fd: OwnedFd,
    name: String,
    mac: Mac,
    mtu: u32,
    options: Options,
    inbox: Inbox,
    outbox: Outbox,
    arrivals: Vec<Stored>,
    drops: u64,
}

/// A frame in the inbox.
#[derive(Clone, Copy)]
struct Stored {
    buffer: usize,
    kept: usize,
    length: usize,
    vlan: Option<u16>,
}

// SAFETY: the pointers in its headers lead to its own boxes, are made anew for every call, and are read by nobody
// between calls.
unsafe impl Send for Port {}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("name", &self.name).field("mac", &self.mac).finish_non_exhaustive()
    }
}

impl Port {
    /// Opens interface `name`.
    ///
    /// # Errors
    /// When there is no such interface, it is down or not Ethernet, or raw sockets are not permitted.
    pub fn open(name: &str, options: Options) -> Result<Self, Error> {
        let failed = |what, source: io::Error| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::Permission { name: name.to_owned() },
            _ => Error::Socket { what, name: name.to_owned(), source },
        };
        let no_interface =
            || Error::NoInterface { name: name.to_owned(), available: interfaces().join(", ") };
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(failed("cannot open a packet socket", io::Error::last_os_error()));
        }
        // SAFETY: socket(2) just returned this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };

        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(no_interface());
        }
        let c_name = CString::new(name).map_err(|_| no_interface())?;
        // SAFETY: the name is a NUL-terminated string that lives through the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(no_interface());
        }
        let flags = interface_request(&fd, &c_name, libc::SIOCGIFFLAGS as libc::Ioctl)
            .map_err(|e| failed("cannot read the flags", e))?;
        // SAFETY: SIOCGIFFLAGS filled this member.
        if libc::c_int::from(unsafe { flags.ifr_ifru.ifru_flags }) & libc::IFF_UP == 0 {
            return Err(Error::Down { name: name.to_owned() });
        }
        let mtu = interface_request(&fd, &c_name, libc::SIOCGIFMTU as libc::Ioctl)
            .map_err(|e| failed("cannot read the MTU", e))?;
        // SAFETY: SIOCGIFMTU filled this member.
        let mtu = unsafe { mtu.ifr_ifru.ifru_mtu } as u32;
        let hardware = interface_request(&fd, &c_name, libc::SIOCGIFHWADDR as libc::Ioctl)
            .map_err(|e| failed("cannot read the hardware address", e))?;
        // SAFETY: SIOCGIFHWADDR filled this member.
        let hardware = unsafe { hardware.ifr_ifru.ifru_hwaddr };
        if hardware.sa_family != ARPHRD_ETHER {
            return Err(Error::NotEthernet { name: name.to_owned(), hardware: hardware.sa_family });
        }
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(hardware.sa_data) {
            *to = from as u8;
        }

        for (forced, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            // Forcing needs CAP_NET_ADMIN; without it the administrator's limit applies, which is fine.
            if set_option(&fd, libc::SOL_SOCKET, forced, &SOCKET_BUFFER).is_err() {
                let _ = set_option(&fd, libc::SOL_SOCKET, plain, &SOCKET_BUFFER);
            }
        }
        let wait = libc::timeval { tv_sec: 0, tv_usec: (WAIT_MILLISECONDS * 1000) as libc::suseconds_t };
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &wait)
            .map_err(|e| failed("cannot set the receive timeout", e))?;
        // Older kernels lack it; then our own requests come back and are told apart by the R flag.
        let _ = set_option(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1);
        if options.bypass_qdisc {
            set_option(&fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS, &1)
                .map_err(|e| failed("cannot bypass the queueing discipline", e))?;
        }
        // A socket for one EtherType sees frames of an unknown VLAN without their tag, marked as somebody else's
        // (net/core/dev.c, __netif_receive_skb_core). Only one for all EtherTypes gets to see the tag.
        if options.vlan.is_some() || options.config_only {
            set_filter(&fd, options.config_only).map_err(|e| failed("cannot filter for AoE", e))?;
        }
        let protocol = if options.vlan.is_some() {
            set_option(&fd, libc::SOL_PACKET, PACKET_AUXDATA, &1)
                .map_err(|e| failed("cannot ask for VLAN tags", e))?;
            libc::ETH_P_ALL as u16
        } else {
            ETHERTYPE_AOE
        };
        bind(&fd, index, protocol).map_err(|e| failed("cannot bind", e))?;

        let room = if options.headers_only { SNIPPET } else { mtu as usize + ETHERNET + VLAN_TAG };
        Ok(Self {
            fd,
            name: name.to_owned(),
            mac: Mac(mac),
            mtu,
            options,
            inbox: Inbox::new(room.max(SNIPPET), options.vlan.is_some()),
            outbox: Outbox::new(),
            arrivals: Vec::with_capacity(BATCH),
            drops: 0,
        })
    }

    /// The interface.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its MAC address.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// Its MTU when it was opened, in bytes.
    #[must_use]
    pub const fn mtu(&self) -> u32 {
        self.mtu
    }

    /// The VLAN in use.
    #[must_use]
    pub const fn vlan(&self) -> Option<u16> {
        self.options.vlan
    }

    /// Waits up to [`WAIT_MILLISECONDS`] for a frame if `wait`, and takes what is there, at most [`BATCH`]. Returns
    /// how many [`Port::arrival`] can give; those of other VLANs or other hosts are left out.
    ///
    /// # Errors
    /// When the interface is gone. That it is down is no error: it may come up again.
    pub fn receive(&mut self, wait: bool) -> Result<usize, Error> {
        self.arrivals.clear();
        let flags = libc::MSG_TRUNC | if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        let taken = match self.inbox.receive(&self.fd, flags) {
            Ok(n) => n,
            Err(e) => match e.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => return Ok(0),
                Some(libc::ENETDOWN) => {
                    // Told once; until it is up again nothing comes in, and this must not become a busy loop.
                    std::thread::sleep(std::time::Duration::from_millis(WAIT_MILLISECONDS));
                    return Ok(0);
                }
                Some(libc::ENXIO | libc::ENODEV) => return Err(Error::Gone { name: self.name.clone() }),
                _ => {
                    return Err(Error::Socket { what: "cannot receive", name: self.name.clone(), source: e });
                }
            },
        };
        for buffer in 0..taken {
            let stored = self.inbox.stored(buffer);
            let vlan = stored.vlan.map_or(0, |tci| tci & 0x0fff);
            // Priority tags carry VLAN 0 and count as untagged. To a socket for one EtherType a frame of another
            // VLAN looks like somebody else's.
            let wanted =
                self.inbox.kind(buffer) != PACKET_OTHERHOST && vlan == self.options.vlan.unwrap_or(0);
            if wanted {
                self.arrivals.push(stored);
            }
        }
        Ok(self.arrivals.len())
    }

    /// One of the frames the last [`Port::receive`] took.
    #[must_use]
    pub fn arrival(&self, index: usize) -> Arrival<'_> {
        let empty = Arrival { bytes: &[], length: 0, vlan: None };
        self.arrivals.get(index).map_or(empty, |s| Arrival {
            bytes: self.inbox.bytes(s.buffer, s.kept),
            length: s.length,
            vlan: s.vlan,
        })
    }

    /// Sends frames, at most [`BATCH`], and returns how many the kernel took. Fewer than given means: try again
    /// later. While the interface is down frames are taken and lost, as on a cable that is not plugged in.
    ///
    /// # Errors
    /// When the interface is gone, or a frame is longer than it allows.
    pub fn send(&mut self, frames: &[&[u8]]) -> Result<usize, Error> {
        if frames.is_empty() {
            return Ok(0);
        }
        match self.outbox.send(&self.fd, frames) {
            Ok(n) => Ok(n),
            Err(e) => match e.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => Ok(0),
                Some(libc::ENETDOWN) => Ok(frames.len().min(BATCH)),
                Some(libc::ENXIO | libc::ENODEV) => Err(Error::Gone { name: self.name.clone() }),
                _ => Err(Error::Socket { what: "cannot send", name: self.name.clone(), source: e }),
            },
        }
    }

    /// Frames that came in and were thrown away because the socket's buffer was full, since the start.
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
}

/// Readable when a frame is there.
impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The interfaces of this thread's network namespace.
#[must_use]
pub fn interfaces() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    // Two lines of heading, then `name: counters`.
    table.lines().skip(2).filter_map(|l| l.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
}

/// Whether there is a carrier on an interface, as far as can be told.
#[must_use]
pub fn has_carrier(port: &Port) -> bool {
    let Ok(name) = CString::new(port.name.as_str()) else { return true };
    interface_request(&port.fd, &name, libc::SIOCGIFFLAGS as libc::Ioctl).map_or(true, |request| {
        // SAFETY: SIOCGIFFLAGS filled this member.
        libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_RUNNING != 0
    })
}

fn interface_request(fd: &OwnedFd, name: &CString, what: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain old data for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    // SAFETY: the requests used here read and write one ifreq, and it lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), what, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request) }
}

fn set_option<T: Copy>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from `value`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets only AoE frames through, perhaps only those of Query Config: load the EtherType, compare, load the command,
/// compare, take all or nothing. The kernel has taken a tag out before.
fn set_filter(fd: &OwnedFd, config_only: bool) -> io::Result<()> {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load_half = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    let load_byte = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = [
        step(load_half, 0, 0, 12),
        step(equals, if config_only { 0 } else { 2 }, 3, u32::from(ETHERTYPE_AOE)),
        step(load_byte, 0, 0, 19),
        step(equals, 0, 1, u32::from(u8::from(Command::Config))),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn bind(fd: &OwnedFd, index: u32, protocol: u16) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain old data for which zeroes are valid.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as libc::c_int;
    // SAFETY: the kernel reads one sockaddr_ll, which lives through the call.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Buffers for one batch of received frames, and the headers that lead to them.
///
/// The pointers in the headers are made anew for every call, so that moving the object cannot make them stale.
struct Inbox {
    room: usize,
    control_bytes: usize,
    data: Box<[u8]>,
    control: Box<[[u64; CONTROL / 8]]>,
    names: Box<[libc::sockaddr_ll]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl Inbox {
    fn new(room: usize, with_control: bool) -> Self {
        // SAFETY: sockaddr_ll, iovec and mmsghdr are plain old data for which zeroes are valid.
        let (name, vector, header) =
            unsafe { (zeroed::<libc::sockaddr_ll>(), zeroed::<libc::iovec>(), zeroed::<libc::mmsghdr>()) };
        Self {
            room,
            control_bytes: if with_control { CONTROL } else { 0 },
            data: vec![0; room * BATCH].into(),
            control: vec![[0; CONTROL / 8]; BATCH].into(),
            names: vec![name; BATCH].into(),
            vectors: vec![vector; BATCH].into(),
            headers: vec![header; BATCH].into(),
        }
    }

    fn receive(&mut self, fd: &OwnedFd, flags: libc::c_int) -> io::Result<usize> {
        let parts = self.data.chunks_exact_mut(self.room).zip(&mut self.control).zip(&mut self.names);
        for (((data, control), name), (vector, header)) in
            parts.zip(self.vectors.iter_mut().zip(&mut self.headers))
        {
            *vector = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
            let message = &mut header.msg_hdr;
            message.msg_name = ptr::from_mut(name).cast();
            message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            message.msg_iov = vector;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = self.control_bytes as _;
        }
        // SAFETY: the loop above made all BATCH headers lead to a name, a vector, a control area and a buffer of
        // this object, each of the length its header says; none of them is borrowed during the call.
        let taken = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                flags as _,
                ptr::null_mut(),
            )
        };
        if taken < 0 { Err(io::Error::last_os_error()) } else { Ok(taken as usize) }
    }

    /// What the kernel said about one frame of the last batch.
    fn stored(&self, buffer: usize) -> Stored {
        let header = &self.headers[buffer];
        let length = header.msg_len as usize;
        let filled = header.msg_hdr.msg_controllen.min(self.control_bytes);
        let vlan = vlan_in(self.control[buffer].as_bytes().get(..filled).unwrap_or_default());
        Stored { buffer, kept: length.min(self.room), length, vlan }
    }

    fn kind(&self, buffer: usize) -> u8 {
        self.names[buffer].sll_pkttype
    }

    fn bytes(&self, buffer: usize, kept: usize) -> &[u8] {
        &self.data[buffer * self.room..][..kept]
    }
}

/// Finds the tag control information in control messages (cmsg(3): a header of length, level and type, then data,
/// each padded to the size of a word).
fn vlan_in(mut control: &[u8]) -> Option<u16> {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = WORD + 8;
    loop {
        let (length, rest) = control.split_first_chunk::<WORD>()?;
        let (level, rest) = rest.split_first_chunk::<4>()?;
        let (kind, _) = rest.split_first_chunk::<4>()?;
        let length = usize::from_ne_bytes(*length);
        let data = control.get(HEADER..length)?;
        if i32::from_ne_bytes(*level) == libc::SOL_PACKET && i32::from_ne_bytes(*kind) == PACKET_AUXDATA {
            // struct tpacket_auxdata: status 0..4, length, snapped, mac, net, tci 16..18, tpid 18..20
            let status = u32::from_ne_bytes(*data.first_chunk()?);
            let tci = u16::from_ne_bytes(*data.get(16..)?.first_chunk()?);
            return (status & TP_STATUS_VLAN_VALID != 0).then_some(tci);
        }
        control = control.get(length.next_multiple_of(WORD)..)?;
    }
}

/// The headers of one batch of frames to send.
struct Outbox {
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl Outbox {
    fn new() -> Self {
        // SAFETY: iovec and mmsghdr are plain old data for which zeroes are valid.
        let (vector, header) = unsafe { (zeroed::<libc::iovec>(), zeroed::<libc::mmsghdr>()) };
        Self { vectors: vec![vector; BATCH].into(), headers: vec![header; BATCH].into() }
    }

    fn send(&mut self, fd: &OwnedFd, frames: &[&[u8]]) -> io::Result<usize> {
        let count = frames.len().min(BATCH);
        for ((vector, header), frame) in self.vectors.iter_mut().zip(&mut self.headers).zip(frames) {
            // The kernel only reads from it; iovec has no const variant.
            *vector = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the loop above made the first `count` headers lead to vectors of this object and these to the
        // frames, which the caller's borrow keeps alive through the call; names and control are null.
        let sent = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens an interface, or says why that cannot be tried here.
    fn open(name: &str) -> Option<Error> {
        match Port::open(name, Options::default()) {
            Err(Error::Permission { .. }) => {
                println!("SKIPPED: raw sockets need CAP_NET_RAW");
                None
            }
            Err(e) => Some(e),
            Ok(port) => panic!("{port:?} is open"),
        }
    }

    #[test]
    fn a_missing_interface_is_named_with_those_there_are() {
        match open("xs-none") {
            Some(Error::NoInterface { name, available }) => {
                assert_eq!(name, "xs-none");
                assert!(available.split(", ").any(|i| i == "lo"), "{available}");
            }
            other => assert!(other.is_none(), "{other:?}"),
        }
    }

    #[test]
    fn names_no_interface_can_have_are_no_interface() {
        for name in ["", "a-name-of-more-than-15-bytes", "nul\0inside"] {
            let Some(error) = open(name) else { return };
            assert!(matches!(error, Error::NoInterface { .. }), "{name:?}: {error:?}");
        }
    }

    #[test]
    fn the_vlan_tag_is_found_among_the_control_messages() {
        let message = |level: i32, kind: i32, data: &[u8]| {
            let mut bytes = (16 + data.len()).to_ne_bytes().to_vec();
            bytes.extend_from_slice(&level.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes
        };
        let mut aux = [0; 20];
        aux[16..18].copy_from_slice(&0x2005u16.to_ne_bytes());
        assert_eq!(vlan_in(&message(libc::SOL_PACKET, PACKET_AUXDATA, &aux)), None, "not marked valid");
        aux[..4].copy_from_slice(&(TP_STATUS_VLAN_VALID | 1).to_ne_bytes());
        let tagged = message(libc::SOL_PACKET, PACKET_AUXDATA, &aux);
        assert_eq!(vlan_in(&tagged), Some(0x2005));
        let after_another = [message(libc::SOL_SOCKET, 29, &[1, 2, 3]), tagged.clone()].concat();
        assert_eq!(vlan_in(&after_another), Some(0x2005));
        for end in 0..tagged.len() - 4 {
            assert_eq!(vlan_in(&tagged[..end]), None, "cut at {end}");
        }
        assert_eq!(vlan_in(&[0; 64]), None, "a message of length 0 must not loop");
    }

    #[test]
    fn loopback_carries_no_aoe() {
        let Some(error) = open("lo") else { return };
        assert!(matches!(error, Error::NotEthernet { hardware: 772, .. } | Error::Down { .. }), "{error:?}");
    }
}
