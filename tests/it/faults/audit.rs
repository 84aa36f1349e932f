//! Records every write to the rules' table with triggers, and reads the final rows: an observer that is independent
//! of the daemons.

use std::collections::BTreeMap;

use rulesyncd::clock::{Clock as _, SystemClock};

use super::history::{Rule, Write};
use super::writers;
use crate::support::databases::ExternalClient;

/// A session of MariaDB, which may be one of several servers.
const SESSION: &str = "CONCAT(@@server_id, '-', CONNECTION_ID())";

/// Creates the audit table and its triggers.
pub(super) async fn begin(external: &mut ExternalClient) {
    let (number, stamp): (_, fn(&str) -> String) = match external {
        ExternalClient::Sqlite(_) => ("INTEGER PRIMARY KEY AUTOINCREMENT", |row| format!("{row}.updated_at")),
        ExternalClient::MySql(_) => {
            ("BIGINT PRIMARY KEY AUTO_INCREMENT", |row| format!("CAST({row}.updated_at AS CHAR)"))
        }
        ExternalClient::Postgres(_) => {
            ("BIGSERIAL PRIMARY KEY", |row| format!("to_char({row}.updated_at, 'YYYY-MM-DD HH24:MI:SS.US')"))
        }
    };
    let table = format!(
        "CREATE TABLE audit (n {number}, rule_id VARCHAR(255), rule_version INT, yaml_content TEXT, \
         updated_at VARCHAR(40), updated_by VARCHAR(255), session VARCHAR(64), version BIGINT)"
    );
    external.run(&table).await;
    if matches!(external, ExternalClient::MySql(_)) {
        // The numbers of a cluster's nodes are not in the order of commits. The versions of the masters' transactions
        // are: their last statement but one raises it.
        external.run("CREATE INDEX audit_session ON audit (session)").await;
        let version = format!(
            "CREATE TRIGGER audit_version AFTER UPDATE ON rulesyncd_version FOR EACH ROW \
             UPDATE audit SET version = NEW.version \
             WHERE session = {SESSION} AND version IS NULL AND updated_by = 'filesystem'"
        );
        external.run(&version).await;
    }
    let session = if matches!(external, ExternalClient::MySql(_)) { SESSION } else { "NULL" };
    for (event, row) in [("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")] {
        let what = if event == "DELETE" {
            "NULL, NULL".to_owned()
        } else {
            format!("{row}.rule_version, {row}.yaml_content")
        };
        let insert = format!(
            "INSERT INTO audit (rule_id, rule_version, yaml_content, updated_at, updated_by, session) \
             VALUES ({row}.rule_id, {what}, {}, {row}.updated_by, {session});",
            stamp(row)
        );
        let on = format!("TRIGGER audit_{event} AFTER {event} ON ttp_rule FOR EACH ROW");
        let trigger = match external {
            ExternalClient::Postgres(_) => format!(
                "CREATE FUNCTION audit_{event}() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN {insert} RETURN NULL; END $$; CREATE {on} EXECUTE FUNCTION audit_{event}()"
            ),
            _ => format!("CREATE {on} BEGIN {insert} END"),
        };
        external.run(&trigger).await;
    }
}

/// Every write; those of the masters are in the order of their commits, and so are those of each other rule.
pub(super) async fn read(external: &mut ExternalClient) -> Vec<Write> {
    let text = roles(external);
    let columns = format!(
        "SELECT rule_id, CAST(rule_version AS {text}), yaml_content, updated_at, updated_by FROM audit ORDER BY version, n"
    );
    let rows = external.rows(&columns).await;
    rows.into_iter()
        .map(|row| {
            let [rule_id, version, text, updated_at, updated_by] = row.try_into().unwrap();
            let rule_id = rule_id.unwrap();
            let written = version.zip(text);
            Write {
                written: written.map(|(version, text)| Rule::of(&rule_id, version.parse().unwrap(), &text)),
                rule_id,
                updated_at: updated_at.unwrap(),
                updated_by: updated_by.unwrap(),
            }
        })
        .collect()
}

/// The rules and the effective states.
pub(super) async fn final_rows(
    external: &mut ExternalClient,
) -> (BTreeMap<String, Rule>, BTreeMap<String, String>) {
    let text = roles(external);
    let now = SystemClock.now().to_sql_text();
    let (known, (mut rules, mut states)) = (writers::all(), <(BTreeMap<_, _>, BTreeMap<_, _>)>::default());
    let rows = format!("SELECT rule_id, CAST(rule_version AS {text}), yaml_content FROM ttp_rule");
    for row in external.rows(&rows).await {
        let [id, version, text] = row.map_all();
        if known.contains(&id) {
            rules.insert(id.clone(), Rule::of(&id, version.parse().unwrap(), &text));
        }
    }
    let rows =
        format!("SELECT rule_id, state FROM ttp_rule_state WHERE expires_at IS NULL OR expires_at > '{now}'");
    for row in external.rows(&rows).await {
        let [id, state] = row.map_all();
        if known.contains(&id) {
            states.insert(id, state);
        }
    }
    (rules, states)
}

/// How many states expire within the next seconds: a comparison waits until none does.
pub(super) async fn ending(external: &mut ExternalClient) -> String {
    let text = roles(external);
    let now = SystemClock.now();
    let soon = now.after(std::time::Duration::from_secs(6)).to_sql_text();
    let query = format!(
        "SELECT CAST(count(*) AS {text}) FROM ttp_rule_state WHERE expires_at > '{}' AND expires_at < '{soon}'",
        now.before(std::time::Duration::from_secs(1)).to_sql_text()
    );
    external.text(&query).await.unwrap()
}

fn roles(external: &ExternalClient) -> &'static str {
    if matches!(external, ExternalClient::MySql(_)) { "CHAR" } else { "TEXT" }
}

/// A row of texts without nulls.
trait Texts {
    fn map_all<const N: usize>(self) -> [String; N];
}

impl Texts for Vec<Option<String>> {
    fn map_all<const N: usize>(self) -> [String; N] {
        self.into_iter().map(Option::unwrap).collect::<Vec<_>>().try_into().unwrap()
    }
}
