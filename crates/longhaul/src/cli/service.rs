//! `longhaul service`: have systemd look after the server.
//!
//! Job: writes the unit, has systemd start it if asked to, takes it away, says how it stands. Owns: unit files that bear
//! its first line. Never: touches a unit that does not, or a running service.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Subcommand;

use super::session::Session;
use super::trouble::Trouble;

/// The first line of a unit that is ours to change.
const MARK: &str = "# Written by `longhaul service install`. Without this line the file is left alone.";

/// Its name.
const UNIT: &str = "longhaul.service";

/// Where units of the whole machine go. Source: systemd.unit(5).
const SYSTEM_DIR: &str = "/etc/systemd/system";

/// What to do on a machine without systemd.
const NO_SYSTEMD: &str = "systemd does not run here; start the server by what does, as `longhaul serve`, or in the \
                          background: longhaul server start";

/// No unit is installed.
const NOT_INSTALLED: u8 = 1;

/// Have systemd look after the server
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, clap::Args)]
struct Whose {
    /// The service of this user; the default for any user but root
    #[arg(long, conflicts_with = "system")]
    user: bool,
    /// The service of the whole machine; the default for root
    #[arg(long)]
    system: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write the unit, and say how it is started
    Install {
        #[command(flatten)]
        whose: Whose,
        /// Have systemd start it too, now and with the machine
        #[arg(long, conflicts_with = "dry_run")]
        now: bool,
        /// User that the machine's service runs as; agents run as that user too [default: who asked, by SUDO_USER]
        #[arg(long, value_name = "NAME")]
        run_as: Option<String>,
        /// Print the unit and write nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove the unit; a running server and its runs are left alone
    Uninstall {
        #[command(flatten)]
        whose: Whose,
        /// Say what would be removed and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Say whether the unit is installed and as this version writes it; status 1 if it is not installed
    Status {
        #[command(flatten)]
        whose: Whose,
    },
}

/// Which systemd, and where its units go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    system: bool,
    file: PathBuf,
}

impl Place {
    fn systemctl(&self) -> &'static str {
        if self.system { "systemctl" } else { "systemctl --user" }
    }

    /// Has systemd do something, to its end.
    fn tell(&self, words: &[&str]) -> Result<(), NotDone> {
        let mut command = Command::new("systemctl");
        command.args((!self.system).then_some("--user")).args(words).stdin(Stdio::null());
        let output = command.output().map_err(NotDone::NotThere)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let what = format!("{} {}", self.systemctl(), words.join(" "));
        Err(NotDone::Failed { what, said: if said.is_empty() { output.status.to_string() } else { said } })
    }
}

/// Why systemd did not do it.
#[derive(Debug)]
enum NotDone {
    NotThere(io::Error),
    Failed { what: String, said: String },
}

/// What is there under the unit's name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Ours(String),
    Foreign,
}

/// Does it.
///
/// # Errors
/// There is a unit that is not ours, or the file cannot be written.
pub fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    match args.verb {
        Verb::Install { whose, now, run_as, dry_run } => {
            let place = place(&whose, session)?;
            if dry_run {
                session.screen.out(&unit(&place, run_as, session)?)?;
                return Ok(0);
            }
            install(&place, run_as, now, session)
        }
        Verb::Uninstall { whose, dry_run } => uninstall(&place(&whose, session)?, dry_run, session),
        Verb::Status { whose } => status(&place(&whose, session)?, session),
    }
}

fn place(whose: &Whose, session: &Session) -> Result<Place, Trouble> {
    let system = whose.system || (!whose.user && rustix::process::geteuid().is_root());
    if system {
        return Ok(Place { system, file: Path::new(SYSTEM_DIR).join(UNIT) });
    }
    // Source: systemd.unit(5), the search path of the user manager.
    let config = session.environment.text("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| session.environment.text("HOME").map(|home| Path::new(home).join(".config")));
    let config = config.filter(|dir| dir.is_absolute()).ok_or_else(|| Trouble::new("HOME is not set"))?;
    Ok(Place { system, file: config.join("systemd/user").join(UNIT) })
}

fn look(file: &Path) -> Result<Found, Trouble> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.lines().next() == Some(MARK) => Ok(Found::Ours(text)),
        Ok(_) => Ok(Found::Foreign),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Found::Foreign),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(Trouble::new(format!("{}: {error}", file.display()))),
    }
}

