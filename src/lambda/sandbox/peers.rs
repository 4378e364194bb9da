//! Whose a connection over the machine's loopback device is, as the kernel's tables of TCP have it.
//!
//! Every user of the machine can connect to a port on it. What is said over the connection is not known here.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// The kernel's tables: a socket of IPv6 may speak IPv4, as all of Java's do.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Whether the program at `peer` that has connected to `ours` is this process's user's, as all in its sandboxes are.
///
/// # Errors
/// When the tables cannot be read.
pub(super) fn is_own(peer: SocketAddr, ours: SocketAddr) -> io::Result<bool> {
    let user = rustix::process::geteuid().as_raw();
    for path in TABLES {
        let table = match fs::read_to_string(path) {
            // A kernel may have no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            table => table?,
        };
        if let Some(owner) = owner(&table, peer, ours) {
            return Ok(owner == user);
        }
    }
    Ok(false)
}

/// The user whose socket at `local` is connected to `remote`. One that was closed already is nobody's any more.
fn owner(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let (locals, remotes) = (written(local), written(remote));
    let wanted = [[&*locals[0], &*remotes[0]], [&*locals[1], &*remotes[1]]];
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if !wanted.contains(&[fields.next()?, fields.next()?]) {
            return None;
        }
        // State, queues, timer and retransmissions lie between; after the user comes another timer.
        let user = fields.nth(4)?.parse().ok()?;
        let inode = fields.nth(1)?;
        (inode != "0").then_some(user)
    })
}

/// An address as the kernel writes it, as one of IPv4 and as one of IPv6.
fn written(address: SocketAddr) -> [String; 2] {
    let (short, long) = match address.ip() {
        IpAddr::V4(ip) => (ip.octets().to_vec(), ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => (ip.octets().to_vec(), ip),
    };
    [short, long.octets().to_vec()].map(|octets| {
        let words = octets.as_chunks().0.iter();
        let words = words.map(|word| format!("{:08X}", u32::from_ne_bytes(*word)));
        format!("{}:{:04X}", words.collect::<String>(), address.port())
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn ones_own_connections_are_known() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let ours = listener.local_addr().unwrap();
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), ours.port()));
        for address in [ours, mapped] {
            let stream = TcpStream::connect(address).unwrap();
            // Who has said all may still want an answer.
            stream.shutdown(Shutdown::Write).unwrap();
            let (_accepted, peer) = listener.accept().unwrap();
            assert!(is_own(peer, ours).unwrap(), "{address}");
        }
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        assert!(!is_own(nobody, ours).unwrap());
    }

    #[test]
    fn a_closed_connection_is_nobodys() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let ours = listener.local_addr().unwrap();
        drop(TcpStream::connect(ours).unwrap());
        let (_accepted, peer) = listener.accept().unwrap();
        assert!(!is_own(peer, ours).unwrap());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_kernels_tables_are_read() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2329 00000000:0000 0A 00000000:00000000 00:00000000 00000000   993        0 7 1 0 100 0 0 10 0
   1: 0100007F:2329 0100007F:C001 01 00000000:00000000 00:00000000 00000000   993        0 8 1 0 20 4 30 10 -1
   2: 0100007F:C001 0100007F:2329 01 00000000:00000000 00:00000000 00000000  1001        0 9 1 0 20 4 30 10 -1
   3: 0100007F:C002 0100007F:2329 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
   4: 0000000000000000FFFF00000100007F:C003 0000000000000000FFFF00000100007F:2329 01 00000000:00000000 00:00000000 00000000  1002        0 10 1 0
";
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let of = |port| owner(table, at(port), at(0x2329));
        assert_eq!(of(0xC001), Some(1001));
        assert_eq!(of(0xC002), None, "it is closed");
        assert_eq!(of(0xC003), Some(1002));
        assert_eq!(of(0xC004), None);
    }
}
