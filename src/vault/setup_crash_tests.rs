//! Creating a vault and changing its key slots, with the power cut at every moment and with every
//! operation failing.

#![allow(clippy::unwrap_used)]

use zeroize::Zeroizing;

use super::*;
use crate::backing::crash::{CrashRecorder, Metadata, Sampler};
use crate::backing::fault::{Fault, Faults, Operation};
use crate::backing::memory::MemoryDirectory;
use crate::crypto::Passphrase;
use crate::vault::{FileSystem, FilesystemOptions};

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap())
}

fn slot<'a>(secret: &'a Secret, label: &'a str) -> NewSlot<'a> {
    NewSlot { secret, label, cost: Some(Argon2Parameters::insecure_for_tests()) }
}

fn location(root: Box<dyn Directory>) -> Location {
    Location::new(Path::new("vault"), root, None).unwrap()
}

fn create(root: Box<dyn Directory>) -> Result<Vault<Unlocked>, VaultError> {
    let prepared = Prepared::new(&[slot(&passphrase("one"), "first")]).unwrap();
    Vault::create_in(location(root), prepared)
}

fn open(root: &MemoryDirectory) -> Result<Vault<Locked>, VaultError> {
    let location = location(root.open_directory(b".").unwrap());
    location.check_tree()?;
    Vault::open_in(location)
}

fn mount(vault: &Vault<Unlocked>) {
    let options = FilesystemOptions { read_only: true, ..FilesystemOptions::default() };
    FileSystem::open(vault.directory().unwrap(), vault.master_key(), options, "a test").unwrap();
}

const MODELS: [Metadata; 2] = [Metadata::Ordered, Metadata::PerFile];

/// Runs `check` on every disk that a cut could leave, with whether `at` operations had been
/// promised by then.
fn each_image(
    recorder: &CrashRecorder,
    from: usize,
    mut check: impl FnMut(usize, &MemoryDirectory, &str),
) {
    for model in MODELS {
        let mut sampler = Sampler::new(7, 60);
        let mut timeline = recorder.timeline(model);
        for at in from..=recorder.operation_count() {
            timeline.advance(at);
            for image in timeline.images(&mut sampler) {
                check(at, &image.directory, &image.description);
            }
        }
    }
}

#[test]
fn a_power_cut_leaves_no_vault_or_a_whole_one() {
    let recorder = CrashRecorder::new();
    create(recorder.root()).unwrap();
    let promised = recorder.operation_count();
    let mut whole = 0;
    each_image(&recorder, 0, |at, image, description| match open(image) {
        Ok(locked) => {
            mount(&locked.unlock(&passphrase("one")).unwrap());
            whole += 1;
        }
        Err(VaultError::NotAVault { .. }) => assert!(at < promised, "{description}"),
        Err(error) => panic!("{error}: {description}"),
    });
    assert!(whole > 2);
}

#[test]
fn a_power_cut_leaves_the_old_passphrase_or_the_new() {
    let base = CrashRecorder::new();
    create(base.root()).unwrap();
    let recorder = CrashRecorder::on(&base.durable());
    let locked = Vault::open_in(location(recorder.root())).unwrap();
    let mut vault = locked.unlock(&passphrase("one")).unwrap();
    vault.change_slot(SlotId(0), &slot(&passphrase("two"), "")).unwrap();
    let promised = recorder.operation_count();
    let (mut old, mut new) = (0, 0);
    each_image(&recorder, 0, |at, image, description| {
        let locked = open(image).unwrap_or_else(|error| panic!("{error}: {description}"));
        assert!(locked.fallback().is_none(), "the first copy is always there: {description}");
        match locked.unlock(&passphrase("two")) {
            Ok(mut vault) => {
                new += 1;
                let wrong = locked.unlock(&passphrase("one")).err();
                assert!(matches!(wrong, Some(VaultError::WrongSecret { .. })), "{description}");
                // Else the old passphrase would still lie in the second copy.
                assert!(at < promised || vault.copies_agree(), "{description}");
                vault.write_copies().unwrap();
                assert!(vault.copies_agree(), "{description}");
            }
            Err(VaultError::WrongSecret { .. }) => {
                old += 1;
                assert!(at < promised, "the new passphrase was promised: {description}");
                assert!(locked.unlock(&passphrase("one")).is_ok(), "{description}");
            }
            Err(error) => panic!("{error}: {description}"),
        }
    });
    assert!(old > 2 && new > 2, "{old} {new}");
}

#[test]
fn a_change_that_fails_leaves_the_vault_usable_and_can_be_repeated() {
    for errno in [libc::EIO, libc::ENOSPC] {
        let mut failures = 0;
        for skip in 0.. {
            let recorder = CrashRecorder::new();
            create(recorder.root()).unwrap();
            let faults = Faults::default();
            let root = Box::new(faults.wrap(recorder.root()));
            let mut vault =
                Vault::open_in(location(root)).unwrap().unlock(&passphrase("one")).unwrap();
            let before = vault.config().clone();
            faults.arm(Fault::once(Operation::any, errno).after(skip).partial());
            let outcome = vault.add_slot(&slot(&passphrase("two"), "second"));
            if faults.failed() == 0 {
                assert!(outcome.is_ok());
                break;
            }
            failures += 1;
            assert!(outcome.is_err() || vault.config() != &before, "operation {skip}");
            let again = open(&recorder.durable()).unwrap();
            assert!(again.unlock(&passphrase("one")).is_ok(), "operation {skip}");
            faults.disarm();
            vault.add_slot(&slot(&passphrase("two"), "second")).unwrap();
            assert!(vault.copies_agree(), "operation {skip}");
            let again = open(&recorder.durable()).unwrap();
            assert!(again.unlock(&passphrase("two")).is_ok(), "operation {skip}");
        }
        assert!(failures > 10, "{failures}");
    }
}

#[test]
fn a_creation_that_fails_leaves_no_half_vault() {
    for skip in 0.. {
        let recorder = CrashRecorder::new();
        let faults = Faults::default();
        faults.arm(Fault::once(Operation::any, libc::ENOSPC).after(skip).partial());
        let opened = recorder.root();
        let root: Box<dyn Directory> = Box::new(faults.wrap(opened));
        let Ok(location) = Location::new(Path::new("vault"), root, None) else { continue };
        let prepared = Prepared::new(&[slot(&passphrase("one"), "first")]).unwrap();
        let outcome = Vault::create_in(location, prepared);
        if faults.failed() == 0 {
            assert!(outcome.is_ok() && skip > 10);
            break;
        }
        match open(&recorder.durable()) {
            Ok(locked) => mount(&locked.unlock(&passphrase("one")).unwrap()),
            Err(VaultError::NotAVault { .. }) => assert!(outcome.is_err(), "operation {skip}"),
            Err(error) => panic!("operation {skip}: {error}"),
        }
    }
}
