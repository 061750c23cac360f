//! Owns the taking back of edits from a text that may have been changed since.

use sha2::{Digest, Sha256};

use super::edit::splice;
use super::scalar::{Role, Scalar, scan};
use super::{Edit, Error, Record, Reverted, diff};

/// The SHA-256 of a text.
pub(super) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// See [`super::revert()`].
pub(super) fn revert(current: &[u8], record: &Record) -> Result<Reverted, Error> {
    let found = digest(current);
    if found == record.after {
        let original = splice(current, &inverse(&record.edits));
        if digest(&original) == record.before {
            return Ok(Reverted { bytes: original, changed_since: false, absent: Vec::new() });
        }
    }
    if found == record.before {
        let absent = record.edits.iter().map(|edit| edit.key.clone()).collect();
        return Ok(Reverted { bytes: current.to_vec(), changed_since: false, absent });
    }
    revert_changed(current, record)
}

/// The edits that lead from the edited text back to the original.
fn inverse(edits: &[Edit]) -> Vec<Edit> {
    let (mut removed, mut added) = (0, 0);
    edits
        .iter()
        .map(|edit| {
            let offset = edit.offset - removed + added;
            removed += edit.old.len();
            added += edit.new.len();
            Edit { offset, old: edit.new.clone(), new: edit.old.clone(), ..edit.clone() }
        })
        .collect()
}

/// What became of one edit.
enum Fate {
    /// It is there, in this scalar.
    At(usize),
    /// It added something, which is here.
    Added(usize),
    /// Its value is the old one again, or gone.
    Absent,
    /// Its value is another one.
    Changed,
}

fn revert_changed(current: &[u8], record: &Record) -> Result<Reverted, Error> {
    let all_keys = || record.edits.iter().map(|edit| edit.key.clone()).collect();
    let Ok(scalars) = scan(record.format, current) else {
        return Err(Error::Conflict { keys: all_keys(), diff: String::new() });
    };
    let values: Vec<&Scalar> =
        scalars.list.iter().filter(|scalar| scalar.role != Role::Name).collect();
    let token = |index: usize| &current[values[index].range.clone()];
    let mut taken = vec![false; values.len()];
    let mut fates: Vec<Option<Fate>> = Vec::with_capacity(record.edits.len());
    // First by key: values that stayed where they were.
    for edit in &record.edits {
        if edit.old.is_empty() {
            fates.push(Some(fate_of_insertion(current, &values, edit)));
            continue;
        }
        let place = (0..values.len()).find(|at| {
            !taken[*at] && values[*at].key.to_string() == edit.key && token(*at) == edit.new
        });
        fates.push(place.map(|at| {
            taken[at] = true;
            Fate::At(at)
        }));
    }
    // Then by text: values that moved, within a list or to another key, if there is no doubt.
    for (edit, fate) in record.edits.iter().zip(&mut fates) {
        if fate.is_some() {
            continue;
        }
        let same: Vec<usize> =
            (0..values.len()).filter(|at| !taken[*at] && token(*at) == edit.new).collect();
        let wanting =
            record.edits.iter().filter(|other| other.new == edit.new && other.old != edit.old);
        let at_key = (0..values.len()).find(|at| values[*at].key.to_string() == edit.key);
        *fate = Some(match (same.as_slice(), at_key) {
            ([at], _) if wanting.count() == 0 => {
                taken[*at] = true;
                Fate::At(*at)
            }
            ([], Some(at)) if token(at) == edit.old => Fate::Absent,
            ([], None) => Fate::Absent,
            _ => Fate::Changed,
        });
    }
    finish(current, record, &values, &fates)
}

/// What became of an edit that added a key or a value where there was none.
fn fate_of_insertion(current: &[u8], values: &[&Scalar], edit: &Edit) -> Fate {
    let Some(scalar) = values.iter().find(|scalar| scalar.key.to_string() == edit.key) else {
        return Fate::Absent;
    };
    let first = scalar.range.end.saturating_sub(edit.new.len());
    (first..=scalar.range.start)
        .find(|at| current[*at..].starts_with(&edit.new))
        .map_or(Fate::Changed, Fate::Added)
}

fn finish(
    current: &[u8],
    record: &Record,
    values: &[&Scalar],
    fates: &[Option<Fate>],
) -> Result<Reverted, Error> {
    let mut edits = Vec::new();
    let mut absent = Vec::new();
    let mut changed = Vec::new();
    for (edit, fate) in record.edits.iter().zip(fates) {
        match fate {
            Some(Fate::At(at)) => edits.push(Edit {
                offset: values[*at].range.start,
                old: edit.new.clone(),
                new: edit.old.clone(),
                ..edit.clone()
            }),
            Some(Fate::Added(offset)) => edits.push(Edit {
                offset: *offset,
                old: edit.new.clone(),
                new: Vec::new(),
                ..edit.clone()
            }),
            Some(Fate::Absent) => absent.push(edit.key.clone()),
            Some(Fate::Changed) | None => changed.push(edit.key.clone()),
        }
    }
    edits.sort_by_key(|edit| edit.offset);
    let bytes = splice(current, &edits);
    if changed.is_empty() {
        return Ok(Reverted { bytes, changed_since: true, absent });
    }
    Err(Error::Conflict { keys: changed, diff: diff("file".as_ref(), current, &bytes) })
}
