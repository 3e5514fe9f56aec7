//! Telling a service manager how it stands: ready, stopping, alive.
//!
//! Job: the datagrams of sd_notify(3), whose whole protocol is these lines. Owns: the socket. Never: waits for the
//! manager, or says that the server is alive without having asked event loop and store.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where to tell it, and how often the manager wants to hear that the server is alive.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// What the variables of the process say. They stay: a program that takes this one's place needs them too.
    pub(super) fn from_environment() -> Self {
        Self::new(std::env::var_os)
    }

    fn new(variable: impl Fn(&'static str) -> Option<OsString>) -> Self {
        let to = variable("NOTIFY_SOCKET").and_then(|name| match open(&name) {
            Ok(to) => Some(to),
            Err(error) => {
                tracing::warn!(socket = %name.display(), %error, "the service manager cannot be told anything");
                None
            }
        });
        let number = |name| variable(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        // Source: sd_watchdog_enabled(3).
        let ours = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && ours).map(Duration::from_micros);
        Self { to, watchdog }
    }

    /// Says lines of `NAME=VALUE`.
    pub(super) fn say(&self, lines: &str) {
        let Some((socket, address)) = &self.to else { return };
        // A manager that does not read is not waited for.
        if let Err(error) = socket.send_to_addr(lines.as_bytes(), address) {
            tracing::warn!(%error, lines, "the service manager was not told");
        }
    }

    /// Says again and again that the server is alive, twice as often as the manager wants, as long as `answers` comes
    /// back with yes in time. Never ends; does nothing if the manager does not ask for it.
    pub(super) async fn keep_alive<Answer: Future<Output = bool>>(&self, answers: impl Fn() -> Answer) {
        let Some(interval) = self.watchdog.map(|all| all / 2).filter(|_| self.to.is_some()) else {
            return std::future::pending().await;
        };
        let mut beats = tokio::time::interval(interval);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            // Without the word that all is well the manager starts another server, when its patience is over.
            match tokio::time::timeout(interval / 2, answers()).await {
                Ok(true) => self.say("WATCHDOG=1"),
                Ok(false) => tracing::error!("the store takes no commit"),
                Err(_) => tracing::error!("the store does not answer"),
            }
        }
    }
}

/// The socket of this name: a path, or an abstract name after `@`. Source: sd_notify(3).
fn open(name: &std::ffi::OsStr) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => {
            return Err(std::io::Error::new(
                std::io::ErrorKind::Unsupported,
                "it is neither a path nor an abstract name",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn notifier(socket: &std::path::Path, more: &[(&str, &str)]) -> Notifier {
        Notifier::new(|name| match name {
            "NOTIFY_SOCKET" => Some(socket.into()),
            name => more.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()),
        })
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_silences_the_watchdog() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let told = || {
            let mut bytes = [0; 64];
            manager.recv(&mut bytes).ok().map(|len| String::from_utf8_lossy(&bytes[..len]).into_owned())
        };
        let notifier = notifier(&path, &[("WATCHDOG_USEC", "20000")]);
        // The first two questions are answered with no and never; the third with yes.
        let asked = AtomicUsize::new(0);
        let answers = || async {
            match asked.fetch_add(1, Ordering::SeqCst) {
                0 => false,
                1 => std::future::pending().await,
                nth => {
                    assert!(nth > 2 || told().is_none(), "told before anything answered");
                    true
                }
            }
        };
        tokio::select! {
            () = notifier.keep_alive(answers) => {}
            () = async {
                while told().as_deref() != Some("WATCHDOG=1") {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            } => {}
        }
        assert!(asked.load(Ordering::SeqCst) >= 3);
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let of = |pid: &str| notifier(&path, &[("WATCHDOG_USEC", "20000"), ("WATCHDOG_PID", pid)]).watchdog;
        assert_eq!(of("1"), None);
        assert_eq!(of(&std::process::id().to_string()), Some(Duration::from_millis(20)));
        assert!(notifier(std::path::Path::new("relative"), &[]).to.is_none());
    }
}
