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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cost, Usage};

    fn over(tokens_max: Option<u64>, cost_usd_max: Option<f64>) -> Option<String> {
        let usage = Usage {
            input_tokens: Some(40),
            output_tokens: Some(30),
            cache_read_tokens: Some(20),
            cache_write_tokens: Some(10),
            // A part of what was written already.
            reasoning_tokens: Some(25),
        };
        let cost = Cost { usd: 0.5, provenance: "estimate".to_owned() };
        let totals = Totals { usage: Some(usage), cost: Some(cost), ..Totals::default() };
        exceeded(&Budget { cost_usd_max, tokens_max }, &totals).map(|told| told.limit)
    }

    #[test]
    fn a_budget_is_kept_up_to_its_bound() {
        assert_eq!(over(None, None), None);
        assert_eq!(over(Some(100), Some(0.5)), None, "all of it may be used");
        assert_eq!(over(Some(99), Some(0.5)).as_deref(), Some("tokens_max"));
        assert_eq!(over(Some(100), Some(0.49)).as_deref(), Some("cost_usd_max"));
        assert_eq!(over(None, Some(0.1)).as_deref(), Some("cost_usd_max"));
        // What nobody has reported is not over any bound.
        let budget = Budget { cost_usd_max: Some(0.0), tokens_max: Some(0) };
        assert_eq!(exceeded(&budget, &Totals::default()), None);
    }
}
