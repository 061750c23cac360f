//! Owns the collecting of findings into a report.

use super::{CheckReport, Outcome};

/// Findings so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    damage: Vec<String>,
    remarks: Vec<String>,
}

impl Findings {
    /// Notes damage; past the limit it is only counted.
    pub(super) fn damage(&mut self, text: impl Into<String>) {
        if self.damage.len() < CheckReport::MAX_FINDINGS {
            self.damage.push(text.into());
        }
    }

    /// Notes something that is no damage.
    pub(super) fn remark(&mut self, text: impl Into<String>) {
        if self.remarks.len() < CheckReport::MAX_FINDINGS {
            self.remarks.push(text.into());
        }
    }

    pub(super) fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }

    /// Whether there is no point in looking for more.
    pub(super) fn is_full(&self) -> bool {
        self.damage.len() >= CheckReport::MAX_FINDINGS
    }

    /// The report: damaged where damage was found, else `outcome`. Damage comes first.
    pub(super) fn report(self, outcome: Outcome, method: &str) -> CheckReport {
        let outcome = if self.damage.is_empty() { outcome } else { Outcome::Damaged };
        let mut findings = self.damage;
        findings.extend(self.remarks);
        findings.truncate(CheckReport::MAX_FINDINGS);
        CheckReport { outcome, method: method.to_owned(), findings }
    }
}

/// A report of something that was not checked.
pub(super) fn not_checked(reason: impl Into<String>) -> CheckReport {
    CheckReport {
        outcome: Outcome::NotChecked,
        method: "nothing".to_owned(),
        findings: vec![reason.into()],
    }
}
