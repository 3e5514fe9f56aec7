//! One attempt in its own directory, and waits that end.
//!
//! Job: specs, launching with the fixture as shim, waiting for conditions with a deadline, proof that nothing is left.
//! Owns: a temp directory per attempt and its shim's zombie. Never: takes time passing for proof.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use longhaul_supervise::{
    AttemptDir, AttemptSpec, AttemptState, ControlClient, Exit, Follower, Group, Limits, LineLimits, Settled,
    SpoolCursor, Started, Stdin, StopReason, StopSignal, StopStep, find_marked, kill_marked,
};

pub const FIXTURE: &str = env!("CARGO_BIN_EXE_supervise-fixture");
pub const PATIENCE: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Asks again until there is an answer; the deadline is the only thing that may end it otherwise.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn fixture(args: &[&str]) -> AttemptSpec {
    let program = FIXTURE.to_owned();
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    AttemptSpec {
        version: 1,
        attempt: args.join(" ").chars().take(40).collect(),
        marker: format!("test-{}-{unique}", std::process::id()),
        epoch: 1,
        program,
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        cwd: "/".to_owned(),
        stdin: Stdin::Null,
        limits: Limits { output_bytes_max: 1 << 30, idle_ms: None },
        deadline_ms: None,
        drain_ms: 200,
        stop: vec![StopStep::Signal { signal: StopSignal::Term, wait_ms: 20_000 }],
        group: None,
        wrapped: None,
    }
}

pub fn shell(script: &str) -> AttemptSpec {
    AttemptSpec { program: "/bin/sh".to_owned(), args: vec!["-c".to_owned(), script.to_owned()], ..fixture(&[]) }
}

pub struct Attempt {
    pub dir: AttemptDir,
    pub spec: AttemptSpec,
    pub shim: Option<Child>,
    _temp: tempfile::TempDir,
}

impl Attempt {
    pub fn create(spec: AttemptSpec) -> Self {
        Self::create_with(spec, &[("PATH", "/usr/bin:/bin")], None)
    }

    pub fn create_with(spec: AttemptSpec, env: &[(&str, &str)], stdin: Option<&[u8]>) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("attempt");
        Self::create_at(temp, &path, spec, env, stdin)
    }

    pub fn create_at(
        temp: tempfile::TempDir,
        path: &Path,
        spec: AttemptSpec,
        env: &[(&str, &str)],
        stdin: Option<&[u8]>,
    ) -> Self {
        let env: Vec<_> = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let dir = AttemptDir::create(path, &spec, &env, stdin).unwrap();
        Self { dir, spec, shim: None, _temp: temp }
    }

    pub fn start(spec: AttemptSpec) -> Self {
        let mut attempt = Self::create(spec);
        attempt.launch();
        attempt
    }

    pub fn launch(&mut self) {
        self.shim = Some(self.launch_one());
    }

    pub fn launch_one(&self) -> Child {
        self.dir.launch(Path::new(FIXTURE)).unwrap()
    }

    pub fn shim_pid(&self) -> i32 {
        i32::try_from(self.shim.as_ref().unwrap().id()).unwrap()
    }

    pub fn started(&self) -> Started {
        wait_for("started", || self.dir.read_started().unwrap())
    }

    /// Waits until the agent printed something on stdout.
    pub fn speaks(&self) {
        wait_for("output", || (self.len("stdout") > 0).then_some(()));
    }

    pub fn len(&self, name: &str) -> u64 {
        std::fs::metadata(self.dir.file(name)).map_or(0, |found| found.len())
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.file(name)).unwrap()
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.read(name)).into_owned()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.file(name)
    }

    /// Connects as soon as the shim listens.
    pub fn control(&self, epoch: u64) -> ControlClient {
        wait_for("the control socket", || ControlClient::connect(self.dir.path(), epoch).ok())
    }

    /// Asks for a cancel.
    pub fn cancel(&self) {
        self.control(1).stop(StopReason::Cancel, 1).unwrap();
    }

    /// Kills the shim, as only an operator or the kernel does.
    pub fn kill_shim(&mut self) {
        let mut shim = self.shim.take().unwrap();
        shim.kill().unwrap();
        shim.wait().unwrap();
    }

    /// Waits for the shim's end, proves the exit, and that nothing of the attempt remains.
    pub fn end(&mut self) -> Exit {
        if let Some(shim) = &mut self.shim {
            wait_for("the shim's end", || shim.try_wait().unwrap());
            self.shim = None;
        }
        let exit = match self.dir.settle().unwrap() {
            Settled::Exit(exit) => *exit,
            Settled::StillAlive => panic!("the lock is held after the shim's end"),
        };
        assert_eq!(self.dir.state().unwrap(), AttemptState::Dead { exit: Box::new(exit.clone()) });
        self.nothing_remains();
        assert!(!self.file("env").exists(), "secrets remain");
        exit
    }

    pub fn nothing_remains(&self) {
        assert_eq!(find_marked(&self.spec.marker).unwrap(), Vec::<i32>::new(), "processes remain");
    }

    pub fn follower(&self) -> Follower {
        Follower::open(&self.dir, SpoolCursor::default(), LineLimits { part_bytes_max: 64 * 1024 }).unwrap()
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(mut shim) = self.shim.take() {
            let _ = shim.kill();
            let _ = shim.wait();
        }
        let _ = kill_marked(&self.spec.marker, Duration::from_secs(5));
        if let Some(group) = &self.spec.group {
            let _ = Group::of(group).end(Duration::from_secs(5));
        }
    }
}