fn foreign(file: &Path) -> Trouble {
    Trouble::new(format!("{} is not Longhaul's own and is left alone", file.display()))
        .help("move it away, or look after the service by that file")
}

fn install(place: &Place, run_as: Option<String>, now: bool, session: &Session) -> Result<u8, Trouble> {
    let unit = unit(place, run_as, session)?;
    let name = place.file.display();
    let found = look(&place.file)?;
    let mut text = match &found {
        Found::Foreign => return Err(foreign(&place.file)),
        Found::Ours(text) if *text == unit => format!("{name} is installed already\n"),
        Found::Ours(_) | Found::Nothing => {
            write(&place.file, &unit).map_err(|error| Trouble::new(format!("could not write {name}: {error}")))?;
            format!("wrote {name}\n")
        }
    };
    let systemctl = place.systemctl();
    if now {
        session.screen.out(&text)?;
        start(place)?;
        text = String::from("systemd has started it, and does with the machine\n");
        if matches!(&found, Found::Ours(before) if *before != unit) {
            let _ = writeln!(text, "if it ran before, it goes by the old unit until:\n  {systemctl} restart longhaul");
        }
    } else {
        let _ = writeln!(text, "start it, now and with the machine:");
        let _ = writeln!(text, "  {systemctl} daemon-reload && {systemctl} enable --now longhaul");
    }
    if !place.system {
        text += "have it outlive your logout:\n  loginctl enable-linger\n";
    }
    session.screen.out(&text)?;
    Ok(0)
}

/// Has systemd read the unit and start it. The unit stays whatever comes of it.
fn start(place: &Place) -> Result<(), Trouble> {
    let done = place.tell(&["daemon-reload"]).and_then(|()| place.tell(&["enable", "--now", "longhaul"]));
    let systemctl = place.systemctl();
    match done {
        Ok(()) => Ok(()),
        Err(NotDone::NotThere(error)) => {
            Err(Trouble::new(format!("the unit is written and nothing was started: systemctl: {error}"))
                .help(NO_SYSTEMD))
        }
        Err(NotDone::Failed { what, said }) => {
            let trouble = Trouble::new(format!("the unit is written, but `{what}` failed: {said}"));
            Err(if systemd_runs() {
                trouble.help(format!(
                    "{systemctl} status longhaul says more; a server that runs without systemd has to go first: \
                     longhaul server stop (its runs go on); where somebody else has the address, set server.listen"
                ))
            } else {
                trouble.help(NO_SYSTEMD)
            })
        }
    }
}

/// Whether systemd is this machine's first process. Source: sd_booted(3).
fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Under another name first: a unit is there whole or not at all.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let dir = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(dir)?;
    let new = dir.join(format!("{UNIT}.new"));
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)
}

fn uninstall(place: &Place, dry_run: bool, session: &Session) -> Result<u8, Trouble> {
    let name = place.file.display();
    match look(&place.file)? {
        Found::Foreign => return Err(foreign(&place.file)),
        Found::Nothing => {
            session.screen.out(&format!("{name} is not installed\n"))?;
            return Ok(0);
        }
        Found::Ours(_) if dry_run => {
            session.screen.out(&format!("would remove {name}\n"))?;
            return Ok(0);
        }
        Found::Ours(_) => {}
    }
    std::fs::remove_file(&place.file).map_err(|error| Trouble::new(format!("could not remove {name}: {error}")))?;
    let systemctl = place.systemctl();
    session.screen.out(&format!(
        "removed {name}\nif the service runs, its runs go on without it:\n  {systemctl} stop longhaul; {systemctl} daemon-reload\n"
    ))?;
    Ok(0)
}

