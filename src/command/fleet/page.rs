//! The fleet as one HTML page that needs nothing else: no network, no script. Pure: facts in, text out.

mod matrix;
mod style;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use self::matrix::matrices;
use self::style::STYLE;
use crate::clock::Timestamp;
use crate::command::print::escape_xml;
use crate::fleet::{HostState, summarize};
use crate::paint::sanitize;
use crate::plural::count;
use crate::rule::CompiledRule;
use crate::rule::attack::Attack;

/// The most days of the chart of changes.
const DAYS: usize = 30;

/// What the page shows.
#[derive(Debug)]
pub(super) struct Facts<'f> {
    /// When it was taken.
    pub(super) taken_at: Timestamp,
    /// The hosts, in the order in which they are listed.
    pub(super) hosts: Vec<Host>,
    /// Why the signed release is not verified where the page is made; `None` if it is, or if no host has trust.
    pub(super) not_verified: Option<&'f str>,
    /// Every rule with its effective state.
    pub(super) rules: &'f [CompiledRule],
    /// How many changes of definitions and of states this host's worker received, by day; `None` without a history.
    pub(super) changes: Option<BTreeMap<String, [u64; 2]>>,
}

/// One host.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) state: HostState,
    /// The state in words, with its reason.
    pub(super) state_in_words: String,
    /// `None` if the host did not say.
    pub(super) rules: Option<u64>,
    /// The program's version.
    pub(super) program: String,
    /// Of the host's last report; `None` if there is none.
    pub(super) reported_at: Option<Timestamp>,
}

/// The page as HTML.
pub(super) fn page<'f>(facts: &'f Facts<'_>, attack: &'f Attack) -> String {
    let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE));
    let taken_at = facts.taken_at;
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{digest}'; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>rulesyncd fleet</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>rulesyncd fleet</h1>\n<p class=\"dim\">{taken_at}</p>\n"
    );
    hosts(&mut html, facts);
    hosts_in_sync(&mut html, facts);
    changes(&mut html, facts);
    matrices(&mut html, facts.rules, attack);
    html + "</body>\n</html>\n"
}

/// A text of foreign origin as HTML text or as the value of an attribute in double quotes.
fn escape(text: &str) -> String {
    escape_xml(&sanitize(text))
}

fn hosts(html: &mut String, facts: &Facts<'_>) {
    let numbers = summarize(facts.hosts.iter().map(|host| &host.state)).hosts;
    let total = facts.hosts.len();
    let in_sync = facts.hosts.iter().filter(|host| host.state.is_in_sync()).count();
    let _ = writeln!(html, "<h2>{in_sync} of {} in sync</h2>", count(total, "host"));
    if let Some(why) = facts.not_verified {
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
    let oldest =
        facts.hosts.iter().filter_map(|host| Some((host.reported_at?, host))).min_by_key(|(at, _)| *at);
    if let Some((at, host)) = oldest {
        let age = age(facts.taken_at, at);
        let _ = writeln!(html, "<p>Oldest report: {}, {age} ago</p>", escape(&host.name));
    }
    let mut others: Vec<_> = facts.hosts.iter().filter(|host| !host.state.is_in_sync()).collect();
    others.sort_by_key(|host| std::cmp::Reverse(host.state.index()));
    if !others.is_empty() {
        table(html, facts.taken_at, &others);
    }
}

/// The hosts that need no attention, folded.
fn hosts_in_sync(html: &mut String, facts: &Facts<'_>) {
    let in_sync: Vec<_> = facts.hosts.iter().filter(|host| host.state.is_in_sync()).collect();
    if !in_sync.is_empty() {
        let _ = writeln!(html, "<details>\n<summary>{} in sync</summary>", count(in_sync.len(), "host"));
        table(html, facts.taken_at, &in_sync);
        *html += "</details>\n";
    }
}

fn table(html: &mut String, taken_at: Timestamp, hosts: &[&Host]) {
    *html += "<table>\n<thead><tr><th>Host</th><th>State</th><th class=\"number\">Rules</th><th>Version</th>\
              <th>Reported</th></tr></thead>\n<tbody>\n";
    for host in hosts {
        let rules = host.rules.map_or_else(|| "–".to_owned(), |rules| rules.to_string());
        let reported = host.reported_at.map_or_else(|| "never".to_owned(), |at| age(taken_at, at) + " ago");
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td><span class=\"key {}\"></span>{}</td><td class=\"number\">{rules}</td><td>{}</td>\
             <td>{reported}</td></tr>",
            escape(&host.name),
            host.state.word(),
            escape(&host.state_in_words),
            escape(&host.program)
        );
    }
    *html += "</tbody>\n</table>\n";
}

/// How long before `now` it was, in whole seconds.
fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = std::time::Duration::from_secs(now.since(then).as_secs());
    let text = humantime::format_duration(seconds).to_string();
    // The two largest units.
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A column for each of the last days.
fn changes(html: &mut String, facts: &Facts<'_>) {
    const WIDTH: usize = 24;
    const HEIGHT: u64 = 100;
    let Some(changes) = &facts.changes else { return };
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
