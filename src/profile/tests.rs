//! Profiles: those of the seeds' apps, every complaint, drafts.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn environment() -> Environment {
    Environment { home: Some("/home/ada".into()), variables: BTreeMap::new() }
}

fn parse(text: &str) -> Result<Profile, Error> {
    Profile::parse(text, Path::new("p.toml"), &environment())
}

fn shipped() -> Library {
    Library::new(vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/profiles")])
}

const LEAST: &str = "name = \"app\"\ndata = \"/srv/app\"\n";

#[test]
fn the_shipped_profiles_are_valid() {
    let listed = shipped().list(&environment()).unwrap();
    let names: Vec<_> = listed.iter().map(|listed| listed.name.as_str()).collect();
    assert_eq!(names, ["aico", "alice", "angles-ai", "personal-ai-chatbot", "whisperengine"]);
    for listed in listed {
        let profile = listed.profile.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(profile.name, listed.name);
        assert!(profile.vault.is_some(), "{}", listed.name);
        assert!(!profile.components.is_empty());
        // The resolved profile is a profile, too, and the same one.
        let text = profile.to_toml().unwrap();
        let again =
            parse(&resolved_as_profile(&text)).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again.data, profile.data);
    }
}

/// What `to_toml` writes has fields that a profile states otherwise.
fn resolved_as_profile(text: &str) -> String {
    let mut table: toml::Table = text.parse().unwrap();
    for plan in table["backup"]["plan"].as_array_mut().unwrap() {
        let plan = plan.as_table_mut().unwrap();
        plan.remove("schedule");
        for list in ["include", "exclude"] {
            plan.remove(list);
        }
    }
    if table["switch"].as_str() == Some("in-place") {
        table.remove("mount");
    }
    table.to_string()
}

#[test]
fn aico() {
    let (profile, _) = shipped().read("aico", &environment()).unwrap();
    assert_eq!(profile.data, Path::new("/home/ada/.local/share/aico/data"));
    assert_eq!(profile.mount, Path::new("/home/ada/.local/share/aico/private"));
    assert_eq!(
        profile.app.stop.as_ref().unwrap().words(),
        ["systemctl", "--user", "stop", "aico.service"]
    );
    assert_eq!(profile.configs[0].file, Path::new("/home/ada/.local/share/aico/config/core.yaml"));
    let libsql = profile.component("libsql").unwrap();
    assert!(
        libsql.path.matches(Path::new("aico.db")) && libsql.path.matches(Path::new("aico.db.salt"))
    );
    assert!(!libsql.path.matches(Path::new("x/aico.db")));
    let semantic = profile.component("semantic").unwrap();
    assert!(semantic.path.matches(Path::new("memory/semantic/chroma.sqlite3")));
    assert!(!semantic.path.matches(Path::new("memory/semantics")));
    assert_eq!(
        profile.backup.plans[0].schedule.as_ref().unwrap().when.calendar(),
        "Sun *-*-* 02:00:00"
    );
    assert_eq!(profile.backup.plans[1].kind, BackupType::Incremental);
    assert_eq!(profile.backup.plans[1].retention.keep_weekly, Some(4));
    assert!(
        matches!(&profile.backup.plans[0].include[0], Selector::Component(name) if name == "libsql")
    );
    assert!(profile.is_sensitive(Path::new("aico.db.salt")));
    assert!(profile.is_sensitive(Path::new("/anywhere/.env")));
    assert!(!profile.is_sensitive(Path::new("aico.db")));
}

#[test]
fn whisperengine() {
    let mut environment = environment();
    environment.variables.insert("WHISPERENGINE_HOME".to_owned(), "/srv/we".to_owned());
    let (profile, _) = shipped().read("whisperengine", &environment).unwrap();
    let dump = profile.component("postgres").unwrap().dump.as_ref().unwrap();
    let values = profile.placeholders(&profile.data);
    let words = dump.command.with(&values).unwrap();
    assert_eq!(&words[..4], ["docker", "compose", "--project-directory", "/srv/we"]);
    assert_eq!(profile.app.health.as_ref().unwrap().timeout, Duration::from_secs(120));
    assert_eq!(profile.backup.plans.len(), 1);
    assert_eq!(profile.backup.plans[0].name, "default");
}

#[test]
fn the_least_profile() {
    let profile = parse(LEAST).unwrap();
    assert_eq!(profile.mount, Path::new("/srv/app.private"));
    assert_eq!(profile.switch, Switch::Repoint);
    assert_eq!(profile.backup.plans.len(), 1);
    assert!(profile.backup.encrypt);
    let in_place = parse(&format!("{LEAST}switch = \"in-place\"\n")).unwrap();
    assert_eq!(in_place.mount, in_place.data);
}

