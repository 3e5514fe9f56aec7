//! The run state machine against a much simpler model, under random commands, crashes and readers.
//!
//! The real thing decides from a state that is folded from events; after a crash the state is folded again from the log.
//! The model keeps only what a person would: is it waiting, working or over, was a cancel asked for, what did the source
//! say. Both must agree after every command.
#![allow(missing_docs)]

use longhaul_model::event::{
    Driver, Event, EventData, Failure, MessageDelta, OnLost, OutputLine, OutputStream, ProcessStarted,
    RunCancelRequested, RunCreated, ToolCalled, VerdictReported,
};
use longhaul_model::projection::Projection;
use longhaul_model::run::{Command, Ctx, Exit, ExitHow, RunState, Stop, decide};
use longhaul_model::{AttemptNo, Epoch, ProjectId, Rejection, RunId, Seq, Status, Timestamp, limits};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Start,
    Began {
        right_attempt: bool,
    },
    Say(Say),
    Cancel,
    Exit {
        how: ExitHow,
        stop: Stop,
        lost: bool,
    },
    GiveUp,
    Adopt,
    /// The server dies; the next one has a higher epoch and folds the log anew.
    Crash,
    /// A server of an earlier epoch tries something.
    Zombie,
    /// A reader folds the log up to a place in it.
    Read {
        permille: u16,
    },
}

#[derive(Debug, Clone)]
enum Say {
    Text,
    Blank,
    Tool,
    Line,
    Good,
    Bad,
}

fn step() -> impl Strategy<Value = Step> {
    let say = prop_oneof![
        Just(Say::Text),
        Just(Say::Blank),
        Just(Say::Tool),
        Just(Say::Line),
        Just(Say::Good),
        Just(Say::Bad)
    ];
    let how = prop_oneof![
        4 => prop_oneof![Just(0), 1..256].prop_map(ExitHow::Exited),
        1 => (1..32).prop_map(ExitHow::Signaled),
        2 => Just(ExitHow::NeverStarted { error: None }),
        1 => Just(ExitHow::Lost),
    ];
    let stop = prop_oneof![
        4 => Just(Stop::None),
        2 => Just(Stop::Cancel),
        1 => Just(Stop::Deadline),
        1 => Just(Stop::Idle),
        1 => Just(Stop::OutputLimit),
        1 => Just(Stop::Shutdown),
        1 => Just(Stop::Lingered),
        1 => Just(Stop::SpoolError),
    ];
    prop_oneof![
        4 => Just(Step::Start),
        4 => any::<bool>().prop_map(|right_attempt| Step::Began { right_attempt }),
        6 => say.prop_map(Step::Say),
        1 => Just(Step::Cancel),
        3 => (how, stop, proptest::bool::weighted(0.1)).prop_map(|(how, stop, lost)| Step::Exit { how, stop, lost }),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Adopt),
        2 => Just(Step::Crash),
        1 => Just(Step::Zombie),
        2 => (0..=1000_u16).prop_map(|permille| Step::Read { permille }),
    ]
}

/// What a person would remember.
#[derive(Debug, Clone, PartialEq)]
struct Memory {
    status: Status,
    cancelled: bool,
    attempts: u32,
    failed_starts: u32,
    started_by: u64,
    spoke: bool,
    good: Option<bool>,
    /// Processes that ended, where the run goes on after a loss.
    ended: u32,
    goes_on: bool,
}

impl Memory {
    fn over(&self) -> bool {
        self.status.is_terminal()
    }

    fn working(&self) -> bool {
        matches!(self.status, Status::Starting | Status::Running)
    }

    /// How an exit ends the run; `None` if it is tried again.
    fn verdict(&self, driver: Driver, how: &ExitHow, stop: Stop, lost: bool) -> Option<Status> {
        let never = matches!(how, ExitHow::NeverStarted { .. });
        if never
            && self.status == Status::Starting
            && !self.cancelled
            && self.failed_starts + 1 < limits::NEVER_STARTED_MAX
        {
            return None;
        }
        let proven = match driver {
            Driver::Exec => *how == ExitHow::Exited(0) && stop == Stop::None && !lost,
            Driver::Harness => self.good == Some(true) && self.spoke && !never,
        };
        let unseen = never || *how == ExitHow::Lost;
        let by_signal = matches!(how, ExitHow::Lost | ExitHow::Signaled(_) | ExitHow::Exited(129 | 130 | 137 | 143));
        let taken = (stop == Stop::None && by_signal) || (stop == Stop::Shutdown && !never);
        if self.goes_on && taken && !proven && !self.cancelled && self.good.is_none() && self.ended + 1 < 3 {
            return None;
        }
        Some(if proven {
            Status::Completed
        } else if stop == Stop::Cancel || (self.cancelled && unseen) {
            Status::Cancelled
        } else {
            Status::Failed
        })
    }
}

