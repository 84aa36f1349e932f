//! The floors: the same work by the barest means.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use futures_util::TryStreamExt as _;
use rulesyncd::rule::{ContentDigest, Limits, parse};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use crate::support::databases::ExternalClient;

/// Rows of one statement: the most whose arguments every database takes.
const ROWS: usize = 1_000;

/// Every text of a directory, read and worked on by as many threads as the program has.
pub(crate) fn texts<T: Send>(directory: &Path, work: impl Fn(Vec<u8>) -> T + Sync) -> Vec<T> {
    let paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    on_two_threads(paths, |path| work(std::fs::read(path).unwrap()))
}

fn on_two_threads<I: Send, T: Send>(mut items: Vec<I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    let others = items.split_off(items.len() / 2);
    std::thread::scope(|scope| {
        let there = scope.spawn(|| others.into_iter().map(&work).collect::<Vec<T>>());
        let mut done: Vec<T> = items.into_iter().map(&work).collect();
        done.extend(there.join().unwrap());
        done
    })
}

/// Reads and hashes.
pub(crate) fn hashed(directory: &Path) -> f64 {
    let start = Instant::now();
    assert!(!texts(directory, ContentDigest::of).is_empty());
    start.elapsed().as_secs_f64()
}

fn is_rule(text: &[u8]) -> bool {
    parse(text, &Limits::default()).is_ok()
}

/// Reads, parses, and writes all rows in one transaction of prepared inserts.
pub(crate) async fn written(directory: &Path, hand: &mut ExternalClient) -> f64 {
    let start = Instant::now();
    let rows = texts(directory, |text| {
        assert!(is_rule(&text));
        String::from_utf8(text).unwrap()
    });
    hand.begin().await;
    for chunk in rows.chunks(ROWS) {
        insert(hand, chunk).await;
    }
    hand.commit().await;
    start.elapsed().as_secs_f64()
}

async fn insert(hand: &mut ExternalClient, texts: &[String]) {
    let numbered = matches!(hand, ExternalClient::Postgres(_));
    let rows = (0..texts.len()).map(|row| match numbered {
        true => format!(
            "(${}, 1, ${}, ${}, '2026-01-01 00:00:00', 'floor')",
            row * 3 + 1,
            row * 3 + 2,
            row * 3 + 3
        ),
        false => "(?, 1, ?, ?, '2026-01-01 00:00:00', 'floor')".to_owned(),
    });
    let rows: Vec<_> = rows.collect();
    let sql = format!(
        "INSERT INTO ttp_rule (rule_id, rule_version, source_path, yaml_content, updated_at, updated_by) VALUES {}",
        rows.join(", ")
    );
    macro_rules! execute {
        ($hand:expr) => {{
            let query = texts.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, text| {
                let id = text.lines().next().unwrap().trim_start_matches("rule_id: ");
                query.bind(id.to_owned()).bind(format!("{id}.yaml")).bind(text)
            });
            query.execute($hand).await.unwrap();
        }};
    }
    match hand {
        ExternalClient::Sqlite(hand) => execute!(hand),
        ExternalClient::MySql(hand) => execute!(hand),
        ExternalClient::Postgres(hand) => execute!(hand),
    }
}

/// Selects all rows, and parses them.
pub(crate) async fn selected(hand: &mut ExternalClient) -> f64 {
    let start = Instant::now();
    let good = on_two_threads(rows(hand).await, |text| is_rule(text.as_bytes()));
    assert!(!good.is_empty() && good.into_iter().all(|good| good));
    start.elapsed().as_secs_f64()
}

/// Reads and hashes, selects all rows and hashes these, and compares.
pub(crate) async fn compared(directory: &Path, hand: &mut ExternalClient) -> f64 {
    let start = Instant::now();
    let files: HashSet<_> = texts(directory, ContentDigest::of).into_iter().collect();
    let rows = on_two_threads(rows(hand).await, ContentDigest::of);
    assert!(!files.is_empty() && rows.into_iter().collect::<HashSet<_>>() == files);
    start.elapsed().as_secs_f64()
}

/// The texts of all rows, of which all columns are read.
async fn rows(hand: &mut ExternalClient) -> Vec<String> {
    const ALL: &str =
        "SELECT rule_id, rule_version, source_path, yaml_content, updated_at, updated_by FROM ttp_rule";
    macro_rules! fetch {
        ($hand:expr) => {{
            let mut rows = sqlx::query(ALL).fetch($hand);
            let mut texts = Vec::new();
            while let Some(row) = rows.try_next().await.unwrap() {
                let (_id, _path): (String, String) = (row.get(0), row.get(2));
                let (_version, _by): (i32, String) = (row.get(1), row.get(5));
                let _at: chrono::NaiveDateTime = row.get(4);
                texts.push(row.get::<String, _>(3));
            }
            texts
        }};
    }
    match hand {
        ExternalClient::Sqlite(hand) => fetch!(hand),
        ExternalClient::MySql(hand) => fetch!(hand),
        ExternalClient::Postgres(hand) => fetch!(hand),
    }
}

/// Changes one row and commits it.
pub(crate) async fn committed(hand: &mut ExternalClient, version: usize) -> f64 {
    let text = crate::host::rule_text(0, version);
    let start = Instant::now();
    hand.begin().await;
    hand.run(&format!(
        "UPDATE ttp_rule SET rule_version = {version}, yaml_content = '{}' WHERE rule_id = 'R000000'",
        text.replace('\'', "''")
    ))
    .await;
    hand.commit().await;
    start.elapsed().as_secs_f64()
}

/// A connection to a database that has the tables.
pub(crate) async fn hand(url: &str) -> ExternalClient {
    crate::support::databases::made(url, crate::support::databases::system_clock()).await;
    match url.split(':').next() {
        Some("sqlite") => {
            let mut hand = sqlx::SqliteConnection::connect(url).await.unwrap();
            sqlx::raw_sql("PRAGMA synchronous = NORMAL").execute(&mut hand).await.unwrap();
            ExternalClient::Sqlite(hand)
        }
        Some("mysql") => ExternalClient::MySql(sqlx::MySqlConnection::connect(url).await.unwrap()),
        _ => ExternalClient::Postgres(sqlx::PgConnection::connect(url).await.unwrap()),
    }
}
