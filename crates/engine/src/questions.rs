//! What an owner makes of a parser's questions before they are committed.
//!
//! Job: number, directory and digest of each, and the answer where none of people is needed: an earlier one that its
//! agent never got, a rule, or a refusal because too many are open or one is too long. Drops what concerns nothing that is open. Pure.
//! Never: uses an answer for another call than it was given for, or twice.

use longhaul_model::event::{ApprovalAnswered, ApprovalRequested, ApprovalWithdrawn, Decision, EventData};
use longhaul_model::policy::Policy;
use longhaul_model::run::Talk;
use longhaul_model::{AttemptNo, canonical, limits};
use serde_json::{Value, json};

/// What an answer is bound to.
pub(crate) fn digest(tool: &str, arguments: &Value, cwd: &str) -> String {
    canonical::digest("approval.v1", &json!({ "tool": tool, "arguments": arguments, "cwd": cwd }))
}

/// Whether an event is one that [`fit`] changes.
pub(crate) fn concerns(event: &EventData) -> bool {
    matches!(event, EventData::ApprovalRequested(_) | EventData::ApprovalWithdrawn(_) | EventData::InputDelivered(_))
}

/// A parser's events as they are committed.
pub(crate) fn fit(
    talk: &Talk,
    policy: &Policy,
    attempt: AttemptNo,
    cwd: &str,
    events: Vec<EventData>,
) -> Vec<EventData> {
    let mut talk = talk.clone();
    let mut out = Vec::with_capacity(events.len() + 2);
    for event in events {
        let fitted: Vec<EventData> = match event {
            EventData::ApprovalRequested(asked) => ask(&talk, policy, attempt, cwd, asked),
            EventData::ApprovalWithdrawn(told) => {
                let source = told.source_request_id.as_deref();
                let of =
                    |asked: &ApprovalRequested| asked.attempt == attempt && Some(&*asked.source_request_id) == source;
                let known = talk.approvals.iter().map(|known| &known.asked).find(|asked| of(asked));
                let named =
                    known.map(|asked| ApprovalWithdrawn { approval_id: asked.approval_id.clone(), ..told.clone() });
                named.into_iter().map(EventData::from).collect()
            }
            EventData::InputDelivered(told) if !talk.inputs.iter().any(|i| i.input_id == told.input_id) => vec![],
            other => vec![other],
        };
        for event in &fitted {
            talk.evolve(event);
        }
        out.extend(fitted);
    }
    out
}

/// A question with its number, and what answers it at once.
fn ask(talk: &Talk, policy: &Policy, attempt: AttemptNo, cwd: &str, asked: ApprovalRequested) -> Vec<EventData> {
    let approval_id = (talk.asked + 1).to_string();
    let digest = digest(&asked.tool, &asked.arguments, cwd);
    let asked = ApprovalRequested { approval_id: approval_id.clone(), attempt, cwd: cwd.to_owned(), digest, ..asked };
    let answer = |decision, by: &str, reason, answer_of| -> EventData {
        ApprovalAnswered { approval_id: approval_id.clone(), decision, by: by.to_owned(), reason, answer_of }.into()
    };
    let same = |known: &ApprovalRequested| known.attempt != attempt && known.digest == asked.digest;
    let mut before = talk.approvals.iter().filter(|known| same(&known.asked));
    if let Some((id, given)) = before.clone().find_map(|known| Some((&known.asked.approval_id, known.answer.as_ref()?)))
    {
        let given = answer(given.decision, "earlier", given.reason.clone(), Some(id.clone()));
        return vec![asked.clone().into(), given];
    }
    let again = before.next().map(|known| {
        let approval_id = known.asked.approval_id.clone();
        ApprovalWithdrawn { approval_id, reason: "asked_again".to_owned(), source_request_id: None }.into()
    });
    let given = match policy.answer(&asked.tool, &asked.arguments) {
        _ if asked.arguments.to_string().len() > limits::APPROVAL_BYTES_MAX => {
            let reason = Some("the call is too long to be asked about".to_owned());
            Some(answer(Decision::Deny, "limit", reason, None))
        }
        Some((decision, reason)) => Some(answer(decision, "rule", reason, None)),
        None if talk.open().count() >= limits::APPROVALS_OPEN_MAX => {
            let reason = Some("too many questions wait for an answer".to_owned());
            Some(answer(Decision::Deny, "limit", reason, None))
        }
        None => None,
    };
    [asked.clone().into()].into_iter().chain(again).chain(given).collect()
}

#[cfg(test)]
mod tests {
    use longhaul_model::event::{ApprovalDelivered, InputDelivered};
    use longhaul_model::policy::Verdict;

    use super::*;

    fn asks(source: &str, command: &str) -> EventData {
        ApprovalRequested {
            approval_id: String::new(),
            attempt: AttemptNo::default(),
            tool: "Bash".to_owned(),
            arguments: json!({ "command": command }),
            cwd: String::new(),
            digest: String::new(),
            call_id: None,
            reason: None,
            source_request_id: source.to_owned(),
            source_request: Value::Null,
        }
        .into()
    }

