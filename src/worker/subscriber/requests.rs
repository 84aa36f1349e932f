//! Answers the requests of a connection.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Interval;

use super::{Feed, Session, every};
use crate::telemetry::tally;
use crate::wire::{ErrorCode, Op, Request, RequestId, ServerLine};
use crate::worker::snapshot::Filter;

impl Session<'_> {
    /// Answers a request, or starts the subscription that it asks for.
    pub(super) fn answer(&mut self, request: Request, beat: &mut Interval, heartbeat: Duration) {
        match request.op {
            Op::Subscribe(subscribe) if matches!(self.feed, Feed::Idle) => {
                self.filter = Filter::new(&subscribe);
                self.follow = subscribe.follow;
                self.cursor = subscribe.cursor;
                self.feed = Feed::Starting;
                self.peer.subscribed.store(true, Ordering::Relaxed);
                *beat = every(heartbeat);
            }
            Op::Subscribe(_) => {
                let message = "this connection has its subscription; open another".to_owned();
                self.close(request.id, ErrorCode::AlreadySubscribed, message);
            }
            Op::GetState { rule_id } => match self.broker.get_state(&rule_id) {
                Some(state) => self.respond(request.id, &state),
                None => self.out.reply(&ServerLine::Error {
                    id: request.id,
                    code: ErrorCode::NotReady,
                    message: "nothing was loaded from the database yet".to_owned(),
                }),
            },
            Op::Status {} => {
                let mut answer = serde_json::json!(self.service.status());
                answer["metrics"] = serde_json::json!(tally::metrics());
                self.respond(request.id, &answer);
            }
            Op::AllowMassDelete {} => match self.service.allow_mass_delete(self.peer.uid, self.peer.pid) {
                Ok(deleted) => self.respond(request.id, &serde_json::json!({ "deleted": deleted })),
                Err(message) => self.close(request.id, ErrorCode::NotAllowed, message),
            },
            Op::Reconcile { .. } => {
                let message = "a worker only reads; ask the master on its socket".to_owned();
                self.close(request.id, ErrorCode::UnknownOp, message);
            }
            Op::Ack { seq } => {
                let acked = seq.min(self.peer.cursor.load(Ordering::Relaxed));
                let before = self.peer.acked.fetch_max(acked + 1, Ordering::Relaxed);
                if acked >= before {
                    self.broker.acknowledged(acked);
                }
                if request.id.is_some() {
                    let acked = acked.max(before.saturating_sub(1));
                    self.respond(request.id, &serde_json::json!({ "acked": acked }));
                }
            }
        }
    }

    fn respond(&mut self, id: Option<RequestId>, result: &impl serde::Serialize) {
        match serde_json::to_value(result) {
            Ok(result) => self.out.reply(&ServerLine::Response { id, result }),
            Err(error) => tracing::error!(error = %error, "an answer could not be written"),
        }
    }
}
