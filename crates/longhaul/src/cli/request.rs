//! From the options of `run` to the request.
//!
//! Job: what is a harness, what a prompt, what a command; variables, tags, durations. Pure but for the values handed in.
//! Never: reads stdin or a file, knows which harnesses exist.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longhaul_api::{Confine, Home, OnLost, Permissions, RunLimits, RunRequest};
use longhaul_model::{ProjectId, RunId, SessionId, limits};

use super::duration;
use super::environment::{Environment, TOKEN};
use super::escape::one_line;
use super::run::{Args, Fence, Permit, WhenLost, Whose};
use super::trouble::Trouble;
use crate::access::Token;

/// The harness that is any command.
pub const EXEC: &str = "exec";

/// The harness that is any agent which speaks ACP: the words after `--` are its command.
const ACP: &str = "acp";

/// Characters of an argument that may become a part of a command's name.
const NAME_WORD_CHARS_MAX: usize = 24;

/// What should be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// An agent, and its prompt as far as the command line says it.
    Agent {
        /// The harness.
        harness: String,
        /// The model.
        model: Option<String>,
        /// The words after it.
        prompt: Option<String>,
        /// The agent's own command, where the harness is none in particular.
        command: Vec<String>,
    },
    /// A command.
    Command {
        /// The program.
        program: String,
        /// Its arguments.
        args: Vec<String>,
    },
}

/// Where the work happens and what is sent along.
#[derive(Debug)]
pub struct Place<'a> {
    /// The project.
    pub project: &'a ProjectId,
    /// Variables and the working directory.
    pub environment: &'a Environment,
    /// Whether the server is on this host, so that our directory and variables mean something to it.
    pub local: bool,
}

impl Work {
    /// What the words mean: `HARNESS[/MODEL] [PROMPT…]`, or `-- COMMAND ARGS…`; after `HARNESS --` follows a prompt
    /// that may begin with a dash, after `acp [PROMPT…] --` the command of an agent.
    ///
    /// # Errors
    /// Nothing was named, or too much.
    pub fn of(args: &Args) -> Result<Self, Trouble> {
        let command = |words: &[String]| match words {
            [] => Err(Trouble::new("there is no command after --").help("for example: longhaul run -- make test")),
            [program, args @ ..] => Ok(Self::Command { program: program.clone(), args: args.to_vec() }),
        };
        let Some(harness) = &args.harness else {
            if args.command.is_empty() {
                return Err(Trouble::new("there is nothing to run")
                    .help("an agent:   longhaul run claude \"explain this project\"")
                    .help("a command:  longhaul run -- make test")
                    .help("a trial:    longhaul run demo"));
            }
            return command(&args.command);
        };
        let (harness, slash_model) = match harness.split_once('/') {
            Some((harness, model)) if !model.is_empty() => (harness, Some(model.to_owned())),
            Some((harness, _)) => (harness, None),
            None => (&**harness, None),
        };
        if harness == EXEC {
            let words: Vec<String> = args.prompt.iter().chain(&args.command).cloned().collect();
            return command(&words);
        }
        if slash_model.is_some() && args.model.is_some() {
            return Err(Trouble::new("the model is named twice: after the slash and by --model"));
        }
        let (more, command) = if harness == ACP { (&[][..], &args.command[..]) } else { (&args.command[..], &[][..]) };
        if harness == ACP && command.is_empty() {
            return Err(Trouble::new("which agent is meant? its command follows after --")
                .help("for example: longhaul run acp \"explain this project\" -- gemini --acp"));
        }
        let words: Vec<&str> = args.prompt.iter().chain(more).map(String::as_str).collect();
        Ok(Self::Agent {
            harness: harness.to_owned(),
            model: slash_model.or_else(|| args.model.clone()),
            prompt: (!words.is_empty()).then(|| words.join(" ")),
            command: command.to_vec(),
        })
    }
}

