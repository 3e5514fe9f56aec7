//! Who listens on a port: for the message of a second server.

use std::fs;
use std::net::SocketAddr;

/// The inode of the socket that listens on `port`, from the kernel's table. Source: proc(5), `/proc/net/tcp`.
fn inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let (_, found) = local.rsplit_once(':')?;
        let listens = state == "0A" && u16::from_str_radix(found, 16).ok()? == port;
        listens.then(|| fields.nth(5)?.parse().ok())?
    })
}

/// A sentence part that names the process, if this user may see it.
pub(crate) fn find(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|path| inode(&fs::read_to_string(path).ok()?, address.port()))?;
    let socket = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|text| text.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = |fd: &fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == socket.as_str());
        if descriptors.flatten().any(|fd| holds(&fd)) {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("the process with pid {pid} ({})", command.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = find(listener.local_addr().unwrap()).unwrap();
        assert!(found.contains(&format!("pid {} ", std::process::id())), "{found}");
    }
}
