//! Owns the words for operations.

use std::collections::HashMap;

use crate::backing::memory::{Change, Event, InodeId, ROOT, Record, State};

/// Each operation, with the names that files had when it came.
pub(super) fn all(base: &State, records: &[Record]) -> Vec<String> {
    let mut names = Names { known: HashMap::new() };
    base.names(&mut |parent, name, id| names.set(id, parent, name));
    records
        .iter()
        .map(|record| {
            let words = event(&names, &record.event);
            match &record.event {
                Event::Change(Change::Create { parent, name, inode }) => {
                    names.set(inode.id, *parent, name);
                }
                Event::Change(Change::Rename {
                    id,
                    parent,
                    name,
                    target_parent,
                    target_name,
                    replaced,
                    exchange,
                }) => {
                    names.set(*id, *target_parent, target_name);
                    if let Some(replaced) = replaced.filter(|_| *exchange) {
                        names.set(replaced, *parent, name);
                    }
                }
                _ => {}
            }
            words
        })
        .collect()
}

/// One name of each inode.
struct Names {
    known: HashMap<InodeId, (InodeId, Vec<u8>)>,
}

impl Names {
    fn set(&mut self, id: InodeId, parent: InodeId, name: &[u8]) {
        self.known.insert(id, (parent, name.to_vec()));
    }

    fn path(&self, id: &InodeId) -> String {
        let mut path = String::new();
        let mut at = *id;
        while at != ROOT && path.len() < 1000 {
            match self.known.get(&at) {
                Some((parent, name)) => {
                    path = format!("/{}{path}", name.escape_ascii());
                    at = *parent;
                }
                None => return format!("(inode {}){path}", at.0),
            }
        }
        if path.is_empty() { "/".into() } else { path }
    }

    fn below(&self, parent: &InodeId, name: &[u8]) -> String {
        format!("{}/{}", self.path(parent).trim_end_matches('/'), name.escape_ascii())
    }
}

fn event(names: &Names, event: &Event) -> String {
    let path = |id| names.path(id);
    let below = |parent, name: &[u8]| names.below(parent, name);
    match event {
        Event::Sync { id, data_only: false } => format!("fsync {}", path(id)),
        Event::Sync { id, data_only: true } => format!("fdatasync {}", path(id)),
        Event::SyncFilesystem => "syncfs".into(),
        Event::Change(change) => match change {
            Change::Create { parent, name, inode } => {
                format!("create {:?} {}", inode.kind, below(parent, name))
            }
            Change::Link { id, parent, name } => {
                format!("link {} as {}", path(id), below(parent, name))
            }
            Change::Unlink { parent, name, .. } => format!("unlink {}", below(parent, name)),
            Change::Rename { parent, name, target_parent, target_name, exchange, .. } => {
                let verb = if *exchange { "exchange" } else { "rename" };
                let (from, to) = (below(parent, name), below(target_parent, target_name));
                format!("{verb} {from} to {to}")
            }
            Change::Write { id, offset, data } => {
                format!("write {} {offset}+{}", path(id), data.len())
            }
            Change::SetLen { id, len } => format!("set size of {} to {len}", path(id)),
            Change::Allocate { id, offset, len } => {
                format!("allocate {} {offset}+{len}", path(id))
            }
            Change::Punch { id, offset, len } => format!("punch {} {offset}+{len}", path(id)),
            Change::SetMode { id, mode } => format!("set mode of {} to {mode:o}", path(id)),
            Change::SetOwner { id, .. } => format!("set owner of {}", path(id)),
            Change::SetTimes { id, .. } => format!("set times of {}", path(id)),
            Change::SetXattr { id, attribute, .. } => {
                format!("set attribute {} of {}", attribute.escape_ascii(), path(id))
            }
            Change::RemoveXattr { id, attribute } => {
                format!("remove attribute {} of {}", attribute.escape_ascii(), path(id))
            }
        },
    }
}