#[test]
fn complaints_name_the_line_and_the_key() {
    let cases = [
        ("nam = \"x\"", 3, "unknown field `nam`"),
        ("switch = \"magic\"", 3, "unknown variant `magic`"),
        ("vault = \"relative\"", 3, "vault: relative is relative, and there is no root"),
        ("vault = \"$NOWHERE/x\"", 3, "vault: the variable NOWHERE is not set"),
        ("vault = \"/srv/app/vault\"", 3, "vault: /srv/app/vault lies in the data directory"),
        ("mount = \"/srv/app\"", 3, "mount: is the data directory"),
        ("mount = \"/mnt\"\nswitch = \"in-place\"", 3, "mount: with switch = \"in-place\""),
        ("unlock = {}", 3, "unlock: must tell one source"),
        ("unlock = { keyring = \"\", key-file = \"/k\" }", 3, "unlock: must tell one source"),
        ("unlock = { passphrase = \"no\" }", 3, "unknown field `passphrase`"),
        ("exclude = [\n\"ok\",\n\"../x\"]", 5, "exclude: \"../x\" leads out"),
        ("exclude = [\"/x\"]", 3, "exclude: \"/x\" is not relative"),
        ("exclude = [\"a[\"]", 3, "exclude: "),
        ("user = \"nobody-of-that-name\"", 3, "user: there is no such user"),
        ("[app]\nstop = \"systemctl stop x\"", 4, "invalid type"),
        ("[app]\nstop = []", 4, "app.stop: a command needs a program"),
        ("[app]\nstop = [\"x\", \"{what}\"]", 4, "app.stop: \"{what}\": {what} has no value here"),
        ("[app]\nunit = \"a.service\"\nstart = [\"x\"]", 4, "app.unit: there are commands besides"),
        ("[app]\nuser-unit = true", 4, "app.user-unit: there is no unit"),
        ("[app]\nunit = \"--version\"", 4, "app.unit: is no unit's name"),
        ("[app]\nhealth = { command = [\"x\"], timeout = \"1y\" }", 4, "app.health.timeout: "),
        (
            "[[component]]\nname = \"A\"\nkind = \"files\"\npath = \"x\"",
            4,
            "component.name: \"A\" is no name",
        ),
        (
            "[[component]]\nname = \"a\"\nkind = \"oracle\"\npath = \"x\"",
            5,
            "unknown variant `oracle`",
        ),
        (
            "[[component]]\nname = \"a\"\nkind = \"files\"\npath = \"x\"\n[[component]]\nname = \"a\"\nkind = \"files\"\npath = \"x\"",
            8,
            "component.name: \"a\" is the name of another component",
        ),
        (
            "[[component]]\nname = \"a\"\nkind = \"sqlite\"\npath = \"x\"\ndump = { command = [\"x\"], file = \"y\" }",
            7,
            "component.dump: sqlite is no server",
        ),
        (
            "[[component]]\nname = \"a\"\nkind = \"redis\"\npath = \"x\"\ndump = { command = [\"x\"], file = \"a/b\" }",
            7,
            "component.dump.file: \"a/b\" is no file name",
        ),
        ("[[config]]\nfile = \"/x\"\nset = { a = \"{oops}\" }", 5, "config.set: "),
        (
            "[backup]\ncompression = \"lz4\"\ncompression-level = 3",
            5,
            "this compression has no levels",
        ),
        ("[backup]\ncompression-level = 23", 4, "must be 1 to 22"),
        ("[backup]\nretention = { keep-within = \"soon\" }", 4, "retention.keep-within: "),
        ("[backup]\nretention = { keep = -1 }", 4, "invalid value"),
        (
            "[backup]\nschedule = { time = \"02:00\" }",
            4,
            "schedule: needs a frequency or a calendar",
        ),
        (
            "[backup]\nschedule = { frequency = \"daily\", time = \"25:00\" }",
            4,
            "schedule: \"25:00\" is no time",
        ),
        ("[backup]\nschedule = { calendar = \"daily\", time = \"02:00\" }", 4, "takes no time"),
        (
            "[backup]\nschedule = { frequency = \"daily\" }\n[[backup.plan]]\nname = \"x\"",
            4,
            "backup.schedule: belongs into the plans",
        ),
        (
            "[[backup.plan]]\nname = \"x\"\n[[backup.plan]]\nname = \"x\"",
            6,
            "the name of another plan",
        ),
        ("[events]\nwebhook = \"ftp://x\"", 4, "events.webhook: is no http or https URL"),
        ("[events]\non = [\"backup-done\"]", 4, "unknown variant `backup-done`"),
        ("= 1", 3, ""),
    ];
    for (text, line, message) in cases {
        let error = parse(&format!("{LEAST}{text}\n")).unwrap_err().to_string();
        let wanted = format!("p.toml:{line}: ");
        assert!(error.starts_with(&wanted) && error.contains(message), "{text}\n{error}");
    }
    let error = parse("data = \"/x\"\n").unwrap_err().to_string();
    assert!(error.contains("missing field `name`"), "{error}");
}

