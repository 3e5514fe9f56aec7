//! What a run may do to the machine: limits of memory and tasks.
//!
//! Job: what a request may ask for, whether this machine can keep it, and the control group of an attempt.
//! Never: lets a run start without a limit that it asked for; makes a group, which is the shim's.

use longhaul_supervise::{Grounds, GroupSpec};
use serde::{Deserialize, Serialize};

use crate::error::DispatchError;

/// What this server contains runs with.
#[derive(Debug, Clone, Default)]
pub struct Containment {
    /// Where control groups can be made.
    pub grounds: Grounds,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Contained {
    /// Bytes of memory of all processes of the run together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<u64>,
    /// Processes and threads of the run at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks_max: Option<u64>,
}

impl Containment {
    /// Refuses what this machine cannot keep.
    ///
    /// # Errors
    /// `LimitUnenforceable` names the first limit.
    pub(crate) fn check(&self, wanted: &Contained) -> Result<(), DispatchError> {
        let missing = |limit| Err(DispatchError::LimitUnenforceable { limit });
        if wanted.memory_bytes_max.is_some() && !self.grounds.limits_memory() {
            return missing("memory_bytes_max");
        }
        if wanted.tasks_max.is_some() && !self.grounds.limits_tasks() {
            return missing("tasks_max");
        }
        Ok(())
    }

    /// The control group of the attempt with this marker. Limits that can no longer be kept name no directory, and the
    /// shim refuses them.
    pub(crate) fn group(&self, marker: &str, wanted: &Contained) -> Option<GroupSpec> {
        let (memory, tasks) = (wanted.memory_bytes_max, wanted.tasks_max);
        let bare = || GroupSpec { dirs: vec![], memory_bytes_max: memory, tasks_max: tasks };
        self.grounds.group(marker, memory, tasks).or_else(|| Some(bare()).filter(GroupSpec::is_limited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_never_dropped_in_silence() {
        let nowhere = Containment::default();
        let wanted = Contained { tasks_max: Some(5), ..Contained::default() };
        let refused = nowhere.check(&wanted).unwrap_err();
        assert!(matches!(refused, DispatchError::LimitUnenforceable { limit: "tasks_max" }), "{refused}");
        let group = nowhere.group("r.1", &wanted).unwrap();
        assert!(group.dirs.is_empty() && group.is_limited());
        assert_eq!(nowhere.group("r.1", &Contained::default()), None);
        assert!(nowhere.check(&Contained::default()).is_ok());
    }
}
