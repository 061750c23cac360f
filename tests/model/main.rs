//! Random sequences of operations on a vault, compared with a reference after every one: through
//! the core over memory and over the operating system, and through a real mount beside a plain
//! directory.
//!
//! A sequence that fails is shrunk and printed as Rust; it then belongs into `regressions.rs`
//! under a name that tells the defect.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod core;
mod files;
mod generate;
#[cfg(feature = "mount")]
mod mounted;
mod reference;
mod regressions;
mod step;
#[cfg(feature = "mount")]
#[path = "../support/mod.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::sync::Once;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

use self::core::{Core, UMASK};
use self::files::Files;
use self::generate::{Draft, Limits, draft};
use self::reference::Reference;
use self::step::{Step, Subject};

/// The number of sequences, unless the environment tells it (`PROPTEST_CASES`).
fn cases(count: u32) -> Config {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = count;
    }
    config.max_shrink_iters = 4096;
    config
}

/// The root of every subject is given this mode first: they were made by different means.
const START: Draft = Draft::SetMode(generate::Any(0), 0o755);

/// Does one step to all, and compares what they answer and show. What is wrong, if anything is.
fn compare(
    step: &Step,
    reference: &mut Reference,
    subjects: &mut [Box<dyn Subject>],
) -> Result<(), String> {
    let expected = reference.apply(step);
    let expected_view = reference.observe();
    for subject in subjects {
        let name = subject.name();
        let (found, view) = quietly(|| (subject.apply(step), subject.observe()))
            .map_err(|panic| format!("{name} {panic}"))?;
        if expected != found {
            let (expected, found) = (brief(&expected), brief(&found));
            return Err(format!("{name} answers {found}, expected {expected}"));
        }
        if let Some(difference) = expected_view.difference(&view) {
            return Err(format!("{name}: {difference}"));
        }
    }
    Ok(())
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs, with a panic made an error that nobody reads about while a sequence is being shrunk.
fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PLACE.set(info.location().map(ToString::to_string).unwrap_or_default());
            } else {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        format!("panicked at {}: {}", PLACE.take(), text.unwrap_or_default())
    })
}

thread_local! {
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

fn brief(outcome: &step::Outcome) -> String {
    match outcome {
        Ok(bytes) => format!("{} bytes {:?}…", bytes.len(), &bytes[..bytes.len().min(8)]),
        Err(errno) => format!("{:?}", std::io::Error::from_raw_os_error(*errno)),
    }
}

/// Plays drafts against subjects that begin empty, and a reference.
fn play(
    drafts: &[Draft],
    limits: &Limits,
    mut subjects: Vec<Box<dyn Subject>>,
    umask: u32,
) -> Result<(), TestCaseError> {
    let mut reference = Reference::new(umask);
    let mut played = String::new();
    for draft in [&START].into_iter().chain(drafts).chain([&Draft::Remount]) {
        let Some(step) = draft.resolve(&reference, limits) else { continue };
        played += &format!("Step::{step:?},\n");
        if let Err(difference) = compare(&step, &mut reference, &mut subjects) {
            let _ = quietly(|| drop(subjects));
            return Err(TestCaseError::fail(format!("{difference}, after\n{played}")));
        }
    }
    for subject in &mut subjects {
        let ended = quietly(|| subject.finish());
        ended.map_err(|panic| TestCaseError::fail(format!("{panic}, after\n{played}")))?;
    }
    Ok(())
}

/// Plays the steps of a regression test.
fn replay(steps: &[Step], mut subjects: Vec<Box<dyn Subject>>, umask: u32) {
    let mut reference = Reference::new(umask);
    for step in [&START.resolve(&reference, &Limits::VAULT).unwrap()].into_iter().chain(steps) {
        if let Err(difference) = compare(step, &mut reference, &mut subjects) {
            panic!("after {step:?}: {difference}");
        }
    }
    for subject in &mut subjects {
        subject.finish();
    }
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn the_core_over_memory_is_like_the_reference(
        drafts in proptest::collection::vec(draft(), 1..60),
    ) {
        play(&drafts, &Limits::VAULT, vec![Box::new(Core::in_memory())], UMASK)?;
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn the_core_over_the_system_is_like_the_reference(
        drafts in proptest::collection::vec(draft(), 1..40),
    ) {
        play(&drafts, &Limits::VAULT, vec![Box::new(Core::on_system())], UMASK)?;
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn a_plain_directory_is_like_the_reference(
        drafts in proptest::collection::vec(draft(), 1..40),
    ) {
        let plain = Files::plain();
        let limits = plain.limits();
        play(&drafts, &limits, vec![Box::new(plain)], 0)?;
    }
}

#[cfg(feature = "mount")]
proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn a_mounted_vault_is_like_a_plain_directory(
        drafts in proptest::collection::vec(draft(), 1..40),
    ) {
        if !support::fuse_is_here("a_mounted_vault_is_like_a_plain_directory") {
            return Ok(());
        }
        let plain = Files::plain();
        let limits = plain.limits();
        play(&drafts, &limits, vec![Box::new(plain), Box::new(mounted::Mounted::subject())], 0)?;
    }
}
