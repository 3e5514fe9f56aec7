//! What a run may use of tokens and money.
//!
//! Job: see, in the order of the source's reports, the first that goes beyond the budget. A report is the only witness:
//! what a source does not tell while it works cannot be bounded, and its harness refuses the limit.

use super::RunState;
use crate::event::{Budget, BudgetExceeded, EventData, Totals};
use crate::projection::add_usage;

/// The events, with one behind the report that first goes beyond the budget.
pub(super) fn watch(state: &RunState, events: Vec<EventData>) -> Vec<EventData> {
    if state.exceeded.is_some() || state.budget == Budget::default() {
        return events;
    }
    let mut totals = state.totals.clone();
    let mut said = false;
    let mut out = Vec::with_capacity(events.len() + 1);
    for event in events {
        let mut told = None;
        if let EventData::UsageReported(report) = &event {
            add_usage(&mut totals, &state.base, report);
            // What a whole session cost is no word on this run.
            let of_session =
                [Some(&report.scope), report.cost_scope.as_ref()].into_iter().flatten().any(|s| s == "session");
            told = (!said && !of_session).then(|| exceeded(&state.budget, &totals)).flatten();
        }
        out.push(event);
        said |= told.is_some();
        out.extend(told.map(EventData::from));
    }
    out
}

fn exceeded(budget: &Budget, totals: &Totals) -> Option<BudgetExceeded> {
    let usage = totals.usage.as_ref();
    let tokens = usage.map_or(0, |u| {
        [u.input_tokens, u.output_tokens, u.cache_read_tokens, u.cache_write_tokens].into_iter().flatten().sum()
    });
    let usd = totals.cost.as_ref().map_or(0.0, |cost| cost.usd);
    let told = |limit: &str, max: serde_json::Value, used: serde_json::Value| {
        Some(BudgetExceeded { limit: limit.to_owned(), max, used })
    };
    match (budget.tokens_max, budget.cost_usd_max) {
        (Some(max), _) if tokens > max => told("tokens_max", max.into(), tokens.into()),
        (_, Some(max)) if usd > max => told("cost_usd_max", max.into(), usd.into()),
        _ => None,
    }
}