/// The request. `text` is what was read: the rest of the prompt for an agent, stdin for a command.
///
/// # Errors
/// An option has a value that cannot be.
pub fn build(args: &Args, work: &Work, text: Option<String>, place: &Place<'_>) -> Result<RunRequest, Trouble> {
    let mut request = RunRequest {
        run_id: Some(run_id(args)?),
        project: Some(place.project.clone()),
        cwd: cwd(args.cwd.as_deref(), place)?,
        env: variables(&args.env, place.environment)?,
        captured_env: place.local.then(|| place.environment.captured()),
        effort: args.effort.clone(),
        system: args.system.clone(),
        permissions: args.permissions.map(Permissions::from),
        limits: limits_of(args),
        confine: args.confine.map(Confine::from),
        home: args.home.map(Home::from),
        timeout_ms: args.timeout.as_deref().map(timeout_ms).transpose()?,
        on_lost: args.on_lost.map(OnLost::from),
        tags: tags(&args.tag)?,
        name: args.name.clone(),
        session_id: session(args)?,
        ..RunRequest::default()
    };
    match work {
        Work::Agent { harness, model, prompt, command } => {
            request.harness = Some(harness.clone());
            if let [program, words @ ..] = &command[..] {
                request.command = Some(program.clone());
                request.args = (!words.is_empty()).then(|| words.to_vec());
            }
            request.model.clone_from(model);
            request.prompt = match (prompt, text) {
                (Some(prompt), Some(text)) => Some(format!("{prompt}\n\n{text}")),
                (Some(one), None) => Some(one.clone()),
                (None, text) => text,
            };
        }
        Work::Command { program, args: words } => {
            request.harness = Some(EXEC.to_owned());
            request.command = Some(program.clone());
            request.args = (!words.is_empty()).then(|| words.clone());
            request.stdin = text;
            request.name = request.name.or_else(|| name_of(program, words));
            refuse_for_command(args)?;
        }
    }
    Ok(request)
}

impl From<WhenLost> for OnLost {
    fn from(when: WhenLost) -> Self {
        match when {
            WhenLost::Fail => Self::Fail,
            WhenLost::Resume => Self::Resume,
        }
    }
}

impl From<Permit> for Permissions {
    fn from(permit: Permit) -> Self {
        match permit {
            Permit::Cli => Self::Cli,
            Permit::ReadOnly => Self::ReadOnly,
            Permit::Edit => Self::Edit,
            Permit::Full => Self::Full,
            Permit::Ask => Self::Ask,
        }
    }
}

impl From<Fence> for Confine {
    fn from(fence: Fence) -> Self {
        match fence {
            Fence::None => Self::None,
            Fence::Write => Self::Write,
            Fence::Full => Self::Full,
        }
    }
}

impl From<Whose> for Home {
    fn from(whose: Whose) -> Self {
        match whose {
            Whose::User => Self::User,
            Whose::Managed => Self::Managed,
        }
    }
}

/// What the run may use; nothing where nothing is said, so that the request stays what it was.
fn limits_of(args: &Args) -> Option<RunLimits> {
    let limits =
        RunLimits { memory_bytes_max: args.memory, tasks_max: args.tasks.map(Into::into), ..RunLimits::default() };
    (limits != RunLimits::default()).then_some(limits)
}

/// A count of bytes, as `1048576`, `512M` or `2G`.
///
/// # Errors
/// What it must be.
pub fn bytes(text: &str) -> Result<u64, String> {
    let must = || format!("{text:?} is not a count of bytes, as 512M or 2G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].trim_end_matches("iB").trim_end_matches('B') {
        "" => 0,
        "K" | "k" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(must()),
    };
    let count: u64 = digits.parse().map_err(|_| must())?;
    count.checked_mul(1 << shift).ok_or_else(must)
}

/// The run's id is drawn here, so that a request whose answer was lost can be sent again and means the same run.
fn run_id(args: &Args) -> Result<RunId, Trouble> {
    match &args.id {
        None => Ok(RunId::from_uuid(uuid::Uuid::now_v7())),
        Some(id) => RunId::parse(id).map_err(|error| Trouble::new(format!("--id {id:?}: {error}"))),
    }
}

fn session(args: &Args) -> Result<Option<SessionId>, Trouble> {
    let Some(id) = &args.session else { return Ok(None) };
    SessionId::parse(id).map(Some).map_err(|error| Trouble::new(format!("--session {id:?}: {error}")))
}

/// A name for a command that was given none, so that a list tells commands apart: `make test`, `sleep 30`. No more of the
/// arguments: they may hold secrets, and a name is kept.
fn name_of(program: &str, words: &[String]) -> Option<String> {
    let program = Path::new(program).file_name()?.to_string_lossy().into_owned();
    let word = words.first().filter(|word| !word.starts_with('-') && word.chars().count() <= NAME_WORD_CHARS_MAX);
    let name = one_line(&word.map_or(program.clone(), |word| format!("{program} {word}")));
    (!name.is_empty() && name.len() <= limits::ID_BYTES_MAX).then_some(name)
}

fn refuse_for_command(args: &Args) -> Result<(), Trouble> {
    let given = [
        ("--model", args.model.is_some()),
        ("--effort", args.effort.is_some()),
        ("--system", args.system.is_some()),
        ("--permissions", args.permissions.is_some()),
        ("--on-lost", args.on_lost.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Trouble::new(format!("{option} means nothing to a command"))
            .help("leave it out, or name a harness before the prompt: longhaul run HARNESS PROMPT")),
    }
}

