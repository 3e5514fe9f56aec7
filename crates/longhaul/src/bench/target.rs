//! The servers of a bench: those that are there already, and those that it starts.
//!
//! Job: a command line without a shell in between, a free port, a directory of its own, the first answer, kill and start
//! again, memory and processor time. Owns: each process it starts and its directory, until dropped. Never: touches a
//! server that it did not start but by its address.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::limits::START_MAX;
use super::load::alone;
use super::request::Path as StreamPath;
use super::wire::Connection;

/// Why a bench could not be done.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// An option makes no sense.
    #[error("{0}")]
    Option(String),
    /// A server did not start.
    #[error("{name} did not start: {why}")]
    NotStarted {
        /// The server.
        name: String,
        /// What happened, with the end of what it printed.
        why: String,
    },
    /// A server that is said to be there is not.
    #[error("{name} does not answer at {address}: {why}")]
    Unreachable {
        /// The server.
        name: String,
        /// Where.
        address: String,
        /// What happened.
        why: String,
    },
    /// The machine failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl BenchError {
    /// Names what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// At an address; its process is known where its memory is to be measured.
    Url {
        /// `http://HOST:PORT` and where streams are, `/v1/stream` if nothing follows.
        url: String,
        /// The process.
        pid: Option<u32>,
    },
    /// It is started, with `{port}` and `{dir}` in its words replaced.
    Spawn(Vec<String>),
}

/// A server as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// What it is called in the table.
    pub name: String,
    /// Where it is.
    pub source: Source,
    /// What an acknowledgement means there.
    pub note: Option<String>,
}

/// The words of a command line: split at spaces, with quotes as a shell has them and nothing else of a shell.
///
/// # Errors
/// A quote is not closed.
pub fn command_words(line: &str) -> Result<Vec<String>, BenchError> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        Some(open) => Err(BenchError::Option(format!("{line}: the quote {open} is not closed"))),
        None if words.is_empty() => Err(BenchError::Option("a command line is empty".to_owned())),
        None => Ok(words),
    }
}

/// A server that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What it is called.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The same for `Host`.
    pub authority: String,
    /// What stands before each stream's path.
    pub base: String,
    /// Its process, if known.
    pub pid: Option<u32>,
    /// It ends with the bench, and its data goes.
    pub goes: bool,
}

impl Target {
    /// What an address names.
    fn at(name: &str, url: &str, pid: Option<u32>) -> Result<Self, BenchError> {
        let wrong = || BenchError::Option(format!("{name}: {url} is not an address like http://127.0.0.1:4437"));
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        let path = path.trim_matches('/');
        let base = if path.is_empty() { "/v1/stream".to_owned() } else { format!("/{path}") };
        let unreachable =
            |why: String| BenchError::Unreachable { name: name.to_owned(), address: authority.to_owned(), why };
        let mut found = authority.to_socket_addrs().map_err(|error| unreachable(error.to_string()))?;
        let address = found.next().ok_or_else(|| unreachable("no such host".to_owned()))?;
        Ok(Self { name: name.to_owned(), address, authority: authority.to_owned(), base, pid, goes: false })
    }

    /// Whether it answers at all.
    async fn answers(&self) -> Result<(), String> {
        let probe = StreamPath::new(self, "longhaul-bench-is-there").get("");
        let mut connection = Connection::open(self.address).await.map_err(|error| error.to_string())?;
        let head = connection.call(&probe, |_| ()).await.map_err(|error| error.to_string())?;
        if head.status >= 500 { Err(format!("it answers {}", head.status)) } else { Ok(()) }
    }

    /// Resident memory, in bytes. Source: proc(5), `statm`.
    pub fn resident(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.pid?)).ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }

    /// Processor time that it used so far, user and system. Source: proc(5), `stat`.
    pub fn processor(&self) -> Option<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid?)).ok()?;
        // The second field is a name in brackets that may hold anything.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
        let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }
}

/// A server in use.
#[derive(Debug)]
pub struct Server {
    /// How to speak to it.
    pub target: Target,
    own: Option<Own>,
}

/// A process of ours.
#[derive(Debug)]
struct Own {
    child: Child,
    words: Vec<String>,
    dir: PathBuf,
    log: PathBuf,
    environment: BTreeMap<String, String>,
}

