//! Who is at the other end of a loopback connection.
//!
//! Loopback is shared by all users of a machine, and `POST /v1/runs` runs commands. So the kernel is asked whose socket
//! it is. Source: sock_diag(7); `linux/inet_diag.h`, `linux/netlink.h`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::App;
use crate::access::Standing;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const PROTOCOL_TCP: u8 = 6;
const REQUEST_BYTES: usize = 72;
/// Where the owner stands in the answer: after the message's header and the fields before it. The inode is next.
const UID_AT: usize = 16 + 4 + 48 + 12;
const INODE_AT: usize = UID_AT + 4;

/// What the kernel says about a socket of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Socket {
    /// The user it belongs to.
    pub(super) uid: u32,
    /// Its inode; zero once no process holds it.
    pub(super) inode: u32,
}

/// The two ends of a connection, and whose the far one is, once somebody asked.
#[derive(Debug, Clone)]
pub struct Peer {
    remote: SocketAddr,
    local: Option<SocketAddr>,
    socket: Arc<OnceLock<Option<Socket>>>,
    standing: Arc<OnceLock<Standing>>,
}

impl Peer {
    /// The far end of a connection.
    pub fn of(remote: SocketAddr, local: Option<SocketAddr>) -> Self {
        Self { remote, local, socket: Arc::default(), standing: Arc::default() }
    }

    /// Whether the far end is on this machine's loopback.
    pub(super) fn is_loopback(&self) -> bool {
        self.remote.ip().is_loopback()
    }

    /// The user whose socket the far end is; `None` if the kernel does not say.
    pub(super) fn uid(&self) -> Option<u32> {
        self.socket().map(|socket| socket.uid)
    }

    /// The far end's socket, if it is on this machine. Asked once for a connection.
    fn socket(&self) -> Option<Socket> {
        *self.socket.get_or_init(|| self.local.and_then(|local| ask(self.remote, local).ok().flatten()))
    }

    /// Where the process stands that holds the far end; `None` if that is on another machine. What was once seen holds
    /// for the connection.
    pub(super) async fn standing(&self, app: &App) -> Option<Standing> {
        if let Some(known) = self.standing.get() {
            return Some(known.clone());
        }
        let found = match self.socket() {
            Some(socket) => app.insiders.standing(&app.engine, u64::from(socket.inode)).await,
            None if self.is_loopback() => Standing::Unseen,
            None => return None,
        };
        if found != Standing::Unseen {
            let _ = self.standing.set(found.clone());
        }
        Some(found)
    }
}

/// The socket that is bound to `socket` and connected to `other`.
fn ask(socket: SocketAddr, other: SocketAddr) -> io::Result<Option<Socket>> {
    let kind = SocketType::DGRAM;
    let fd = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    send(&fd, &request(socket, other), SendFlags::empty())?;
    let mut answer = [0_u8; 512];
    let (len, _) = recv(&fd, &mut answer[..], RecvFlags::DONTWAIT)?;
    let answer = &answer[..len];
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    if kind != Some(SOCK_DIAG_BY_FAMILY) {
        return Ok(None);
    }
    let number = |at: usize| answer.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    Ok(number(UID_AT).zip(number(INODE_AT)).map(|(uid, inode)| Socket { uid, inode }))
}

fn request(socket: SocketAddr, other: SocketAddr) -> Vec<u8> {
    let mut out = Vec::with_capacity(REQUEST_BYTES);
    out.extend((REQUEST_BYTES as u32).to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(NLM_F_REQUEST.to_ne_bytes());
    out.extend([0; 8]);
    let family = if socket.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    out.extend([family.as_raw() as u8, PROTOCOL_TCP, 0, 0]);
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(socket.port().to_be_bytes());
    out.extend(other.port().to_be_bytes());
    for address in [socket.ip(), other.ip()] {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes = v6.octets(),
        }
        out.extend(bytes);
    }
    out.extend([0; 4]);
    out.extend([0xff; 8]);
    out
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn the_kernel_says_whose_socket_it_is() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else {
                println!("skipped {address}: this machine has no such loopback");
                continue;
            };
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, remote) = listener.accept().unwrap();
            let own = rustix::process::getuid().as_raw();
            let found = ask(remote, server.local_addr().unwrap()).unwrap().unwrap();
            let link = std::fs::read_link(format!("/proc/self/fd/{}", client.as_raw_fd())).unwrap();
            assert_eq!((found.uid, format!("socket:[{}]", found.inode)), (own, link.to_str().unwrap().to_owned()));
        }
    }

    #[test]
    fn a_socket_that_is_not_there_is_nobody_s() {
        let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert_eq!(ask(nobody, "127.0.0.1:2".parse().unwrap()).unwrap(), None);
    }
}