fn cwd(given: Option<&Path>, place: &Place<'_>) -> Result<Option<String>, Trouble> {
    let here = || {
        place.environment.cwd.clone().ok_or_else(|| {
            Trouble::new("the working directory does not exist any more")
                .help("go to another one or name one: --cwd DIR")
        })
    };
    let dir: PathBuf = match given {
        None if place.local => here()?,
        None => return Ok(None),
        Some(dir) if dir.is_absolute() => dir.to_owned(),
        Some(dir) => here()?.join(dir),
    };
    // Made plain, so that the same directory is the same request however it was spelt.
    let dir = if place.local {
        let plain = std::fs::canonicalize(&dir);
        let plain = plain.map_err(|error| Trouble::new(format!("the directory {}: {error}", dir.display())))?;
        if !plain.is_dir() {
            return Err(Trouble::new(format!("{} is not a directory", dir.display())));
        }
        plain
    } else {
        dir
    };
    match dir.into_os_string().into_string() {
        Ok(text) => Ok(Some(text)),
        Err(dir) => Err(Trouble::new(format!("the directory {} has a name that is not UTF-8", dir.display()))),
    }
}

/// `K=V` sets, `K` passes our own value on.
///
/// # Errors
/// One is not set, or has no name.
pub fn variables(given: &[String], environment: &Environment) -> Result<Option<BTreeMap<String, String>>, Trouble> {
    let mut out = BTreeMap::new();
    for word in given {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match environment.value(word) {
                Some(value) => (&**word, value.to_owned()),
                None => {
                    return Err(Trouble::new(format!("--env {word}: the variable is not set here"))
                        .help(format!("set it, or give a value: --env {word}=VALUE")));
                }
            },
        };
        if name.is_empty() {
            return Err(Trouble::new(format!("--env {word}: a variable needs a name")).help("write --env NAME=VALUE"));
        }
        if name == TOKEN && !Token::is_ours(&value) {
            return Err(Trouble::new(format!("--env {TOKEN}: the token for the server is not given to a run"))
                .help("make one with bounds: longhaul token create --scope run"));
        }
        out.insert(name.to_owned(), value);
    }
    Ok((!out.is_empty()).then_some(out))
}

/// Tags, `k=v`.
///
/// # Errors
/// One has no `=` or no key.
pub fn tags(given: &[String]) -> Result<Option<BTreeMap<String, String>>, Trouble> {
    let mut out = BTreeMap::new();
    for word in given {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => out.insert(key.to_owned(), value.to_owned()),
            _ => return Err(Trouble::new(format!("--tag {word}: write --tag KEY=VALUE"))),
        };
    }
    Ok((!out.is_empty()).then_some(out))
}

