//! Putting an attempt into its cell, if the request asks for one.

use longhaul_supervise::AttemptSpec;

use super::Owner;
use super::launch::private_dir;
use crate::containment::{Confine, Site};
use crate::homes;
use crate::sealed::Sealed;

/// Names and values of an agent's environment.
type Env = Vec<(String, String)>;

impl Owner {
    /// The spec as it is to be carried out, with the directories that its cell shows.
    ///
    /// # Errors
    /// Why there is no cell for it; it must not be started then.
    pub(super) async fn confined(
        &self,
        spec: AttemptSpec,
        env: Env,
        sealed: &Sealed,
    ) -> Result<(AttemptSpec, Env), String> {
        let confine = sealed.contained.confine;
        if confine == Confine::None {
            return Ok((spec, env));
        }
        let (engine, tmp, cwd) = (self.engine.clone(), self.tmp_dir(), sealed.cwd.clone());
        let (harness, own_cwd) = self.shared.with_doc(|doc| (doc.run.harness.clone(), doc.own_cwd));
        let home = self.home();
        let confined = tokio::task::spawn_blocking(move || {
            let made = [Some(&tmp), Some(&cwd).filter(|_| own_cwd)].into_iter().flatten();
            made.into_iter()
                .try_for_each(|dir| private_dir(dir))
                .and_then(|()| home.as_ref().map_or(Ok(()), |home| homes::make(&home.dir, &home.owner)))
                .map_err(|error| format!("its directories could not be made: {error}"))?;
            let home = home.map(|home| homes::inside(&home.dir));
            let site = Site {
                confine,
                home: home.as_deref(),
                harness: &harness,
                cwd: &cwd,
                own_cwd,
                tmp: &tmp,
                env: &env,
                path: engine.search_path(),
            };
            let spec = engine.inner.options.containment.confine(spec, &site)?;
            Ok((spec, env))
        });
        confined.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}
