//! Requests to a running master: reconcile now, take another configuration.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::held::Operator;
use super::reconcile::ReconcileError;
use super::{Master, Reconciled};
use crate::config::MasterConfig;
use crate::directory::{DELETE_AFTER, ScanScope, Watch};
use crate::event;
use crate::store::{MasterSession, StoreError};
use crate::trust::Policy;

/// How often a requested reconcile repeats for deferred files.
const MAX_ROUNDS: usize = 5;

/// A request to reconcile everything now, and to reply with what was done.
#[derive(Debug)]
pub(crate) struct MasterRequest {
    /// Who lifts the guard against mass deletion; `None` leaves it in place.
    pub(crate) lifted_by: Option<Operator>,
    /// Takes the reply. An error is a sentence for the operator.
    pub(crate) reply: oneshot::Sender<Result<Reconciled, String>>,
}

/// What a master uses from now on. It reconciles everything then.
#[derive(Debug, Clone)]
pub(crate) struct Reload {
    pub(crate) config: MasterConfig,
    /// What releases must fulfil; `None` is what it was.
    pub(crate) policy: Option<Policy>,
}

impl Master {
    /// Handles a request, unless who asked waits no more.
    pub(super) async fn handle(
        &mut self,
        session: &mut MasterSession,
        MasterRequest { lifted_by, reply }: MasterRequest,
    ) -> Result<(), StoreError> {
        if reply.is_closed() {
            return Ok(());
        }
        let result = self.reconcile_until_stable(session, lifted_by).await;
        let said = result.as_ref().cloned().map_err(ToString::to_string);
        let _ = reply.send(said);
        match result {
            Err(ReconcileError::Store(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Reconciles everything until no file is deferred.
    async fn reconcile_until_stable(
        &mut self,
        session: &mut MasterSession,
        lifted_by: Option<Operator>,
    ) -> Result<Reconciled, ReconcileError> {
        let (mut total, mut deferred) =
            self.reconcile(session, &ScanScope::Reread, lifted_by.clone()).await?;
        // One more round is usually enough; while files come and go there may always be another.
        for _ in 0..MAX_ROUNDS {
            if !deferred.0 {
                break;
            }
            sleep(DELETE_AFTER).await;
            let next;
            (next, deferred) = self.reconcile(session, &ScanScope::All, lifted_by.clone()).await?;
            total = total.then(next);
        }
        Ok(total)
    }

    pub(super) fn reload(&mut self, Reload { config, policy }: Reload) {
        self.reconciler.publish_releases(policy);
        if config.rules_dir != self.config.rules_dir {
            self.watch = Watch::new(config.rules_dir.clone());
            self.reconciler.skip_unfinished(self.watch.unfinished());
        }
        let rules_dir = config.rules_dir.display().to_string();
        self.status.send_modify(|status| status.rules_dir = rules_dir);
        self.reconciler.configure(config.clone());
        self.config = config;
        tracing::info!(message_id = event::RELOADED, "the configuration was read again");
    }

    /// Waits while nothing can be written. Requests are answered meanwhile.
    pub(super) async fn idle(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                request = receive(&mut self.commands) => {
                    let _ = request.reply.send(Err(self.status.borrow().why_not_writing()));
                }
                reload = reloaded(&mut self.reloads) => self.reload(reload),
            }
        }
    }
}

/// The next request; pending for ever once no sender is left.
pub(super) async fn receive(commands: &mut mpsc::Receiver<MasterRequest>) -> MasterRequest {
    match commands.recv().await {
        Some(command) => command,
        None => std::future::pending().await,
    }
}

/// The newest of the reloads that came since the last one; pending for ever once none can come.
pub(super) async fn reloaded(reloads: &mut watch::Receiver<Option<Reload>>) -> Reload {
    while reloads.changed().await.is_ok() {
        if let Some(reload) = reloads.borrow_and_update().clone() {
            return reload;
        }
    }
    std::future::pending().await
}