    fn answered(id: &str, decision: Decision) -> EventData {
        ApprovalAnswered { approval_id: id.to_owned(), decision, by: "api".to_owned(), reason: None, answer_of: None }
            .into()
    }

    /// The events of an attempt, folded in, in short.
    fn step(talk: &mut Talk, policy: &Policy, attempt: u32, events: Vec<EventData>) -> Vec<String> {
        let events = fit(talk, policy, AttemptNo::new(attempt), "/srv", events);
        for event in &events {
            talk.evolve(event);
        }
        let told = |event: &EventData| match event {
            EventData::ApprovalRequested(d) => format!("{} asked", d.approval_id),
            EventData::ApprovalAnswered(d) => {
                let of = d.answer_of.as_ref().map(|of| format!(" of {of}")).unwrap_or_default();
                format!("{} {} by {}{of}", d.approval_id, d.decision.as_str(), d.by)
            }
            EventData::ApprovalWithdrawn(d) => format!("{} withdrawn {}", d.approval_id, d.reason),
            other => other.name().to_owned(),
        };
        events.iter().map(told).collect()
    }

    #[test]
    fn an_answer_that_no_agent_got_answers_the_same_call_of_a_later_attempt_once() {
        let (mut talk, policy) = (Talk::default(), Policy::default());
        assert_eq!(step(&mut talk, &policy, 1, vec![asks("a", "make"), asks("b", "rm x")]), ["1 asked", "2 asked"]);
        talk.evolve(&answered("1", Decision::Allow));
        let later = vec![asks("c", "make install"), asks("d", "make"), asks("e", "make"), asks("f", "rm x")];
        assert_eq!(
            step(&mut talk, &policy, 2, later),
            ["3 asked", "4 asked", "4 allow by earlier of 1", "5 asked", "6 asked", "6 withdrawn asked_again"]
                .map(|text| text.replace("6 withdrawn", "2 withdrawn"))
        );
        assert_eq!(talk.open().count(), 3, "a changed call, a second time and a question without an answer are open");
    }

    #[test]
    fn an_answer_that_was_delivered_is_not_used_again() {
        let (mut talk, policy) = (Talk::default(), Policy::default());
        step(&mut talk, &policy, 1, vec![asks("a", "make")]);
        talk.evolve(&answered("1", Decision::Allow));
        talk.evolve(&ApprovalDelivered { approval_id: "1".to_owned() }.into());
        assert_eq!(step(&mut talk, &policy, 2, vec![asks("b", "make")]), ["2 asked"]);
    }

    #[test]
    fn the_digest_binds_tool_arguments_and_directory() {
        let of = |tool, command: &str, cwd| digest(tool, &json!({ "command": command, "n": 1 }), cwd);
        let one = of("Bash", "make", "/a");
        assert_eq!(one, digest("Bash", &json!({ "n": 1.0, "command": "make" }), "/a"), "spelling does not matter");
        for other in [of("Bash2", "make", "/a"), of("Bash", "make ", "/a"), of("Bash", "make", "/b")] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn rules_answer_and_too_many_questions_are_refused() {
        let mut talk = Talk::default();
        let deny = Policy { default: Verdict::Deny, rules: vec![] };
        assert_eq!(step(&mut talk, &deny, 1, vec![asks("a", "make")]), ["1 asked", "1 deny by rule"]);
        let many = (0..limits::APPROVALS_OPEN_MAX).map(|n| asks(&format!("m{n}"), "x")).collect();
        step(&mut talk, &Policy::default(), 1, many);
        let last = step(&mut talk, &Policy::default(), 1, vec![asks("z", "x")]);
        assert_eq!(last[1..], [format!("{} deny by limit", limits::APPROVALS_OPEN_MAX + 2)]);
        let allow = Policy { default: Verdict::Allow, rules: vec![] };
        let long = "x".repeat(limits::APPROVAL_BYTES_MAX);
        assert!(step(&mut talk, &allow, 1, vec![asks("l", &long)])[1].ends_with("deny by limit"));
    }

    #[test]
    fn what_concerns_nothing_open_is_dropped() {
        let (mut talk, policy) = (Talk::default(), Policy::default());
        step(&mut talk, &policy, 1, vec![asks("a", "make")]);
        let withdraw = |source: &str| -> EventData {
            let source_request_id = Some(source.to_owned());
            ApprovalWithdrawn { approval_id: String::new(), reason: "source".to_owned(), source_request_id }.into()
        };
        let taken = InputDelivered { input_id: "prompt".to_owned() }.into();
        assert_eq!(
            step(&mut talk, &policy, 1, vec![withdraw("x"), taken, withdraw("a"), withdraw("a")]),
            ["1 withdrawn source"]
        );
        assert_eq!(step(&mut talk, &policy, 2, vec![withdraw("a")]), [""; 0]);
    }
}