#[test]
fn a_compression_has_its_own_levels() {
    let level = |text: &str| {
        parse(&format!("{LEAST}[backup]\n{text}\n")).map(|profile| profile.backup.compression_level)
    };
    assert_eq!(level("compression = \"zstd\"").unwrap(), None);
    for (compression, most) in [("zstd", 22), ("gzip", 9)] {
        let level = |number: u8| {
            level(&format!("compression = \"{compression}\"\ncompression-level = {number}"))
        };
        assert_eq!(level(1).unwrap(), Some(1));
        assert_eq!(level(most).unwrap(), Some(most));
        assert!(level(0).is_err() && level(most + 1).is_err(), "{compression}");
    }
}

#[test]
fn a_vault_may_be_unlocked_by_itself() {
    let unlock = |text: &str| parse(&format!("{LEAST}unlock = {{ {text} }}\n")).unwrap().unlock;
    assert_eq!(unlock("key-file = \"~/k\""), Some(Unlock::KeyFile("/home/ada/k".into())));
    assert_eq!(unlock("keyring = \"\""), Some(Unlock::Keyring(String::new())));
    assert_eq!(unlock("secret-service = true"), Some(Unlock::SecretService(true)));
    let command = unlock("passphrase-command = [\"pass\", \"show\", \"{vault}\"]");
    assert!(
        matches!(command, Some(Unlock::PassphraseCommand(words)) if words.words()[0] == "pass")
    );
    assert_eq!(parse(LEAST).unwrap().unlock, None);
}

#[test]
fn values_to_set_have_placeholders() {
    let text = format!(
        "{LEAST}vault = \"/v\"\n[[config]]\nfile = \"/c.yaml\"\nset = {{ \"a.b\" = \"{{mount}}/x\", c = \"{{{{}}}}\" }}\n"
    );
    let profile = parse(&text).unwrap();
    let set = profile.configs[0].set_with(&profile.placeholders(&profile.data)).unwrap();
    assert_eq!(set["a.b"], "/srv/app.private/x");
    assert_eq!(set["c"], "{}");
}

