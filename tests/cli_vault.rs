//! Making a vault and managing what opens it, as a script sees it.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Ran, run, strongroom};
use tempfile::TempDir;

const CHEAP: [&str; 4] = ["--kdf-memory", "64", "--kdf-iterations", "1"];

struct Room {
    directory: TempDir,
}

impl Room {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn secret(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A vault with the passphrase "first" in slot 0.
    fn vault(&self) -> (PathBuf, PathBuf) {
        let (vault, passphrase) = (self.path("vault"), self.secret("first", "first\n"));
        let init = strongroom()
            .arg("init")
            .arg(&vault)
            .args(CHEAP)
            .arg("--no-recovery-key")
            .arg("--passphrase-file")
            .arg(&passphrase)
            .output();
        Ran::of(init.unwrap()).expect(0);
        (vault, passphrase)
    }
}

fn key(command: &str, vault: &Path, passphrase: &Path) -> Command {
    let mut key = strongroom();
    key.args(["key", command]).arg(vault).arg("--passphrase-file").arg(passphrase).arg("--json");
    key
}

/// Whether the secret opens the vault, asked by a change that changes nothing: removing a slot
/// that does not exist.
fn opens(vault: &Path, secret: &[&str]) -> bool {
    let mut remove = strongroom();
    remove.args(["key", "remove"]).arg(vault).args(["4000000000", "--yes"]).args(secret);
    match run(&mut remove).code {
        Some(25) => true,
        Some(10) => false,
        other => panic!("{other:?}"),
    }
}

fn slots(vault: &Path) -> Vec<(u64, String, String)> {
    let list = run(strongroom().args(["key", "list", "--json"]).arg(vault)).expect(0).result();
    list["slots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| {
            let text = |field: &str| slot[field].as_str().unwrap().to_owned();
            (slot["slot"].as_u64().unwrap(), text("kind"), text("label"))
        })
        .collect()
}