struct World {
    driver: Driver,
    epoch: u64,
    log: Vec<Event>,
    state: RunState,
    memory: Memory,
}

impl World {
    fn new(driver: Driver, on_lost: OnLost) -> Self {
        let mut world = Self {
            driver,
            epoch: 1,
            log: vec![],
            state: RunState::default(),
            memory: Memory {
                status: Status::Queued,
                cancelled: false,
                attempts: 0,
                failed_starts: 0,
                started_by: 0,
                spoke: false,
                good: None,
                ended: 0,
                goes_on: driver == Driver::Harness && on_lost == OnLost::Resume,
            },
        };
        let created = RunCreated {
            project: ProjectId::default_project(),
            driver,
            harness: "x".into(),
            command: None,
            model: None,
            name: None,
            digest: "d".into(),
            session_id: None,
            cwd: "/".into(),
            tags: std::collections::BTreeMap::default(),
            timeout_ms: 1,
            budget: longhaul_model::event::Budget::default(),
            on_lost,
            home: longhaul_model::event::Home::User,
            resumed_from: None,
            response_format: None,
        };
        world.command(Command::Create(Box::new(created))).unwrap();
        world
    }

    /// Decides and appends; whether anything was appended.
    fn command(&mut self, command: Command) -> Result<bool, Rejection> {
        let events = decide(&self.state, command, &Ctx { epoch: Epoch::new(self.epoch) })?;
        let any = !events.is_empty();
        for data in events {
            self.state = std::mem::take(&mut self.state).evolve(&data);
            let seq = Seq::new(self.log.len() as u64 + 1);
            let ts = Timestamp::from_unix_ms(seq.get().cast_signed());
            self.log.push(Event { run_id: RunId::parse("r").unwrap(), seq, ts, data });
        }
        Ok(any)
    }

    fn fold(&self, upto: usize) -> RunState {
        self.log[..upto].iter().fold(RunState::default(), |state, event| state.evolve(&event.data))
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each step, side by side")]
    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let before = self.memory.clone();
        match step {
            Step::Start => {
                let may = before.status == Status::Queued;
                let done = self.command(Command::StartAttempt { rung: None });
                prop_assert_eq!(done.is_ok(), may);
                if may {
                    self.memory.status = Status::Starting;
                    self.memory.attempts += 1;
                    if self.memory.started_by != self.epoch {
                        self.memory.failed_starts = 0;
                    }
                    self.memory.started_by = self.epoch;
                    self.memory.good = None;
                }
            }
            Step::Began { right_attempt } => {
                let attempt = AttemptNo::new(before.attempts + u32::from(!right_attempt));
                let event = ProcessStarted { attempt, pid: 1, command: "x".into(), version: None, cwd: "/".into() };
                let done = self.command(Command::ProcessStarted(event));
                if before.status == Status::Starting && right_attempt {
                    prop_assert_eq!(done, Ok(true));
                    self.memory.status = Status::Running;
                } else {
                    prop_assert_ne!(done, Ok(true));
                }
            }
            Step::Say(say) => {
                let done = self.command(Command::Observe(vec![said(&say)]));
                prop_assert_eq!(done.is_ok(), before.status == Status::Running);
                if before.status == Status::Running {
                    match say {
                        Say::Text | Say::Tool => {
                            self.memory.spoke = true;
                            self.memory.good = None;
                        }
                        Say::Good => self.memory.good = Some(true),
                        Say::Bad => self.memory.good = Some(false),
                        Say::Blank => self.memory.good = None,
                        Say::Line => {}
                    }
                }
            }
            Step::Cancel => {
                let intent = RunCancelRequested { by: "api".into(), reason: None };
                let done = self.command(Command::RequestCancel(intent));
                if before.over() {
                    prop_assert_eq!(done, Err(Rejection::Ended { status: before.status }));
                } else {
                    prop_assert_eq!(done, Ok(!before.cancelled));
                    self.memory.cancelled = true;
                    if before.status == Status::Queued && !before.cancelled {
                        self.memory.status = Status::Cancelled;
                    }
                }
            }
            Step::Exit { how, stop, lost } => {
                let exit = Exit {
                    how: how.clone(),
                    stop,
                    rusage: None,
                    killed_descendants: 0,
                    unkilled: vec![],
                    stdout_bytes: 0,
                    stderr_bytes: 0,
                    output_lost_bytes: u64::from(lost),
                    stderr_tail: None,
                    spool_error: None,
                    oom_kills: 0,
                    ran_ms: 0,
                    unmet: None,
                };
                let done = self.command(Command::Exit(Box::new(exit)));
                prop_assert_eq!(done.is_ok(), before.working());
                if before.working() {
                    self.memory.status = before.verdict(self.driver, &how, stop, lost).unwrap_or(Status::Queued);
                    let never = matches!(how, ExitHow::NeverStarted { .. });
                    self.memory.failed_starts += u32::from(never);
                    self.memory.ended += u32::from(!never);
                }
            }
            Step::GiveUp => {
                let error = Failure { code: "x".into(), message: "x".into(), stderr_tail: None };
                let done = self.command(Command::GiveUp(error));
                prop_assert_eq!(done.is_ok(), before.status == Status::Queued);
                if before.status == Status::Queued {
                    self.memory.status = Status::Failed;
                }
            }
            Step::Adopt => {
                let done = self.command(Command::Adopt);
                prop_assert_eq!(done.is_ok(), !before.over());
                if before.working() {
                    self.memory.started_by = self.epoch;
                }
            }
            Step::Crash => {
                self.state = self.fold(self.log.len());
                self.epoch += 1;
            }
            Step::Zombie => {
                let zombie = Ctx { epoch: Epoch::new(self.state.epoch.get().saturating_sub(1)) };
                let intent = RunCancelRequested { by: "zombie".into(), reason: None };
                let done = decide(&self.state, Command::RequestCancel(intent), &zombie);
                if zombie.epoch < self.state.epoch {
                    prop_assert_eq!(done, Err(Rejection::Fenced { owner: self.state.epoch }));
                }
            }
            Step::Read { permille } => {
                let upto = 1 + (self.log.len() - 1) * usize::from(permille) / 1000;
                self.read(upto)?;
            }
        }
        prop_assert_eq!(self.state.status(), self.memory.status);
        prop_assert_eq!(&self.state, &self.fold(self.log.len()), "replay gives the same state");
        Ok(())
    }