impl Server {
    /// Takes one that is there, or starts one on a new directory below `root`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn begin(given: &Given, root: &Path, environment: &BTreeMap<String, String>) -> Result<Self, BenchError> {
        match &given.source {
            Source::Url { url, pid } => {
                let target = Target::at(&given.name, url, *pid)?;
                alone(target.answers()).map_err(|why| BenchError::Unreachable {
                    name: given.name.clone(),
                    address: target.authority.clone(),
                    why,
                })?;
                Ok(Self { target, own: None })
            }
            Source::Spawn(words) => Self::spawn(&given.name, words, root, environment),
        }
    }

    fn spawn(
        name: &str,
        words: &[String],
        root: &Path,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, BenchError> {
        let dir = root.join(name);
        fs::create_dir_all(&dir).map_err(BenchError::io(format!("could not make {}", dir.display())))?;
        let port = free_port().map_err(BenchError::io("could not find a free port"))?;
        let filled = |word: &String| word.replace("{port}", &port.to_string()).replace("{dir}", &dir.to_string_lossy());
        let words: Vec<String> = words.iter().map(filled).collect();
        let log = root.join(format!("{name}.log"));
        let child = start(name, &words, &log, environment)?;
        let target = Target::at(name, &format!("http://127.0.0.1:{port}"), Some(child.id()))?;
        let target = Target { goes: true, ..target };
        let own = Own { child, words, dir, log, environment: environment.clone() };
        let mut server = Self { target, own: Some(own) };
        server.wait()?;
        Ok(server)
    }

    /// Whether it was started here and is no more.
    pub fn has_ended(&mut self) -> bool {
        self.own.as_mut().is_some_and(|own| own.child.try_wait().is_ok_and(|ended| ended.is_some()))
    }

    /// Kills it, without a word. Nothing happens to one that was not started here.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> Result<(), BenchError> {
        let Some(own) = &mut self.own else { return Ok(()) };
        let ended = own.child.kill().and_then(|()| own.child.wait());
        ended.map(|_| ()).map_err(BenchError::io(format!("could not kill {}", self.target.name)))
    }

    /// Starts it again on the same directory and port; how long it took to its first answer.
    ///
    /// # Errors
    /// It does not answer.
    pub fn again(&mut self) -> Result<Duration, BenchError> {
        let began = Instant::now();
        if let Some(own) = &mut self.own {
            own.child = start(&self.target.name, &own.words, &own.log, &own.environment)?;
            self.target.pid = Some(own.child.id());
        }
        self.wait()?;
        Ok(began.elapsed())
    }

    /// Waits for its first answer.
    fn wait(&mut self) -> Result<(), BenchError> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let Err(why) = alone(self.target.answers()) else { return Ok(()) };
            let ended = self.own.as_mut().and_then(|own| own.child.try_wait().ok().flatten());
            let why = match ended {
                Some(status) => format!("it ended ({status})"),
                None if Instant::now() > deadline => why,
                None => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
            };
            let said = self.own.as_ref().map(|own| last_lines(&own.log)).unwrap_or_default();
            return Err(BenchError::NotStarted { name: self.target.name.clone(), why: format!("{why}{said}") });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing better can be done with a failure here.
        let _ = self.kill();
        if let Some(own) = &self.own {
            let _ = fs::remove_dir_all(&own.dir);
        }
    }
}

fn start(
    name: &str,
    words: &[String],
    log: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<Child, BenchError> {
    let not_started = |error: io::Error| BenchError::NotStarted {
        name: name.to_owned(),
        why: format!("{}: {error}", words.first().map_or("", String::as_str)),
    };
    let out = File::options().create(true).append(true).open(log).map_err(not_started)?;
    let err = out.try_clone().map_err(not_started)?;
    let mut command = Command::new(words.first().map_or("", String::as_str));
    command.args(&words[1..]).env_clear().envs(environment).stdin(Stdio::null()).stdout(out).stderr(err);
    command.spawn().map_err(not_started)
}

/// A port that nobody has at this moment.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.iter().rev().flat_map(|line| ["\n  ", line]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_words_and_no_shell() {
        let words = |line| command_words(line).unwrap();
        assert_eq!(words("a  --b 'c d' \"e 'f'\"g ''"), ["a", "--b", "c d", "e 'f'g", ""]);
        assert_eq!(words("echo $HOME; rm *"), ["echo", "$HOME;", "rm", "*"]);
        assert!(command_words("a 'b").is_err());
        assert!(command_words("  ").is_err());
    }

    #[test]
    fn an_address_names_where_streams_are() {
        let base = |url| Target::at("x", url, None).map(|target| target.base);
        assert_eq!(base("http://127.0.0.1:1").unwrap(), "/v1/stream");
        assert_eq!(base("http://127.0.0.1:1/").unwrap(), "/v1/stream");
        assert_eq!(base("http://127.0.0.1:1/ds/").unwrap(), "/ds");
        assert!(base("127.0.0.1:1").is_err());
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let mut target = Target::at("x", "http://127.0.0.1:1", Some(std::process::id())).unwrap();
        assert!(target.resident().unwrap() > 1 << 20);
        assert!(target.processor().is_some());
        target.pid = None;
        assert_eq!(target.resident(), None);
    }

    #[test]
    fn a_server_that_ends_is_told_of_with_its_words() {
        let root = tempfile::tempdir().unwrap();
        let words = command_words("/bin/sh -c 'echo no luck today >&2; exit 3'").unwrap();
        let given = Given { name: "bad".to_owned(), source: Source::Spawn(words), note: None };
        let error = Server::begin(&given, root.path(), &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("bad did not start") && error.contains("no luck today"), "{error}");
    }
}
