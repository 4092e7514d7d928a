//! What a relay makes of settings that may change while it runs.

use std::sync::{Arc, Weak};

use mcpm_shared::scope::Scope;
use tokio::sync::Notify;

use crate::admin::api::AdminToken;
use crate::config::Prepare;
use crate::http::Edge;
use crate::keys::read_admin_token;
use crate::observe::Observers;

/// Returns the parts of a relay that make something of their settings.
pub(super) fn reloadable(
    edge: &Arc<Edge>,
    recertify: &Arc<Notify>,
    admin_token: Option<AdminToken>,
    services: &Scope,
) -> Vec<Prepare> {
    let admission = Arc::clone(&edge.tunnels.admission);
    let demand: Prepare = Box::new(move |config| {
        let (admission, demand) = (Arc::clone(&admission), admission.prepare(&config.auth)?);
        Ok(Box::new(move || admission.demand(demand)))
    });
    // The edge has the reloader, by way of the admin API.
    let edge = Arc::downgrade(edge);
    let observe = observe(edge.clone(), services.clone());
    let obey: Prepare = Box::new(move |config| {
        let (edge, config) = (edge.clone(), Arc::clone(config));
        Ok(Box::new(move || {
            if let Some(edge) = edge.upgrade() {
                edge.obey(&config);
            }
        }))
    });
    let recertify = Arc::clone(recertify);
    let look: Prepare = Box::new(move |_| {
        let recertify = Arc::clone(&recertify);
        Ok(Box::new(move || recertify.notify_one()))
    });
    let read: Prepare = Box::new(move |config| {
        let (Some(shown), Some(path)) = (admin_token.clone(), &config.admin_token_file) else {
            return Ok(Box::new(|| ()));
        };
        let token = read_admin_token(path).map_err(|error| in_full(&error))?;
        Ok(Box::new(move || shown.change(token.digest())))
    });
    vec![observe, obey, demand, look, read]
}

/// Returns what changes who looks at requests. Also where nothing of it was changed, the file of the
/// access log is opened again: somebody may have moved it away.
fn observe(edge: Weak<Edge>, services: Scope) -> Prepare {
    Box::new(move |config| {
        let Some(edge) = edge.upgrade() else { return Ok(Box::new(|| ())) };
        let before = edge.observers.load_full();
        let metrics = &edge.tunnels.metrics;
        let prepared = Observers::prepare(before.as_ref(), config, metrics);
        let prepared = prepared.map_err(|error| in_full(&error))?;
        let services = services.clone();
        Ok(Box::new(move || edge.observers.store(prepared.start(&services))))
    })
}

/// Returns an error and its causes as one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
