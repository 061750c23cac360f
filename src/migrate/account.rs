//! What a wipe achieved, file by file and in all, in words that promise no more than the disk.

use serde::{Deserialize, Serialize};

use crate::tree::TreePath;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Overwritten where it lay, and unlinked.
    OverwrittenInPlace,
    /// Overwritten and unlinked; the device may keep old copies.
    BestEffort,
    /// Unlinked only: overwriting does nothing on this filesystem.
    CannotBeWiped,
    /// Its name is gone; its content lives on under a name outside the tree.
    LinkedOutside,
    /// Left where it was: not what was verified, or it could not be removed.
    Left,
}

impl Fate {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::OverwrittenInPlace => "overwritten in place",
            Self::BestEffort => "overwritten and unlinked, best effort",
            Self::CannotBeWiped => "unlinked; it cannot be wiped here",
            Self::LinkedOutside => "unlinked; it has another name outside",
            Self::Left => "left where it was",
        }
    }
}

/// Files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a wipe achieved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Overwritten where they lay.
    pub overwritten_in_place: Tally,
    /// Overwritten, as far as the device obeys.
    pub best_effort: Tally,
    /// Unlinked only.
    pub cannot_be_wiped: Tally,
    /// With names outside the tree.
    pub linked_outside: Tally,
    /// Left where they were.
    pub left: Tally,
    /// The first of those that were left, and why.
    pub left_paths: Vec<(TreePath, String)>,
}

impl Account {
    pub(super) fn tally(&mut self, fate: Fate) -> &mut Tally {
        match fate {
            Fate::OverwrittenInPlace => &mut self.overwritten_in_place,
            Fate::BestEffort => &mut self.best_effort,
            Fate::CannotBeWiped => &mut self.cannot_be_wiped,
            Fate::LinkedOutside => &mut self.linked_outside,
            Fate::Left => &mut self.left,
        }
    }

    /// Files of every fate.
    pub fn files(&self) -> u64 {
        [
            self.overwritten_in_place,
            self.best_effort,
            self.cannot_be_wiped,
            self.linked_outside,
            self.left,
        ]
        .iter()
        .map(|tally| tally.files)
        .sum()
    }
}

/// Told of every file's fate.
pub type FateSink<'a> = &'a mut dyn FnMut(&TreePath, Fate);