    /// A reader at any place sees a projection that agrees with the state there.
    fn read(&self, upto: usize) -> Result<(), TestCaseError> {
        let mut run = Projection::begin(&self.log[0]).unwrap();
        for event in &self.log[1..upto] {
            run.apply(event);
        }
        let state = self.fold(upto);
        prop_assert_eq!(run.status, state.status());
        prop_assert_eq!(run.attempts, state.totals.attempts);
        prop_assert_eq!(run.last_seq, Seq::new(upto as u64));
        prop_assert_eq!(run.totals.tool_calls, state.totals.tool_calls);
        prop_assert_eq!(run.totals.unknown_lines, state.totals.unknown_lines);
        prop_assert_eq!(run.cancel_requested.is_some(), state.cancel.is_some());
        prop_assert_eq!(run.ended_at.is_some(), run.status.is_terminal());
        Ok(())
    }
}

fn said(say: &Say) -> EventData {
    let text = |text: &str| -> EventData {
        MessageDelta { message_id: "m".into(), parent_call_id: None, text: text.into() }.into()
    };
    match say {
        Say::Text => text("hello"),
        Say::Blank => text(" \n"),
        Say::Tool => {
            ToolCalled { call_id: "c".into(), name: "t".into(), arguments: 1.into(), parent_call_id: None }.into()
        }
        Say::Line => OutputLine::from_bytes(OutputStream::Stdout, b"?", true, None).into(),
        Say::Good => VerdictReported { success: true, error: None }.into(),
        Say::Bad => VerdictReported { success: false, error: None }.into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_what_a_person_would_remember(
        harness in any::<bool>(),
        resume in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let on_lost = if resume { OnLost::Resume } else { OnLost::Fail };
        let mut world = World::new(if harness { Driver::Harness } else { Driver::Exec }, on_lost);
        for step in steps {
            world.step(step)?;
        }
        let ends = world.log.iter().filter(|event| event.data.is_terminal()).count();
        prop_assert!(ends <= 1, "a run ends once");
        if ends == 1 {
            prop_assert!(world.log.last().unwrap().data.is_terminal(), "nothing follows the end");
        }
        let exits: Vec<usize> = world
            .log
            .iter()
            .enumerate()
            .filter(|(_, e)| matches!(e.data, EventData::ProcessExited(_)))
            .map(|(at, _)| at)
            .collect();
        for at in exits {
            let next = world.log.get(at + 1).map(|e| e.data.name().to_owned());
            prop_assert!(
                next.as_deref().is_none_or(|n| n.starts_with("run.") || n == "message.discarded"),
                "after an exit comes the end, a cancel, what was lost, or another attempt: {next:?}"
            );
        }
    }
}