fn status(place: &Place, session: &Session) -> Result<u8, Trouble> {
    let name = place.file.display();
    let (text, status) = match look(&place.file)? {
        Found::Nothing => (format!("{name} is not installed\n"), NOT_INSTALLED),
        Found::Foreign => (format!("{name} is not Longhaul's own\n"), 0),
        Found::Ours(found) => {
            let same = settings(&found) == settings(&unit(place, None, session)?);
            let how = if same { "as this version writes it" } else { "not as this version would write it now" };
            (format!("{name} is installed, {how}\n"), 0)
        }
    };
    let next = if systemd_runs() {
        format!("  {} status longhaul\n", place.systemctl())
    } else {
        "systemd does not run here\n".to_owned()
    };
    session.screen.out(&(text + &next))?;
    Ok(status)
}

/// The lines that do not depend on the shell that wrote them.
fn settings(unit: &str) -> Vec<&str> {
    unit.lines().filter(|line| !line.starts_with("User=") && !line.starts_with("Environment=")).collect()
}

/// The unit. Source of each setting: systemd.service(5), systemd.exec(5), systemd.kill(5).
fn unit(place: &Place, run_as: Option<String>, session: &Session) -> Result<String, Trouble> {
    let program = std::env::current_exe().map_err(|error| Trouble::new(format!("this program is nowhere: {error}")))?;
    let mut words = vec![program.to_string_lossy().into_owned(), "serve".to_owned()];
    words.extend(["--log", "json"].map(str::to_owned));
    if let Some(file) = session.config.file.as_ref().filter(|_| session.config.named) {
        words.extend(["--config".to_owned(), file.to_string_lossy().into_owned()]);
    }
    if session.data_dir_named {
        words.extend(["--data-dir".to_owned(), session.data_dir()?.to_string_lossy().into_owned()]);
    }
    // In a command line a dollar stands for a variable.
    let start: Vec<String> = words.iter().map(|word| quoted(&word.replace('$', "$$"))).collect();
    let mut unit = format!(
        "{MARK}
[Unit]
Description=Longhaul keeps AI agent runs alive
After=network.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={start}
# An upgrade in place to what is installed by now.
ExecReload=/bin/kill -USR2 $MAINPID
WatchdogSec=30
TimeoutStartSec=120
TimeoutStopSec=30
# Runs live in processes of their own and go on when the server ends, whyever it does.
KillMode=process
Delegate=yes
# A group that holds processes hands no controllers on. Before systemd 254 the line below is not known and ignored.
DelegateSubgroup=longhaul-server
OOMPolicy=continue
Restart=on-failure
RestartSec=1
# Another server has the directory or the address; the configuration is bad.
RestartPreventExitStatus=75 78
UMask=0077
",
        start = start.join(" ")
    );
    // The manager's own is short; agents are found, and find their tools, in this one.
    if let Some(path) = session.environment.text("PATH") {
        let _ = writeln!(unit, "Environment={}", quoted(&format!("PATH={path}")));
    }
    if place.system {
        if !session.data_dir_named {
            unit += "StateDirectory=longhaul\nStateDirectoryMode=0700\n";
        }
        let asked = run_as.or_else(|| session.environment.text("SUDO_USER").map(str::to_owned));
        if let Some(name) = asked {
            let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || !name.chars().all(sound) {
                return Err(Trouble::new(format!("{name:?} is not the name of a user")));
            }
            let _ = writeln!(unit, "User={name}");
        }
    }
    let target = if place.system { "multi-user.target" } else { "default.target" };
    let _ = write!(unit, "\n[Install]\nWantedBy={target}\n");
    Ok(unit)
}

/// A word of a unit file, taken as it is. Source: systemd.syntax(7), "Quoting"; systemd.unit(5), "Specifiers".
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut out = String::from('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' => out.push_str("%%"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_as_they_are() {
        assert_eq!(quoted("/usr/bin/longhaul"), "/usr/bin/longhaul");
        assert_eq!(quoted("/a b/%h/$X/\"q\\"), r#""/a b/%%h/$X/\"q\\""#);
        assert_eq!(quoted(""), "\"\"");
    }
}
