//! Brings a release into force once all of its texts are at hand.

use std::sync::Arc;

use super::super::{ListDigest, ListedRule, RuleList};
use super::rows::{Text, as_listed};
use super::status::Names;
use super::{Candidate, Gate, InForce};
use crate::rule::{Catalogue, KnownRule, RowFingerprint, RuleHeader, RuleId};

impl Gate {
    /// Brings the candidate into force if it can be, adds texts that were missing, and compares the rows with the
    /// release in force.
    pub(super) fn advance(&mut self, served: &Catalogue) {
        if let Some(mut candidate) = self.candidate.take() {
            if candidate.list.is_none() {
                let list = self.list_of_rows();
                match ListDigest::of(list.as_bytes()) == candidate.signed.manifest.list {
                    true => candidate.list = candidate.signed.manifest.parse_list(list.as_bytes()).ok(),
                    false => candidate.wants_list = !candidate.list_failed,
                }
            }
            match candidate.list.take() {
                None => self.candidate = Some(candidate),
                Some(list) => self.try_to_serve(candidate, list, served),
            }
        }
        if let Some(mut in_force) = self.in_force.take() {
            let mut filled = Vec::new();
            in_force.missing.retain(|rule| match self.at_hand(rule, served) {
                Text::Rule(rule) => {
                    filled.push(rule);
                    false
                }
                Text::Unparsed => false,
                Text::Missing => true,
            });
            self.changed.filled.extend(filled);
            self.compare(&in_force.list);
            self.in_force = Some(in_force);
        }
    }

    fn try_to_serve(&mut self, mut candidate: Candidate, list: RuleList, served: &Catalogue) {
        let is_missing = |rule: &&ListedRule| matches!(self.at_hand(rule, served), Text::Missing);
        let missing: Vec<ListedRule> = list.rules().iter().filter(is_missing).cloned().collect();
        if !missing.is_empty() && self.in_force.is_some() {
            candidate.missing = Names::default();
            missing.iter().for_each(|rule| candidate.missing.add(&rule.rule_id));
            candidate.list = Some(list);
            self.candidate = Some(candidate);
            return;
        }
        let keys = self.table.rule_fingerprints();
        self.left_out =
            keys.filter(|(key, _)| list.get(key).is_none()).map(|(key, row)| (key.to_owned(), row)).collect();
        let signed = candidate.signed;
        (self.floor, self.is_floor_saved) = (Some(signed.clone()), false);
        self.in_force = Some(InForce { signed, list, missing, is_unverified: false });
        self.changed.release = true;
        self.changed.filled.clear();
    }

    /// The list that the rows make, without those that the release before left out and nobody touched.
    fn list_of_rows(&self) -> String {
        let is_left_out = |header: &RuleHeader<RuleId>| {
            let fingerprint = Some(RowFingerprint::rule(header));
            self.left_out.get(header.rule_id.as_str()).copied() == fingerprint
        };
        let rows = self.table.rule_rows().map(|rule| &rule.header).filter(|header| !is_left_out(header));
        let mut rules: Vec<ListedRule> = rows.map(ListedRule::of).collect();
        rules.sort_unstable_by(|a, b| a.rule_id.cmp(&b.rule_id));
        rules.iter().map(|rule| format!("{rule}\n")).collect()
    }

    /// The text of a listed rule: from its row, or from what is served.
    pub(super) fn at_hand(&self, rule: &ListedRule, served: &Catalogue) -> Text {
        let id = rule.rule_id.as_str();
        let has_it = |known: &&Arc<KnownRule>| known.header.content_sha256 == rule.content_sha256;
        let known = self.table.rule_row(id).filter(has_it).or_else(|| served.rule_row(id).filter(has_it));
        match known {
            Some(known) => Text::Rule(as_listed(known, rule)),
            None if self.table.has_unparsed(id, &rule.content_sha256) => Text::Unparsed,
            None => Text::Missing,
        }
    }

    /// Compares the rows with a list.
    fn compare(&mut self, list: &RuleList) {
        (self.altered, self.unlisted) = (Names::default(), Names::default());
        for rule in list.rules() {
            let id = rule.rule_id.as_str();
            let is_row = |known: &Arc<KnownRule>| ListedRule::of(&known.header) == *rule;
            if !self.table.rule_row(id).is_some_and(is_row)
                && !self.table.has_unparsed(id, &rule.content_sha256)
            {
                self.altered.add(id);
            }
        }
        for (key, _) in self.table.rule_fingerprints().filter(|(key, _)| list.get(key).is_none()) {
            self.unlisted.add(key);
        }
    }
}
