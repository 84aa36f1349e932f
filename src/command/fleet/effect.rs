//! Whether states that were set count at hosts that verify a signed release. Where the section `trust` is configured, a
//! state that does not is refused before it is written.

use super::written::Written;
use crate::command::Failure;
use crate::command::common::load_policy;
use crate::command::release::{PublishedRelease, valid_states};
use crate::config::Config;
use crate::fleet::Look;
use crate::plural::some_of;
use crate::store::Database;

/// The most rules of one message.
const NAMED: usize = 10;

/// Which of the states that were set do not count at hosts with trust; `None` if all count. If that is not known, why is
/// logged.
///
/// # Errors
/// The configured keys cannot be used, or the database does not answer.
pub(super) async fn problem(
    config: &Config,
    database: &Database,
    written: &Written,
    look: &Look,
) -> Result<Option<String>, Failure> {
    let Written::States(states) = written else { return Ok(None) };
    if !look.has_trust() || load_policy(config)?.is_some() {
        return Ok(None);
    }
    let release = match PublishedRelease::unverified(database).await? {
        Ok(release) => release,
        Err(why) => {
            tracing::warn!("whether the state has an effect at hosts with `trust` is not known: {why}");
            return Ok(None);
        }
    };
    let judged = release.without_effect(&valid_states(&database.states().await?), look.now);
    let none = states.iter().filter_map(|(id, _)| Some(format!("{id} ({})", judged.get(id)?)));
    let none: Vec<String> = none.collect();
    Ok((!none.is_empty()).then(|| {
        format!("no effect at hosts that verify the signed release: {}", some_of(none.iter(), NAMED, ", "))
    }))
}
