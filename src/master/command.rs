//! Requests to a running master: reconcile now, take another configuration.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
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

/// A request to a running master.
#[derive(Debug)]
pub(crate) enum MasterRequest {
    /// Reconcile everything now, and reply with what was done.
    Reconcile {
        /// Who lifts the guard against mass deletion; `None` leaves it in place.
        lifted_by: Option<Operator>,
        /// Takes the reply. An error is a sentence for the operator.
        reply: oneshot::Sender<Result<Reconciled, String>>,
    },
    /// Require this of releases from now on.
    Trust(Policy),
    /// Use this configuration from now on, and reconcile everything.
    Configure(MasterConfig),
}

impl Master {
    /// Handles a request, and returns what to scan next.
    pub(super) async fn handle(
        &mut self,
        session: &mut MasterSession,
        command: MasterRequest,
    ) -> Result<Option<ScanScope>, StoreError> {
        match command {
            // Who asked waits no more.
            MasterRequest::Reconcile { reply, .. } if reply.is_closed() => Ok(None),
            MasterRequest::Reconcile { lifted_by, reply } => {
                let result = self.reconcile_until_stable(session, lifted_by).await;
                let said = result.as_ref().cloned().map_err(ToString::to_string);
                let _ = reply.send(said);
                match result {
                    Err(ReconcileError::Store(error)) => Err(error),
                    _ => Ok(None),
                }
            }
            MasterRequest::Trust(policy) => {
                self.reconciler.publish_releases(policy);
                Ok(None)
            }
            MasterRequest::Configure(config) => {
                self.configure(config);
                Ok(Some(ScanScope::Reread))
            }
        }
    }

    /// Reconciles everything until no file is deferred.
    async fn reconcile_until_stable(
        &mut self,
        session: &mut MasterSession,
        lifted_by: Option<Operator>,
    ) -> Result<Reconciled, ReconcileError> {
        let (mut total, mut deferred) = self.reconcile(session, &ScanScope::Reread, lifted_by.clone()).await?;
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

    fn configure(&mut self, config: MasterConfig) {
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
                command = receive(&mut self.commands) => match command {
                    MasterRequest::Reconcile { reply, .. } => {
                        let _ = reply.send(Err(self.status.borrow().why_not_writing()));
                    }
                    MasterRequest::Trust(policy) => self.reconciler.publish_releases(policy),
                    MasterRequest::Configure(config) => self.configure(config),
                },
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