fn with_input(command: &mut Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

#[test]
fn without_a_terminal_the_recovery_key_must_go_somewhere() {
    let room = Room::new();
    let passphrase = room.secret("passphrase", "secret");
    let vault = room.path("vault");
    let mut init = strongroom();
    init.arg("init").arg(&vault).arg("--passphrase-file").arg(&passphrase).args(CHEAP);
    let refused = run(&mut init).expect(2);
    assert!(refused.stderr.contains("--recovery-key-out"), "{}", refused.stderr);
    assert!(!vault.exists(), "nothing was made");
}

#[test]
fn a_recovery_key_goes_into_a_new_file_of_its_owner_and_opens_the_vault() {
    let room = Room::new();
    let passphrase = room.secret("passphrase", "secret");
    let (vault, words) = (room.path("vault"), room.path("words"));
    let init = |vault: &Path| {
        let mut init = strongroom();
        init.arg("init").arg(vault).args(CHEAP).arg("--passphrase-file").arg(&passphrase);
        init.arg("--recovery-key-out").arg(&words);
        run(&mut init)
    };
    let made = init(&vault).expect(0);
    assert_eq!(fs::metadata(&words).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&words).unwrap();
    assert_eq!(text.split_whitespace().count(), 24);
    assert!(!made.stdout.contains(text.trim()) && !made.stderr.contains(text.trim()));
    assert!(opens(&vault, &["--recovery-key-file", words.to_str().unwrap()]));
    // It overwrites nothing, and then makes no vault either.
    let other = room.path("other");
    init(&other).expect(15);
    assert!(!other.exists());
    assert_eq!(fs::read_to_string(&words).unwrap(), text);
}

#[test]
fn a_vault_is_made_only_where_nothing_is() {
    let room = Room::new();
    let (vault, passphrase) = room.vault();
    let full = room.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "content").unwrap();
    for (path, word) in [(&vault, "a vault already"), (&full, "not empty")] {
        let mut init = strongroom();
        init.arg("init").arg(path).arg("--passphrase-file").arg(&passphrase);
        let refused = run(init.arg("--no-recovery-key").args(CHEAP)).expect(15);
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
    assert_eq!(fs::read_to_string(full.join("file")).unwrap(), "content");
    assert!(opens(&vault, &["--passphrase-file", passphrase.to_str().unwrap()]));
}

#[test]
fn slots_are_added_changed_and_removed() {
    let room = Room::new();
    let (vault, first) = room.vault();
    let second = room.secret("second", "second");
    let third = room.secret("third", "third");
    let file = room.path("key-file");
    let opened_by = |option: &str, path: &Path| opens(&vault, &[option, path.to_str().unwrap()]);

    let mut add = key("add", &vault, &first);
    add.arg("--new-passphrase-file").arg(&second).args(CHEAP).args(["--label", "laptop"]);
    assert_eq!(run(&mut add).expect(0).result()["slot"], 1);
    let mut add = key("add", &vault, &second);
    run(add.arg("--generate-key-file").arg(&file).args(["--label", "server"])).expect(0);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let expected = [(0, "passphrase", ""), (1, "passphrase", "laptop"), (2, "key-file", "server")];
    let expected: Vec<_> =
        expected.into_iter().map(|(id, kind, label)| (id, kind.into(), label.into())).collect();
    assert_eq!(slots(&vault), expected);
    assert!(opened_by("--passphrase-file", &first) && opened_by("--passphrase-file", &second));
    assert!(opened_by("--key-file", &file));

    // Without a number, the slot that the secret opens; the label stays.
    let mut change = key("change", &vault, &second);
    run(change.arg("--new-passphrase-file").arg(&third).args(CHEAP)).expect(0);
    assert_eq!(slots(&vault), expected);
    assert!(opened_by("--passphrase-file", &third) && !opened_by("--passphrase-file", &second));
    // Another kind does not go into it.
    let mut change = key("change", &vault, &third);
    run(change.arg("1").arg("--new-key-file").arg(&file)).expect(25);

    for slot in ["0", "2"] {
        // Without a terminal it wants --yes.
        run(key("remove", &vault, &third).arg(slot)).expect(23);
        run(key("remove", &vault, &third).args([slot, "--yes"])).expect(0);
    }
    assert!(!opened_by("--passphrase-file", &first));
    let last = run(key("remove", &vault, &third).args(["1", "--yes"])).expect(25);
    assert_eq!(last.result()["error"], "key-slot");
    assert!(opened_by("--passphrase-file", &third));
}

#[test]
fn a_new_recovery_key_takes_the_place_of_the_old_one() {
    let room = Room::new();
    let (vault, first) = room.vault();
    let words: Vec<PathBuf> = ["one", "two"].iter().map(|name| room.path(name)).collect();
    for path in &words {
        run(key("recovery", &vault, &first).arg("--recovery-key-out").arg(path)).expect(0);
    }
    assert_eq!(slots(&vault).len(), 2);
    assert!(!opens(&vault, &["--recovery-key-file", words[0].to_str().unwrap()]));
    assert!(opens(&vault, &["--recovery-key-file", words[1].to_str().unwrap()]));
    // Words that are none say which.
    let bad = room.secret("bad", "abandon ".repeat(23) + "abandn");
    let mut remove = strongroom();
    remove.args(["key", "remove"]).arg(&vault).args(["9", "--recovery-key-file"]).arg(bad);
    let refused = run(&mut remove).expect(10);
    assert!(refused.stderr.contains("word 24"), "{}", refused.stderr);
}

#[test]
fn passphrases_come_from_everywhere_but_arguments_and_environment() {
    let room = Room::new();
    let (vault, first) = room.vault();
    let path = first.to_str().unwrap();
    assert!(opens(&vault, &["--passphrase-command", &format!("cat {path}")]));
    let remove = |arguments: &[&str]| {
        let mut remove = strongroom();
        remove.args(["key", "remove"]).arg(&vault).args(["4000000000", "--yes"]).args(arguments);
        remove
    };
    with_input(&mut remove(&[]), "first\n").expect(25);
    with_input(&mut remove(&["--passphrase-file", "-"]), "first").expect(25);
    with_input(&mut remove(&["--passphrase-fd", "0"]), "first\n").expect(25);
    with_input(&mut remove(&[]), "wrong\n").expect(10);
    with_input(&mut remove(&[]), "").expect(24);
    // A descriptor that the shell opened.
    let program = remove(&[]).get_program().to_owned();
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 7<\"$0\""]).arg(&first).arg(program);
    shell.args(["key", "remove"]).arg(&vault).args(["4000000000", "--yes", "--passphrase-fd", "7"]);
    run(&mut shell).expect(25);
    run(&mut remove(&["--passphrase-fd", "99"])).expect(24);
    // A systemd credential.
    let credentials = room.path("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::copy(&first, credentials.join("strongroom.passphrase")).unwrap();
    run(remove(&[]).env("CREDENTIALS_DIRECTORY", &credentials)).expect(25);
    // One source at a time.
    run(&mut remove(&["--passphrase-file", path, "--passphrase-fd", "7"])).expect(2);
    run(&mut remove(&["--passphrase-command", "exit 3"])).expect(30);
    run(&mut remove(&["--passphrase-file", "/nonexistent"])).expect(1);
}

