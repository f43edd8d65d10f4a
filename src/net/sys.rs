//! The kernel calls of the network edge that no safe crate wraps: interface ioctls, XDP links and queries, XSK calls.
//!
//! Not a place for decisions: each function is one call with its arguments checked by type.
//! Invariant: all `unsafe` of `nic`, `steer` and `ladder` is here; what the kernel fills in is sized by type.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// libbpf's low-level calls return −errno.
fn bpf_checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::from_raw_os_error(result.saturating_neg())) } else { Ok(result) }
}

/// Names of all interfaces of the calling thread's network namespace.
pub(super) fn interfaces() -> io::Result<Vec<String>> {
    // SAFETY: takes nothing; the list it returns is read up to its end marker and given back once.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut names = Vec::new();
    let mut at = list;
    // SAFETY: `at` walks an array that ends with an entry of index 0 (if_nameindex(3)); names are C strings.
    unsafe {
        while (*at).if_index != 0 && !(*at).if_name.is_null() {
            names.push(CStr::from_ptr((*at).if_name).to_string_lossy().into_owned());
            at = at.add(1);
        }
        libc::if_freenameindex(list);
    }
    Ok(names)
}

/// Asks for the facts of one interface, in the network namespace of the thread that made it.
pub(super) struct Interface {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

/// `struct ethtool_drvinfo` (linux/ethtool.h).
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    sizes: [u32; 5],
}

/// `struct ethtool_channels` (linux/ethtool.h).
#[repr(C)]
#[derive(Default)]
pub(super) struct Channels {
    command: u32,
    max: [u32; 4],
    pub(super) rx: u32,
    pub(super) tx: u32,
    pub(super) other: u32,
    pub(super) combined: u32,
}

/// `struct ethtool_value` (linux/ethtool.h).
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GLINK: u32 = 0xa;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

impl Interface {
    /// Opens the way to ask. The interface need not exist.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.bytes().any(|b| b == 0) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        let mut own = [0; libc::IFNAMSIZ];
        for (to, from) in own.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        // Any family answers these; this one every sandbox allows.
        // SAFETY: plain call; the descriptor is ours alone.
        let fd = checked(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: just opened, nobody else has it.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) }, name: own })
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: plain data for which zero is a value.
        let mut request: libc::ifreq = unsafe { zeroed() };
        request.ifr_name = self.name;
        request
    }

    fn ioctl(&self, code: libc::c_ulong) -> io::Result<libc::ifreq> {
        let mut request = self.request();
        // SAFETY: the codes used in this module read and write a `struct ifreq` and nothing behind it.
        checked(unsafe { libc::ioctl(self.socket.as_raw_fd(), code as _, &raw mut request) })?;
        Ok(request)
    }

    fn ethtool<T>(&self, argument: &mut T) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = std::ptr::from_mut(argument).cast();
        // SAFETY: `argument` is one of the structures above, which the kernel fills in by its command; none of
        // these commands writes past it.
        checked(unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) })?;
        Ok(())
    }

    pub(super) fn index(&self) -> io::Result<u32> {
        // SAFETY: SIOCGIFINDEX sets this member.
        self.ioctl(libc::SIOCGIFINDEX as _).map(|r| unsafe { r.ifr_ifru.ifru_ifindex } as u32)
    }

    pub(super) fn mtu(&self) -> io::Result<u32> {
        // SAFETY: SIOCGIFMTU sets this member.
        self.ioctl(libc::SIOCGIFMTU as _).map(|r| unsafe { r.ifr_ifru.ifru_mtu } as u32)
    }

    pub(super) fn flags(&self) -> io::Result<c_int> {
        // SAFETY: SIOCGIFFLAGS sets this member.
        self.ioctl(libc::SIOCGIFFLAGS as _).map(|r| c_int::from(unsafe { r.ifr_ifru.ifru_flags }))
    }

    /// Hardware type (ARPHRD_*) and address.
    pub(super) fn address(&self) -> io::Result<(u16, [u8; 6])> {
        let request = self.ioctl(libc::SIOCGIFHWADDR as _)?;
        // SAFETY: SIOCGIFHWADDR sets this member.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        Ok((address.sa_family, mac))
    }

    /// Driver name, and bus address where there is one.
    pub(super) fn driver(&self) -> io::Result<(String, String)> {
        // SAFETY: plain data for which zero is a value.
        let mut info: DriverInfo = unsafe { zeroed() };
        info.command = ETHTOOL_GDRVINFO;
        self.ethtool(&mut info)?;
        Ok((text(&info.driver), text(&info.bus)))
    }

    pub(super) fn channels(&self) -> io::Result<Channels> {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        self.ethtool(&mut channels)?;
        Ok(channels)
    }

    /// Whether the driver takes VLAN tags out of received frames.
    pub(super) fn strips_vlan(&self) -> io::Result<bool> {
        let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
        self.ethtool(&mut value)?;
        Ok(value.data & ETH_FLAG_RXVLAN != 0)
    }

    /// Whether it is up and has a carrier. The flag IFF_RUNNING says so up to a second later (net/core/link_watch.c), and
    /// counts where the driver does not say.
    pub(super) fn carrier(&self) -> io::Result<bool> {
        let mut value = Value { command: ETHTOOL_GLINK, data: 0 };
        match self.ethtool(&mut value) {
            Ok(()) => Ok(value.data != 0),
            Err(_) => Ok(self.flags()? & libc::IFF_RUNNING != 0),
        }
    }
}

/// What the kernel says of XDP on an interface.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct XdpState {
    pub(super) native: u32,
    pub(super) generic: u32,
    pub(super) offloaded: u32,
    pub(super) features: u64,
    pub(super) zero_copy_segments: u32,
}

