//! The fleet as one HTML page that needs nothing else: no network, no script. Pure.

mod matrix;
mod style;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use self::matrix::matrices;
use self::style::STYLE;
use super::Shown;
use super::render::{cells, not_verified};
use crate::clock::{Timestamp, age, humanize};
use crate::command::print::escape_xml;
use crate::fleet::{Host, HostState, summarize};
use crate::paint::sanitize;
use crate::plural::count;
use crate::rule::CompiledRule;
use crate::rule::attack::Attack;

/// The most days of the chart of changes.
const DAYS: usize = 30;

/// The page as HTML, of this fleet, of every rule with its effective state, and of the numbers of changes of definitions and
/// of states that this host's worker received, by day; `None` without a history.
pub(super) fn page(
    shown: &Shown,
    rules: &[CompiledRule],
    changes: Option<&BTreeMap<String, [u64; 2]>>,
    attack: &Attack,
) -> String {
    let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE));
    let taken_at = shown.look.now;
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{digest}'; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>rulesyncd fleet</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>rulesyncd fleet</h1>\n<p class=\"dim\">{taken_at}</p>\n"
    );
    hosts(&mut html, shown);
    if let Some(changes) = changes {
        changes_a_day(&mut html, changes);
    }
    matrices(&mut html, rules, attack);
    html + "</body>\n</html>\n"
}

/// A text of foreign origin as HTML text or as the value of an attribute in double quotes.
fn escape(text: &str) -> String {
    escape_xml(&sanitize(text))
}

fn hosts(html: &mut String, shown: &Shown) {
    let numbers = summarize(shown.hosts.iter().map(|(_, state)| state)).hosts;
    let total = shown.hosts.len();
    let (in_sync, mut others): (Vec<_>, Vec<_>) =
        shown.hosts.iter().partition(|(_, state)| state.is_in_sync());
    let _ = writeln!(html, "<h2>{} of {} in sync</h2>", in_sync.len(), count(total, "host"));
    if let Some(why) = not_verified(shown) {
        let _ = writeln!(html, "<p>The signed release is not verified: {}</p>", escape(why));
    }
    let mut x = 0;
    let _ = writeln!(
        html,
        "<svg class=\"bar\" viewBox=\"0 0 {} 1\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"hosts by state\">",
        total.max(1)
    );
    for (word, width) in HostState::WORDS.into_iter().zip(numbers).filter(|(_, width)| *width > 0) {
        let _ = writeln!(html, "<rect class=\"{word}\" x=\"{x}\" y=\"0\" width=\"{width}\" height=\"1\"/>");
        x += width;
    }
    *html += "</svg>\n<ul class=\"legend\">\n";
    for (word, number) in HostState::WORDS.into_iter().zip(numbers) {
        let _ =
            writeln!(html, "<li><span class=\"key {word}\"></span>{number} {}</li>", word.replace('_', " "));
    }
    *html += "</ul>\n";
    let reported = shown.hosts.iter().filter(|(host, _)| host.worker.reported_at != Timestamp::MIN);
    if let Some((host, _)) = reported.min_by_key(|(host, _)| host.worker.reported_at) {
        let age = age(shown.look.now, host.worker.reported_at, humanize);
        let _ = writeln!(html, "<p>Oldest report: {}, {age}</p>", escape(&host.name));
    }
    others.sort_by_key(|(_, state)| std::cmp::Reverse(state.index()));
    if !others.is_empty() {
        table(html, shown.look.now, &others);
    }
    if !in_sync.is_empty() {
        // They need no attention, so they are folded.
        let _ = writeln!(html, "<details>\n<summary>{} in sync</summary>", count(in_sync.len(), "host"));
        table(html, shown.look.now, &in_sync);
        *html += "</details>\n";
    }
}

fn table(html: &mut String, now: Timestamp, hosts: &[&(Host, HostState)]) {
    *html += "<table>\n<thead><tr><th>Host</th><th>State</th><th class=\"number\">Rules</th><th>Version</th>\
              <th>Reported</th></tr></thead>\n<tbody>\n";
    for (host, state) in hosts {
        let [name, in_words, rules, _, program, reported] = cells(host, state, now).map(|cell| escape(&cell));
        let _ = writeln!(
            html,
            "<tr><td>{name}</td><td><span class=\"key {}\"></span>{in_words}</td><td class=\"number\">{rules}</td>\
             <td>{program}</td><td>{reported}</td></tr>",
            state.word()
        );
    }
    *html += "</tbody>\n</table>\n";
}

/// A column for each of the last days.
fn changes_a_day(html: &mut String, changes: &BTreeMap<String, [u64; 2]>) {
    const WIDTH: usize = 24;
    const HEIGHT: u64 = 100;
    *html += "<h2>Changes a day</h2>\n";
    if changes.is_empty() {
        *html += "<p class=\"dim\">This host's worker has recorded no change.</p>\n";
        return;
    }
    let days: Vec<_> = changes.iter().skip(changes.len().saturating_sub(DAYS)).collect();
    let most = days.iter().map(|(_, [definitions, states])| definitions + states).max().unwrap_or(1).max(1);
    let _ = writeln!(
        html,
        "<svg class=\"days\" width=\"{}\" height=\"{}\" role=\"img\" aria-label=\"changes a day\">",
        days.len() * WIDTH * 2,
        HEIGHT + 36
    );
    for (index, (day, [definitions, states])) in days.iter().enumerate() {
        let x = index * WIDTH * 2;
        let height = |number: u64| (number * HEIGHT).div_ceil(most);
        let (low, high) = (height(*definitions), height(*states));
        let _ = writeln!(
            html,
            "<g><title>{day}: {definitions} of definitions, {states} of states</title>\
             <rect class=\"definitions\" x=\"{x}\" y=\"{}\" width=\"{WIDTH}\" height=\"{low}\"/>\
             <rect class=\"states\" x=\"{x}\" y=\"{}\" width=\"{WIDTH}\" height=\"{high}\"/>\
             <text x=\"{x}\" y=\"{}\">{}</text><text x=\"{x}\" y=\"{}\">{}</text></g>",
            16 + HEIGHT.saturating_sub(low),
            16 + HEIGHT.saturating_sub(low + high),
            12 + HEIGHT.saturating_sub(low + high),
            definitions + states,
            HEIGHT + 32,
            escape(day.get(5..).unwrap_or(day))
        );
    }
    *html += "</svg>\n<ul class=\"legend\"><li><span class=\"key definitions\"></span>of definitions</li>\
              <li><span class=\"key states\"></span>of states</li></ul>\n";
}

#[cfg(test)]
mod tests;