#[test]
fn a_secret_that_others_may_read_is_warned_of() {
    let room = Room::new();
    let (vault, first) = room.vault();
    fs::set_permissions(&first, fs::Permissions::from_mode(0o644)).unwrap();
    let mut remove = key("remove", &vault, &first);
    let warned = run(remove.args(["9", "--yes"])).expect(25);
    assert!(warned.stderr.contains("strongroom: warning: other users may read"));
    let line: serde_json::Value =
        serde_json::from_str(warned.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(line["type"], "warning");
}

#[test]
fn a_vault_tells_what_it_is_without_a_secret() {
    let room = Room::new();
    let (vault, _) = room.vault();
    let told = run(strongroom().args(["info", "--json"]).arg(&vault)).expect(0).result();
    assert_eq!((&told["format_version"], &told["authenticated"]), (&1.into(), &false.into()));
    assert_eq!(told["slots"][0]["derivation"]["memory_kib"], 64 * 1024);
    let text = run(strongroom().arg("info").arg(&vault)).expect(0).stdout;
    assert!(text.contains("passphrase") && text.contains(told["id"].as_str().unwrap()), "{text}");
    for (name, code) in [("missing", 11), ("first", 11), (".", 11)] {
        run(strongroom().arg("info").arg(room.path(name))).expect(code);
    }
}

#[test]
fn a_configuration_may_lie_apart() {
    let room = Room::new();
    let passphrase = room.secret("passphrase", "secret");
    let (vault, config) = (room.path("vault"), room.path("apart.json"));
    let mut init = strongroom();
    init.arg("init").arg(&vault).arg("--config").arg(&config).args(CHEAP);
    run(init.arg("--no-recovery-key").arg("--passphrase-file").arg(&passphrase)).expect(0);
    assert!(config.exists() && !vault.join("vault.json").exists());
    run(strongroom().arg("info").arg(&vault)).expect(11);
    run(strongroom().arg("info").arg(&vault).arg("--config").arg(&config)).expect(0);
}

#[test]
fn damage_and_forgery_of_the_configuration_have_codes_of_their_own() {
    let room = Room::new();
    let (vault, first) = room.vault();
    let config = vault.join("vault.json");
    let whole = fs::read_to_string(&config).unwrap();
    let code_with = |text: &str| {
        fs::write(&config, text).unwrap();
        run(key("remove", &vault, &first).args(["4000000000", "--yes"])).code
    };
    assert_eq!(code_with(&whole), Some(25));
    assert_eq!(code_with(&whole[..whole.len() / 2]), Some(12));
    assert_eq!(code_with(""), Some(12));
    let altered = code_with(&whole.replacen("\"created\": 1", "\"created\": 2", 1));
    assert!(altered != Some(25) && altered != Some(10), "{altered:?}");
    assert_eq!(code_with(&whole), Some(25), "the vault is unharmed");
}

/// A terminal, by script(1): what is asked, what is shown, and that what is typed is not.
#[test]
fn on_a_terminal_secrets_are_asked_for_and_the_recovery_key_is_shown() {
    let room = Room::new();
    let vault = room.path("vault");
    let program = strongroom().get_program().to_str().unwrap().to_owned();
    let mut talk = Talk::begin(&format!(
        "{program} init {} --kdf-memory 64 --kdf-iterations 1",
        vault.display()
    ));
    talk.answer("New passphrase for the vault", "typed secret");
    talk.answer("Once more", "typed secret");
    talk.answer("type words", "wrong words");
    talk.answer("That is not what stands there", "skip");
    let said = talk.end(0);
    assert!(!said.contains("typed secret"), "{said}");
    assert_eq!(slots(&vault).len(), 2);
    let numbered: Vec<&str> = said.split_whitespace().skip_while(|word| *word != "1").collect();
    let words: Vec<&str> = numbered.chunks(2).take(24).map(|pair| pair[1]).collect();
    let words = room.secret("words", words.join(" "));
    assert!(opens(&vault, &["--recovery-key-file", words.to_str().unwrap()]), "{said}");

    // A typing error deserves another try, three of them an end.
    let remove = format!("{program} key remove {} 7", vault.display());
    let mut talk = Talk::begin(&remove);
    talk.answer("Passphrase of the vault", "wrong");
    talk.answer("try again", "typed secret");
    talk.end(25);
    let mut talk = Talk::begin(&remove);
    talk.answer("Passphrase of the vault", "wrong");
    talk.answer("try again", "wrong");
    talk.answer("try again", "wrong");
    talk.end(10);
    // What is asked may be refused.
    let mut talk = Talk::begin(&remove.replace(" 7", " 1"));
    talk.answer("Passphrase of the vault", "typed secret");
    talk.answer("Remove key slot 1?", "n");
    talk.end(23);
}

/// A program on a terminal of its own.
struct Talk {
    child: std::process::Child,
    heard: std::sync::mpsc::Receiver<u8>,
    said: String,
    /// Up to where `said` was answered.
    answered: usize,
}

impl Talk {
    fn begin(command: &str) -> Self {
        let mut child = Command::new("script")
            .args(["-qec", command, "/dev/null"])
            .env_remove("CREDENTIALS_DIRECTORY")
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1), of util-linux");
        let output = child.stdout.take().unwrap();
        let (sender, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            std::io::Read::bytes(output).map_while(Result::ok).all(|byte| sender.send(byte).is_ok())
        });
        Self { child, heard, said: String::new(), answered: 0 }
    }

    /// Waits for the question, then for silence: it is asked before the echo is switched off.
    #[track_caller]
    fn answer(&mut self, question: &str, answer: &str) {
        let silence = std::time::Duration::from_millis(300);
        while !self.said[self.answered..].contains(question) {
            let byte = self.heard.recv_timeout(support::PATIENCE);
            self.said
                .push(char::from(byte.unwrap_or_else(|_| panic!("{question}: {}", self.said))));
        }
        while let Ok(byte) = self.heard.recv_timeout(silence) {
            self.said.push(char::from(byte));
        }
        self.answered = self.said.len();
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(answer.as_bytes()).unwrap();
        input.write_all(b"\n").unwrap();
    }

    #[track_caller]
    fn end(mut self, code: i32) -> String {
        let status = self.child.wait().unwrap();
        self.said.extend(self.heard.iter().map(char::from));
        assert_eq!(status.code(), Some(code), "{}", self.said);
        self.said
    }
}