/// A run's budget, as `90s` or `10m`.
///
/// # Errors
/// It is not a duration, or a longer one than a run may have.
pub fn timeout_ms(text: &str) -> Result<u64, Trouble> {
    let timeout = duration::parse(text).map_err(|error| Trouble::new(format!("--timeout: {error}")))?;
    if timeout > limits::TIMEOUT_MAX {
        return Err(Trouble::new(format!(
            "--timeout {text} is over the limit of {}",
            duration::show(limits::TIMEOUT_MAX)
        )));
    }
    Ok(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &str) -> Args {
        Only::try_parse_from(["run"].into_iter().chain(words.split_whitespace())).unwrap().args
    }

    fn agent(harness: &str, model: Option<&str>, prompt: Option<&str>) -> Work {
        Work::Agent {
            harness: harness.into(),
            model: model.map(Into::into),
            prompt: prompt.map(Into::into),
            command: vec![],
        }
    }

    #[test]
    fn words_become_work() {
        let command = |words: &[&str]| Work::Command {
            program: words[0].into(),
            args: words[1..].iter().map(|word| (*word).to_owned()).collect(),
        };
        for (words, want) in [
            ("demo", agent("demo", None, None)),
            ("demo/tools", agent("demo", Some("tools"), None)),
            ("demo/", agent("demo", None, None)),
            ("claude/a/b fix it", agent("claude", Some("a/b"), Some("fix it"))),
            ("claude --model opus hi", agent("claude", Some("opus"), Some("hi"))),
            ("claude hi -d", agent("claude", None, Some("hi"))),
            ("claude -- -x is broken", agent("claude", None, Some("-x is broken"))),
            ("-- ls -la", command(&["ls", "-la"])),
            ("exec -- ls -la", command(&["ls", "-la"])),
            ("-d --name x -- sh -c true", command(&["sh", "-c", "true"])),
        ] {
            assert_eq!(Work::of(&args(words)).unwrap(), want, "{words}");
        }
        let gemini = Work::Agent {
            harness: "acp".into(),
            model: None,
            prompt: Some("fix it".into()),
            command: vec!["gemini".into(), "--acp".into()],
        };
        assert_eq!(Work::of(&args("acp fix it -- gemini --acp")).unwrap(), gemini);
        assert!(Work::of(&args("acp fix it")).is_err(), "which agent?");
        assert!(Work::of(&args("claude/x --model y")).is_err());
        for nothing in ["exec", "", "--", "-d"] {
            assert!(Work::of(&args(nothing)).is_err(), "{nothing}");
        }
        for bad in ["--timeout", "-f f -- ls", "demo --permissions root"] {
            assert!(Only::try_parse_from(["run"].into_iter().chain(bad.split_whitespace())).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_become_fields() {
        let environment = Environment::of([("HOME", "/h"), ("FROM_SHELL", "1"), ("LONGHAUL_TOKEN", "t")]);
        let project = ProjectId::default_project();
        let place = |local| Place { project: &project, environment: &environment, local };
        let args = args(
            "claude hi --timeout 90s --tag a=b --tag c= --env FROM_SHELL --env X=1=2 --permissions read-only --name n --id r1 --cwd /",
        );
        let work = Work::of(&args).unwrap();
        let request = build(&args, &work, Some("more".into()), &place(true)).unwrap();
        assert_eq!(request.timeout_ms, Some(90_000));
        assert_eq!(request.prompt.as_deref(), Some("hi\n\nmore"));
        assert_eq!(request.permissions, Some(Permissions::ReadOnly));
        assert_eq!(request.tags, Some(BTreeMap::from([("a".into(), "b".into()), ("c".into(), String::new())])));
        assert_eq!(request.env, Some(BTreeMap::from([("FROM_SHELL".into(), "1".into()), ("X".into(), "1=2".into())])));
        assert_eq!(request.captured_env.unwrap().keys().collect::<Vec<_>>(), ["FROM_SHELL", "HOME"]);
        assert_eq!((request.cwd.as_deref(), request.run_id.unwrap().as_str()), (Some("/"), "r1"));
        let remote = build(&args, &work, None, &place(false)).unwrap();
        assert_eq!(remote.captured_env, None, "variables do not leave this host");
        assert_eq!(remote.cwd.as_deref(), Some("/"), "what was named is sent");
    }

    #[test]
    fn an_agent_by_acp_has_a_prompt_and_a_command() {
        let environment = Environment::of([("HOME", "/h")]);
        let project = ProjectId::default_project();
        let place = Place { project: &project, environment: &environment, local: false };
        let args = args("acp fix it --permissions edit -- gemini --acp -m x");
        let request = build(&args, &Work::of(&args).unwrap(), None, &place).unwrap();
        assert_eq!((request.harness.as_deref(), request.prompt.as_deref()), (Some("acp"), Some("fix it")));
        let words: Vec<String> = ["--acp", "-m", "x"].map(str::to_owned).to_vec();
        assert_eq!((request.command.as_deref(), request.args), (Some("gemini"), Some(words)));
        assert_eq!(request.permissions, Some(Permissions::Edit));
    }

    #[test]
    fn commands_without_a_name_get_one() {
        for (words, want) in [
            (&["/usr/bin/make", "test", "-j"][..], Some("make test")),
            (&["sh", "-c", "echo secret"], Some("sh")),
            (&["curl", "https://user:password@host.example/path"], Some("curl")),
            (&["a\nb"], Some("a b")),
            (&["/"], None),
        ] {
            let rest: Vec<String> = words[1..].iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(name_of(words[0], &rest).as_deref(), want, "{words:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let environment = Environment::of([]);
        let project = ProjectId::default_project();
        let place = Place { project: &project, environment: &environment, local: false };
        for (words, what) in [
            ("demo --env NOPE", "--env NOPE: the variable is not set here"),
            ("demo --env =x", "--env =x: a variable needs a name"),
            ("demo --env LONGHAUL_TOKEN=x", "--env LONGHAUL_TOKEN: the token for the server is not given to a run"),
            ("demo --tag x", "--tag x: write --tag KEY=VALUE"),
            ("demo --timeout 5", "--timeout: \"5\" is not a duration; write for example 90s, 10m or 1h30m"),
            ("demo --timeout 31d", "--timeout 31d is over the limit of 30d"),
            ("--model x -- ls", "--model means nothing to a command"),
        ] {
            let args = args(words);
            let error = build(&args, &Work::of(&args).unwrap(), None, &place).unwrap_err();
            assert_eq!((error.what.as_str(), error.status), (what, 125));
        }
    }
}
