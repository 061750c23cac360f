//! Passphrases that the kernel's keyring and the desktop's Secret Service keep.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, reason = "a test that is not run says so")]

mod support;

use std::fs;
use std::process::Command;

use linux_keyutils::{KeyError, KeyRing, KeyRingIdentifier};
use support::{Place, run, strongroom, wait_until};

/// Opens the vault without mounting it.
fn fsck(place: &Place, option: &str) -> Command {
    let mut command = strongroom();
    command.arg("fsck").arg(&place.vault).arg(option);
    command
}

fn id(place: &Place) -> String {
    let info = run(strongroom().args(["info", "--json"]).arg(&place.vault)).expect(0);
    info.result()["id"].as_str().unwrap().to_owned()
}

/// Whether this system lets programs use the kernel's keyring; some containers don't.
fn keyring_is_here(test: &str) -> bool {
    match KeyRing::from_special_id(KeyRingIdentifier::User, true) {
        Ok(_) => true,
        Err(KeyError::AccessDenied | KeyError::PermissionDenied | KeyError::Unknown(38)) => {
            eprintln!("{test}: not run, this system keeps programs from the kernel's keyring");
            false
        }
        Err(error) => panic!("{test}: the kernel's keyring: {error:?}"),
    }
}

#[test]
fn the_keyring_keeps_a_passphrase() {
    let place = Place::new();
    if !keyring_is_here("the_keyring_keeps_a_passphrase") {
        return;
    }
    let none = run(&mut fsck(&place, "--keyring")).expect(24);
    assert!(none.stderr.contains("the keyring has no key"), "{}", none.stderr);
    let mut store = strongroom();
    store.args(["key", "store"]).arg(&place.vault).arg("keyring").arg("--passphrase-file");
    store.arg(&place.passphrase);
    run(&mut store).expect(0);
    run(&mut fsck(&place, "--keyring")).expect(0);
    run(&mut fsck(&place, &format!("--keyring=strongroom:{}", id(&place)))).expect(0);
    // Another passphrase takes its place; one that opens nothing does not.
    run(&mut store).expect(0);
    fs::write(&place.passphrase, "wrong").unwrap();
    run(&mut store).expect(10);
    run(&mut fsck(&place, "--keyring")).expect(0);
    // After its time it is gone.
    fs::write(&place.passphrase, "correct horse").unwrap();
    run(store.args(["--timeout", "1s"])).expect(0);
    wait_until("the key to expire", || run(&mut fsck(&place, "--keyring")).code == Some(24));
    let mut store = strongroom();
    store.args(["key", "store"]).arg(&place.vault).arg("keyring").arg("--passphrase-file");
    run(store.arg(&place.passphrase)).expect(0);
    let forget = || {
        let mut command = strongroom();
        command.args(["key", "forget", "--json"]).arg(&place.vault).arg("keyring");
        run(&mut command).expect(0).result()["forgotten"].as_bool().unwrap()
    };
    assert!(forget());
    assert!(!forget());
    run(&mut fsck(&place, "--keyring")).expect(24);
}

#[test]
fn only_passphrases_are_kept() {
    let place = Place::new();
    let key = place.root().join("key");
    fs::write(&key, [7; 64]).unwrap();
    let mut store = strongroom();
    store.args(["key", "store"]).arg(&place.vault).args(["keyring", "--key-file"]).arg(&key);
    let refused = run(&mut store).expect(2);
    assert!(refused.stderr.contains("only a passphrase"), "{}", refused.stderr);
}

/// GNOME's keyring daemon on a bus of its own. Only the environment variable
/// `STRONGROOM_TEST_WITHOUT_SECRET_SERVICE`, set to the reason, lets the test pass without one.
#[cfg(feature = "secret-service")]
#[test]
fn the_secret_service_keeps_a_passphrase() {
    let there = ["gnome-keyring-daemon", "dbus-run-session"]
        .iter()
        .all(|program| Command::new(program).arg("--version").output().is_ok());
    if !there {
        match std::env::var("STRONGROOM_TEST_WITHOUT_SECRET_SERVICE") {
            Ok(reason) => return eprintln!("the Secret Service: not run: {reason}"),
            Err(_) => panic!("this test needs the packages gnome-keyring and dbus"),
        }
    }
    let place = Place::new();
    let script = r#"set -e
        program=$0; vault=$1; passphrase=$2
        printf login | gnome-keyring-daemon --unlock --components=secrets >/dev/null
        "$program" fsck "$vault" --secret-service && exit 60 || [ $? = 24 ]
        "$program" key store "$vault" secret-service --passphrase-file "$passphrase"
        "$program" fsck "$vault" --secret-service
        "$program" key store "$vault" secret-service --passphrase-file "$passphrase"
        "$program" key forget "$vault" secret-service
        "$program" fsck "$vault" --secret-service && exit 61 || [ $? = 24 ]
        echo all done"#;
    let home = place.root().join("home");
    fs::create_dir(&home).unwrap();
    let program = strongroom().get_program().to_owned();
    let mut session = Command::new("dbus-run-session");
    session.args(["--", "sh", "-c", script]).arg(program).arg(&place.vault).arg(&place.passphrase);
    session.env("HOME", &home).env_remove("XDG_DATA_HOME").env("XDG_RUNTIME_DIR", &home);
    let ran = run(&mut session).expect(0);
    assert!(ran.stdout.ends_with("all done\n"), "{}\n{}", ran.stdout, ran.stderr);

    // Without a bus it is told so.
    let mut alone = fsck(&place, "--secret-service");
    alone.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent").env("HOME", &home);
    let failed = run(&mut alone).expect(24);
    assert!(failed.stderr.contains("the Secret Service"), "{}", failed.stderr);
}
