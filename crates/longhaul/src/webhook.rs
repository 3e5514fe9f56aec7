//! The requests that webhooks get.
//!
//! Job: send one, and say what came back. Owns: the threads that do so, a bounded number. Never: connects to an address that
//! the webhook's host must not lead to, whatever its name is resolved to; follows a redirect; uses a proxy, which would
//! connect for it.

use std::fmt;
use std::io::Read as _;
use std::sync::Arc;

use longhaul_engine::subscriptions::{Answer, Call, Courier};
use longhaul_model::limits;
use longhaul_model::stream::subscription::{SubscriptionKey, WebhookUrl};
use longhaul_store::BoxFuture;
use tokio::sync::Semaphore;
use ureq::config::Config;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error, http};

use crate::http::{Origin, callback_path};

/// Sends what webhooks get.
#[derive(Debug)]
pub struct Webhooks {
    threads: Arc<Semaphore>,
    public_url: Option<Origin>,
}

impl Webhooks {
    /// Those of a server that others reach at an address, or where it is called.
    pub fn new(public_url: Option<Origin>) -> Self {
        Self { threads: Arc::new(Semaphore::new(limits::WEBHOOK_CALLS_MAX)), public_url }
    }
}

impl Courier for Webhooks {
    fn call<'a>(
        &'a self,
        call: Call,
        sign: &'a (dyn Fn(&[u8]) -> String + Send + Sync),
    ) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async move {
            let broken = || "the call broke off".to_owned();
            let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| broken())?;
            let signature = sign(&call.body);
            let sent = tokio::task::spawn_blocking(move || {
                let answer = send(&call, &signature, DefaultResolver::default());
                drop(thread);
                answer
            });
            sent.await.map_err(|_| broken())?
        })
    }

    fn callback_url(&self, base: &str, key: &SubscriptionKey) -> String {
        let base = self.public_url.as_ref().map_or(base, Origin::as_str);
        format!("{base}{}", callback_path(key.id.as_str()))
    }
}

/// Resolves names to addresses that the webhook may be at.
struct Guarded<R> {
    url: WebhookUrl,
    resolver: R,
}

impl<R> fmt::Debug for Guarded<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").finish_non_exhaustive()
    }
}

/// A name leads where no webhook may be.
#[derive(Debug, thiserror::Error)]
#[error("its host leads to an address of this machine or of a private network")]
struct LeadsInside;

impl<R: Resolver> Resolver for Guarded<R> {
    fn resolve(&self, uri: &http::Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.resolver.resolve(uri, config, timeout)?;
        // The connection is made to one of these: what the name leads to a moment later does not matter.
        if found.iter().all(|address| self.url.may_reach(address.ip())) {
            Ok(found)
        } else {
            Err(Error::Other(Box::new(LeadsInside)))
        }
    }
}

fn send(call: &Call, signature: &str, resolver: impl Resolver) -> Result<Answer, String> {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .max_idle_connections(0)
        .timeout_global(Some(call.within))
        .user_agent(format!("longhaul/{}", crate::VERSION))
        .build();
    let guarded = Guarded { url: call.url.clone(), resolver };
    let agent = Agent::with_parts(config, DefaultConnector::default(), guarded);
    let request = agent
        .post(call.url.as_str())
        .header("content-type", "application/json")
        .header("webhook-signature", signature)
        .send(&call.body[..]);
    let answer = request.map_err(|error| words(&error))?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    let read = answer.into_body().into_reader().take(limits::WEBHOOK_ANSWER_BYTES_MAX).read_to_end(&mut body);
    read.map_err(|error| format!("its answer did not arrive whole: {error}"))?;
    Ok(Answer { status, body: body.into() })
}

