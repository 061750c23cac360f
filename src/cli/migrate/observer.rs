//! Shows what the engine does: bars on a terminal, a line a stage, JSON lines for programs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::world::Interrupt;
use crate::cli::Context;
use crate::cli::output::{Progress, Unit, Verbosity, human_size};
use crate::migrate::{Observer, Stage, Totals};

/// Tells the user of stages, and the engine of signals.
pub struct Shown<'a> {
    indent: &'static str,
    context: &'a Context,
    interrupt: &'a Interrupt,
    current: Mutex<Option<Current>>,
}

struct Current {
    stage: Stage,
    begun: Instant,
    progress: Progress,
    by_bytes: bool,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl<'a> Shown<'a> {
    /// Shows stages where `context` says.
    pub fn new(context: &'a Context, interrupt: &'a Interrupt) -> Self {
        Self { indent: "  ", context, interrupt, current: Mutex::new(None) }
    }

    /// The same, further to the right.
    pub fn indented(context: &'a Context, interrupt: &'a Interrupt) -> Self {
        Self { indent: "     ", ..Self::new(context, interrupt) }
    }

    /// Ends the stage that is shown.
    pub fn end(&self) {
        let Some(current) = self.current.lock().take() else { return };
        let Current { stage, begun, progress, entries, bytes, .. } = current;
        drop(progress);
        let (entries, bytes) = (entries.into_inner(), bytes.into_inner());
        let mut done = Vec::new();
        if entries > 0 {
            done.push(format!("{entries} entries"));
        }
        if bytes > 0 {
            done.push(human_size(bytes));
        }
        done.push(format!("{:.1} s", begun.elapsed().as_secs_f64()));
        self.context.output.say(format!("{}{:<42} {}", self.indent, name(stage), done.join(", ")));
    }
}

impl Observer for Shown<'_> {
    fn stage(&self, stage: Stage, totals: Option<Totals>) {
        self.end();
        let by_bytes = totals.is_some_and(|totals| totals.bytes > 0);
        let (unit, total) = match totals {
            Some(totals) if by_bytes => (Unit::Bytes, Some(totals.bytes)),
            Some(totals) => (Unit::Items, Some(totals.entries)),
            None => (Unit::Items, None),
        };
        let progress = self.context.output.progress(name(stage), unit, total);
        *self.current.lock() = Some(Current {
            stage,
            begun: Instant::now(),
            progress,
            by_bytes,
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
    }

    fn advance(&self, entries: u64, bytes: u64) {
        if let Some(current) = &*self.current.lock() {
            current.entries.fetch_add(entries, Ordering::Relaxed);
            current.bytes.fetch_add(bytes, Ordering::Relaxed);
            current.progress.advance(if current.by_bytes { bytes } else { entries });
        }
    }

    fn note(&self, text: &str) {
        if self.context.output.is_json() || self.context.output.verbosity() > Verbosity::Quiet {
            self.context.output.warn(text);
        }
    }

    fn cancelled(&self) -> &AtomicBool {
        self.interrupt.flag()
    }
}

/// What a stage is called.
fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Plan => "looking at the source",
        Stage::Quiesce => "seeing that nobody uses the source",
        Stage::Survey => "reading the source",
        Stage::Check => "checking the stores",
        Stage::Snapshot => "writing the sealed snapshot",
        Stage::ReadBack => "reading the snapshot back",
        Stage::Copy => "copying into the vault",
        Stage::VerifyVault => "reading the vault through a fresh mount",
        Stage::VerifyBoth => "reading the vault through a fresh mount, and the source again",
        Stage::VerifySource => "reading the source again",
        Stage::Switch => "switching the app over",
        Stage::Health => "starting the app",
        Stage::Wipe => "wiping the originals",
        Stage::Changes => "looking for changes since the migration",
        Stage::Restore => "writing the tree that comes back",
        Stage::VerifyRestored => "reading it back",
        Stage::SwitchBack => "switching the app back",
    }
}
