//! Which run a sign of one leads to.

use longhaul_model::RunKey;
use longhaul_supervise::kin::Sign;

use crate::engine::Engine;

impl Engine {
    /// The live run of this server that a shim's directory or a marker names; `None` if it is over, or another server's.
    pub fn run_of(&self, sign: &Sign) -> Option<RunKey> {
        // Both are made of the run's directory and the attempt's number, see the owner's attempt.
        let dir = match sign {
            Sign::Shim(attempt) => attempt.parent()?.file_name()?.to_str()?,
            Sign::Marker(marker) => marker.rsplit_once('.')?.0,
        };
        let live = self.lock_live();
        let found = live.values().find(|live| live.shared.with_doc(|doc| doc.dir == dir));
        found.map(|live| live.shared.key.clone())
    }
}