#[test]
fn profiles_are_found_by_name() {
    let (own, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(own.path().join("app.toml"), LEAST).unwrap();
    fs::write(own.path().join("broken.toml"), "x").unwrap();
    fs::write(own.path().join("notes.txt"), "x").unwrap();
    fs::write(shared.path().join("app.toml"), LEAST.replace("app", "other")).unwrap();
    fs::write(shared.path().join("whisper.toml"), LEAST).unwrap();
    let missing = own.path().join("missing");
    let library = Library::new(vec![own.path().into(), missing, shared.path().into()]);
    let listed = library.list(&environment()).unwrap();
    let names: Vec<_> = listed.iter().map(|l| (l.name.as_str(), l.profile.is_ok())).collect();
    assert_eq!(names, [("app", true), ("broken", false), ("whisper", true)]);
    assert_eq!(library.find("app").unwrap(), own.path().join("app.toml"));
    assert_eq!(library.find("./x").unwrap(), Path::new("./x"));
    let error = library.find("wisper").unwrap_err();
    assert!(
        matches!(&error, Error::NotFound { similar: Some(name), .. } if name == "whisper"),
        "{error}"
    );
    let error = library.find("zzz").unwrap_err();
    assert!(matches!(&error, Error::NotFound { similar: None, .. }), "{error}");
}

#[test]
fn a_profile_is_compared_with_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("notes"), "x").unwrap();
    let text = format!(
        "name = \"app\"\ndata = \"{0}/data\"\nvault = \"{0}/vault\"\nexclude = [\"old\"]
[app]\nstop = [\"sh\", \"-c\", \"true\"]\nstart = [\"no-such-program-here\"]
[[component]]\nname = \"main\"\nkind = \"sqlite\"\npath = \"main.db\"
[[component]]\nname = \"cache\"\nkind = \"lmdb\"\npath = \"cache\"\nessential = false
[[component]]\nname = \"wrong\"\nkind = \"chroma\"\npath = \"wrong.db\"
[[component]]\nname = \"notes\"\nkind = \"files\"\npath = \"notes\"
[[component]]\nname = \"images\"\nkind = \"files\"\npath = \"images\"
[[config]]\nfile = \"{0}/missing.yaml\"
[[config]]\nfile = \"{0}/optional.yaml\"\noptional = true\n",
        directory.path().display()
    );
    let file = directory.path().join("p.toml");
    fs::write(&file, &text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let profile = parse(&text).unwrap();
    let stores = [
        (ComponentKind::Sqlite, PathBuf::from("main.db")),
        (ComponentKind::Sqlite, PathBuf::from("wrong.db")),
        (ComponentKind::DuckDb, PathBuf::from("extra.duckdb")),
        (ComponentKind::Sqlite, PathBuf::from("old/x.db")),
    ];
    let findings = check(&profile, &file, &stores);
    let texts: Vec<_> = findings
        .iter()
        .map(|finding| format!("{:?} {}: {}", finding.severity, finding.key, finding.message))
        .collect();
    let expected = [
        format!("Error config: {}/missing.yaml: ", directory.path().display()),
        "Error app.start: the program \"no-such-program-here\" is not there".to_owned(),
        "Warning component wrong: wrong.db is sqlite, not chroma".to_owned(),
        "Warning component images: images is not there".to_owned(),
        "Warning component: extra.duckdb (duckdb) belongs to no component".to_owned(),
        "Note component cache: no lmdb store was found at cache".to_owned(),
    ];
    assert_eq!(texts.len(), expected.len(), "{texts:#?}");
    for (text, start) in texts.iter().zip(&expected) {
        assert!(text.starts_with(start), "{text}\n{start}");
    }

    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let findings = check(&profile, &file, &stores);
    assert!(findings[0].message.contains("can be written by others"), "{findings:?}");
}

#[test]
fn drafts_are_profiles() {
    let component = |kind, path: &str| DraftComponent { kind, path: path.into() };
    let text = draft(&Draft {
        name: "My App! [2]".to_owned(),
        data: "/home/ada/my \"app\"".into(),
        home: Some("/home/ada".into()),
        components: vec![
            component(ComponentKind::Sqlite, "alice.db"),
            component(ComponentKind::Chroma, "memory/alice"),
            component(ComponentKind::Lmdb, "odd [name]*/data.mdb"),
            component(ComponentKind::RocksDb, ""),
        ],
        configs: vec!["/home/ada/.config/app.yaml".into()],
    })
    .unwrap();
    let profile = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(profile.name, "my-app-2");
    assert_eq!(profile.data, Path::new("/home/ada/my \"app\""));
    assert_eq!(profile.vault.unwrap(), Path::new("/home/ada/my \"app\".vault"));
    let names: Vec<_> = profile.components.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["alice", "alice-2", "data", "rocksdb"]);
    assert!(profile.components[2].path.matches(Path::new("odd [name]*/data.mdb")));
    assert!(!profile.components[2].path.matches(Path::new("odd nx/data.mdb")));
    assert!(profile.components[3].path.matches(Path::new("CURRENT")));
    assert_eq!(profile.switch, Switch::Repoint);
    for data in ["/srv/x/", "/srv/x/.", "/srv/./x//"] {
        let text = draft(&Draft { data: data.into(), ..Draft::default() }).unwrap();
        let vault = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}")).vault;
        assert_eq!(vault.unwrap(), Path::new("/srv/x.vault"), "{data}");
    }
    let bare = draft(&Draft { name: "é".to_owned(), data: "/srv/x".into(), ..Draft::default() });
    assert_eq!(parse(&bare.unwrap()).unwrap().name, "app");
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_profile_or_not(text in "(name|data|vault|=|\"|/x|~|\\[|\\]|app|component|kind|sqlite|\n| |\\{|\\}|1){0,40}") {
        let _ = parse(&text);
        let _ = parse(&format!("{LEAST}{text}"));
    }

    #[test]
    fn drafts_of_any_name_are_profiles(name: String, path in "[^/\0]{1,10}(/[^/\0]{1,10}){0,2}") {
        let draft = draft(&Draft {
            name,
            data: format!("/srv/{path}").into(),
            home: None,
            components: vec![DraftComponent { kind: ComponentKind::Sqlite, path: path.clone().into() }],
            configs: Vec::new(),
        });
        let relative = !path.split('/').any(|part| part == "..") && !path.starts_with('~');
        if let Ok(text) = draft
            && relative
        {
            let profile = parse(&text);
            proptest::prop_assert!(profile.is_ok(), "{}\n{}", profile.unwrap_err(), text);
        }
    }
}