/// Programs attached to an interface and what its driver can do (0 where the kernel does not say).
pub(super) fn xdp_query(index: u32) -> io::Result<XdpState> {
    // SAFETY: plain data for which zero is a value.
    let mut opts: libbpf_sys::bpf_xdp_query_opts = unsafe { zeroed() };
    opts.sz = size_of::<libbpf_sys::bpf_xdp_query_opts>() as _;
    // SAFETY: `opts` says its own size and lives through the call.
    bpf_checked(unsafe { libbpf_sys::bpf_xdp_query(index as c_int, 0, &raw mut opts) })?;
    Ok(XdpState {
        native: opts.drv_prog_id,
        generic: opts.skb_prog_id,
        offloaded: opts.hw_prog_id,
        features: opts.feature_flags,
        zero_copy_segments: opts.xdp_zc_max_segs,
    })
}

/// Name of a loaded program; needs CAP_SYS_ADMIN.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    // SAFETY: plain call; the descriptor is ours alone.
    let program = unsafe {
        let fd = bpf_checked(libbpf_sys::bpf_prog_get_fd_by_id(id))?;
        OwnedFd::from_raw_fd(fd)
    };
    Ok(text(&program_info(program.as_fd())?.name.map(|c| c as u8)))
}

fn program_info(program: BorrowedFd<'_>) -> io::Result<libbpf_sys::bpf_prog_info> {
    // SAFETY: plain data for which zero is a value: no array asked for.
    let mut info: libbpf_sys::bpf_prog_info = unsafe { zeroed() };
    let mut len = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: `info` is as long as `len` says and asks for no further memory.
    bpf_checked(unsafe {
        libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut len)
    })?;
    Ok(info)
}

/// Attaches an XDP program by a link, which goes with its last descriptor. `flags`: one XDP_FLAGS_*_MODE.
pub(super) fn attach_xdp(program: BorrowedFd<'_>, index: u32, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain data for which zero is a value.
    let mut opts: libbpf_sys::bpf_link_create_opts = unsafe { zeroed() };
    opts.sz = size_of::<libbpf_sys::bpf_link_create_opts>() as _;
    opts.flags = flags;
    // SAFETY: `opts` says its own size and lives through the call; the descriptor returned is ours alone.
    unsafe {
        let fd = bpf_checked(libbpf_sys::bpf_link_create(
            program.as_raw_fd(),
            index as c_int,
            libbpf_sys::BPF_XDP,
            &raw const opts,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Interface that an XDP link is attached to, 0 once it is detached or the interface is gone; and the number of the
/// program that it runs there.
pub(super) fn link_interface(link: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    // SAFETY: plain data for which zero is a value: no array asked for.
    let mut info: libbpf_sys::bpf_link_info = unsafe { zeroed() };
    let mut len = size_of::<libbpf_sys::bpf_link_info>() as u32;
    // SAFETY: `info` is as long as `len` says.
    bpf_checked(unsafe {
        libbpf_sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut len)
    })?;
    // SAFETY: the kernel sets this member for XDP links, and zero is a value of it otherwise.
    Ok((unsafe { info.__bindgen_anon_1.xdp.ifindex }, info.prog_id))
}

/// Lets a link run this program, whichever it ran before.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open; without options nothing else is read.
    bpf_checked(unsafe {
        libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null())
    })?;
    Ok(())
}

/// Number of a program.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(program_info(program)?.id)
}

/// Whether an AF_XDP socket works without copies (XDP_OPTIONS).
pub(super) fn is_zero_copy(socket: impl AsFd) -> io::Result<bool> {
    let mut options = 0u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: `options` is as long as `len` says.
    checked(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_OPTIONS,
            (&raw mut options).cast::<c_void>(),
            &raw mut len,
        )
    })?;
    Ok(options & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// What the kernel counted of an AF_XDP socket. Kernels before 5.9 fill in the first three only.
pub(super) fn statistics(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    // SAFETY: plain data for which zero is a value.
    let mut statistics: libc::xdp_statistics = unsafe { zeroed() };
    let mut len = size_of::<libc::xdp_statistics>() as libc::socklen_t;
    // SAFETY: `statistics` is as long as `len` says.
    checked(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_STATISTICS,
            (&raw mut statistics).cast::<c_void>(),
            &raw mut len,
        )
    })?;
    Ok(statistics)
}

/// XDP_MAX_TX_SKB_BUDGET (linux/if_xdp.h, since 6.17).
const MAX_TX_BUDGET: c_int = 9;

/// Descriptors that copy mode sends in one call, 32 unless said; older kernels do not know the option.
pub(super) fn set_transmit_budget(socket: impl AsFd, descriptors: u32) -> io::Result<()> {
    // SAFETY: the value is as long as said.
    checked(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_XDP,
            MAX_TX_BUDGET,
            (&raw const descriptors).cast::<c_void>(),
            size_of::<u32>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Bytes of frames that copy mode may have under way at once. The kernel charges each to the socket, and the default
/// (net.core.wmem_default, 208 KiB) is some dozen jumbo frames: far fewer than the TX ring holds.
pub(super) fn set_send_buffer(socket: impl AsFd, bytes: usize) {
    use rustix::net::sockopt;
    // By privilege beyond net.core.wmem_max, without it as far as that goes; what there is then works as well, slower.
    if sockopt::set_socket_send_buffer_size_force(&socket, bytes).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&socket, bytes);
    }
}

/// Lets the kernel send what is on TX. Never blocks.
pub(super) fn wake_transmit(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no data, no address.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the driver take chunks from FILL. Never blocks.
pub(super) fn wake_receive(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no data, no address.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if received < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