/// An error without the address, which may hold a secret.
fn words(error: &Error) -> String {
    match error {
        Error::Timeout(_) => "it did not answer in time".to_owned(),
        Error::HostNotFound => "its host is not known".to_owned(),
        Error::ConnectionFailed => "no connection".to_owned(),
        Error::Io(error) => format!("no answer: {error}"),
        Error::Other(error) => error.to_string(),
        _ => "it was not reached, or what it answered is no HTTP".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{SocketAddr, TcpListener};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Answers every name with one address.
    #[derive(Debug)]
    struct Always(SocketAddr);

    impl Resolver for Always {
        fn resolve(&self, _: &http::Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
            let mut found = self.empty();
            found.push(self.0);
            Ok(found)
        }
    }

    fn call(url: &str) -> Call {
        let url = WebhookUrl::parse(url).unwrap();
        Call { url, body: bytes::Bytes::from_static(b"{}"), within: Duration::from_secs(10) }
    }

    #[test]
    fn a_name_that_leads_inside_is_not_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let inside = listener.local_addr().unwrap();
        for address in [inside, "10.0.0.1:443".parse().unwrap(), "[fd00::1]:443".parse().unwrap()] {
            let refused = send(&call("https://worker.example/"), "", Always(address));
            assert_eq!(refused, Err(LeadsInside.to_string()));
        }
        let refused = send(&call("http://localhost:1/"), "", Always("93.184.216.34:80".parse().unwrap()));
        assert_eq!(refused, Err(LeadsInside.to_string()), "plain HTTP stays on this machine");
        assert!(listener.accept().is_err(), "nobody connected");
    }

    /// Answers the first time as it is told, and then with another address.
    #[derive(Debug)]
    struct Rebinds(SocketAddr, AtomicUsize);

    impl Resolver for &'static Rebinds {
        fn resolve(&self, _: &http::Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
            let first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
            let mut found = self.empty();
            found.push(if first { self.0 } else { "127.0.0.1:1".parse().unwrap() });
            Ok(found)
        }
    }

    /// Takes one connection and answers with these pieces, a moment after each; what was asked.
    fn serve(pieces: Vec<Vec<u8>>, moment: Duration) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            let read = connection.read(&mut asked).unwrap();
            for piece in pieces {
                // Whoever asked may have gone.
                let _ = connection.write_all(&piece);
                std::thread::sleep(moment);
            }
            String::from_utf8_lossy(&asked[..read]).to_ascii_lowercase()
        });
        (address, served)
    }

    #[test]
    fn the_address_that_was_looked_at_is_the_one_that_is_connected_to() {
        let (address, served) = serve(vec![b"HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\n{}".to_vec()], Duration::ZERO);
        let rebinds: &'static Rebinds = Box::leak(Box::new(Rebinds(address, AtomicUsize::new(0))));
        let answer = send(&call("http://localhost:1/"), "", rebinds).unwrap();
        assert_eq!((answer.status, rebinds.1.load(Ordering::SeqCst)), (200, 1), "the name was looked up once");
        assert!(served.join().unwrap().contains("host: localhost:1\r\n"));
    }

    #[test]
    fn of_an_answer_without_an_end_a_part_is_read() {
        let endless = std::iter::once(b"HTTP/1.1 200 x\r\n\r\n".to_vec()).chain(vec![vec![b'x'; 64 << 10]; 64]);
        let (address, served) = serve(endless.collect(), Duration::ZERO);
        let answer = send(&call(&format!("http://{address}/")), "", DefaultResolver::default()).unwrap();
        assert_eq!(answer.body.len() as u64, limits::WEBHOOK_ANSWER_BYTES_MAX);
        served.join().unwrap();
        let headers = std::iter::once(b"HTTP/1.1 200 x\r\nx: ".to_vec()).chain(vec![vec![b'x'; 64 << 10]; 16]);
        let (address, served) = serve(headers.collect(), Duration::ZERO);
        assert!(send(&call(&format!("http://{address}/")), "", DefaultResolver::default()).is_err());
        served.join().unwrap();
    }

    #[test]
    fn an_answer_that_trickles_in_is_not_waited_for() {
        let head = b"HTTP/1.1 200 x\r\ncontent-length: 1000\r\n\r\n".to_vec();
        let pieces = std::iter::once(head).chain(vec![b"x".to_vec(); 100]).collect();
        let (address, served) = serve(pieces, Duration::from_millis(50));
        let begun = std::time::Instant::now();
        let call = Call { within: Duration::from_millis(300), ..call(&format!("http://{address}/")) };
        let refused = send(&call, "", DefaultResolver::default()).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?} {refused}", begun.elapsed());
        served.join().unwrap();
    }

    #[test]
    fn a_redirect_is_an_answer_and_is_not_followed() {
        let answer = "HTTP/1.1 307 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\r\nno";
        let (address, served) = serve(vec![answer.into()], Duration::ZERO);
        let answer = send(&call(&format!("http://{address}/hook")), "t=1", DefaultResolver::default()).unwrap();
        assert_eq!((answer.status, &answer.body[..]), (307, &b"no"[..]));
        let asked = served.join().unwrap();
        assert!(asked.starts_with("post /hook http/1.1") && asked.contains("webhook-signature: t=1\r\n"), "{asked}");
    }

    #[test]
    fn an_answer_that_does_not_come_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let call = Call { within: Duration::from_millis(100), ..call(&url) };
        assert_eq!(send(&call, "", DefaultResolver::default()), Err("it did not answer in time".to_owned()));
    }
}
