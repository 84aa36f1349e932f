//! What a running master is asked to do by others than its directory.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::reconcile::{self, Operator, ReconcileError};
use super::scan::Extent;
use super::watch::Watch;
use super::{Master, Summary};
use crate::config::MasterConfig;
use crate::event;
use crate::store::{MasterSession, StoreError};

/// How often a reconcile that was asked for looks again at what was put off.
const SETTLE_LOOKS: usize = 5;

/// What a running master is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Compare everything now, and say what came of it.
    Reconcile {
        /// Who has the deletions carried out that are held back; `None` leaves them so.
        lifted_by: Option<Operator>,
        /// Where to say it. An error is a sentence for the operator.
        reply: oneshot::Sender<Result<Summary, String>>,
    },
    /// Go on with another configuration, and compare everything.
    Configure(MasterConfig),
}

impl Master {
    /// Does what is asked, and leaves in `due` what is to be looked at then.
    pub(super) async fn obey(
        &mut self,
        session: &mut MasterSession,
        command: Command,
        due: &mut Option<Extent>,
    ) -> Result<(), StoreError> {
        match command {
            Command::Reconcile { lifted_by, reply } => {
                let result = self.settle(session, lifted_by).await;
                let said = result.as_ref().copied().map_err(ToString::to_string);
                let _ = reply.send(said);
                match result {
                    Err(ReconcileError::Store(error)) => Err(error),
                    _ => Ok(()),
                }
            }
            Command::Configure(config) => {
                self.configure(config);
                *due = Some(Extent::Reread);
                Ok(())
            }
        }
    }

    /// Compares everything until nothing is put off any more.
    async fn settle(
        &mut self,
        session: &mut MasterSession,
        lifted_by: Option<Operator>,
    ) -> Result<Summary, ReconcileError> {
        let (mut total, mut put_off) = self.reconcile(session, &Extent::Reread, lifted_by).await?;
        // Once is enough, but while files come and go there may always be another.
        for _ in 0..SETTLE_LOOKS {
            if !put_off.0 {
                break;
            }
            sleep(reconcile::DELETE_AFTER).await;
            let next;
            (next, put_off) = self.reconcile(session, &Extent::All, lifted_by).await?;
            total = total.then(next);
        }
        Ok(total)
    }

    fn configure(&mut self, config: MasterConfig) {
        if config.rules_dir != self.config.rules_dir {
            self.watch = Watch::new(config.rules_dir.clone());
            self.reconciler.heed(self.watch.unfinished());
        }
        self.reconciler.configure(config.clone());
        self.config = config;
        tracing::info!(message_id = event::RELOADED, "the configuration was read again");
    }

    /// Waits while nothing can be written; commands are answered or kept in mind all the same.
    pub(super) async fn idle(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                command = receive(&mut self.commands) => match command {
                    Command::Reconcile { reply, .. } => {
                        let _ = reply.send(Err(self.status.borrow().why_not_writing()));
                    }
                    Command::Configure(config) => self.configure(config),
                },
            }
        }
    }
}

/// The next command; never, once nobody is left to give one.
pub(super) async fn receive(commands: &mut mpsc::Receiver<Command>) -> Command {
    match commands.recv().await {
        Some(command) => command,
        None => std::future::pending().await,
    }
}
