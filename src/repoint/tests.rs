//! Whole files: real applications' layouts, other languages' habits, and random ones.

#![allow(clippy::unwrap_used)]

use super::*;

const OLD: &str = "/home/ada/.local/share/aico/data";
const NEW: &str = "/mnt/vault";

fn relocation() -> Relocation {
    Relocation::new(OLD, NEW)
}

fn context() -> Context {
    Context {
        home: Some("/home/ada".into()),
        directory: Some("/home/ada/.local/share/aico".into()),
        ..Context::default()
    }
}

fn run(text: &str, format: Format) -> Repointed {
    repoint(text.as_bytes(), format, &relocation(), &context()).unwrap()
}

/// Edits a text and compares the result, and takes the edits back.
#[track_caller]
fn becomes(format: Format, text: &str, new: &str) {
    let result = run(text, format);
    assert_eq!(String::from_utf8_lossy(&result.bytes), new);
    check_record(format, text.as_bytes(), &result);
}

#[track_caller]
fn check_record(format: Format, original: &[u8], result: &Repointed) {
    let record = result.record(format, original);
    let json = serde_json::to_string(&record).unwrap();
    let record: Record = serde_json::from_str(&json).unwrap();
    let reverted = revert(&result.bytes, &record).unwrap();
    assert_eq!(reverted.bytes, original);
    assert!(!reverted.changed_since);
    // A second run finds nothing to do.
    let again = repoint(&result.bytes, format, &relocation(), &context()).unwrap();
    assert_eq!(again.edits, []);
    for edit in &result.edits {
        assert!(original[edit.offset..].starts_with(&edit.old), "{edit:?}");
        assert_eq!(edit.line, 1 + original[..edit.offset].iter().filter(|b| **b == b'\n').count());
    }
}

struct Fixture {
    name: &'static str,
    format: Format,
    before: &'static [u8],
    after: &'static [u8],
    /// Keys of the mentions.
    mentions: &'static [&'static str],
}

macro_rules! fixture {
    ($name:literal, $format:ident, $mentions:expr) => {
        Fixture {
            name: $name,
            format: Format::$format,
            before: include_bytes!(concat!("../../tests/fixtures/repoint/", $name)),
            after: include_bytes!(concat!("../../tests/fixtures/repoint/", $name, ".expected")),
            mentions: $mentions,
        }
    };
}

fn fixtures() -> Vec<Fixture> {
    vec![
        fixture!("core.yaml", Yaml, &["system.description", "database.script"]),
        fixture!(
            "docker-compose.yml",
            Yaml,
            &[
                "x-common.environment.DATA_DIR",
                "services.whisperengine.build.args.DATA",
                "services.whisperengine.command[3]",
                "services.whisperengine.volumes[4].target",
                "services.whisperengine.volumes[5]",
                "services.postgres.environment[0]",
                "services.postgres.healthcheck.test[1]",
            ]
        ),
        fixture!(".env", Env, &["MOTD", "MULTI"]),
        fixture!("alembic.ini", Ini, &[]),
        fixture!("settings.json", Json, &["\"/home/ada/.local/share/aico/data\"", "note"]),
        fixture!("override.conf", Ini, &["Service.Environment[2]"]),
        fixture!("config.toml", Toml, &[]),
    ]
}

#[test]
fn real_files() {
    for fixture in fixtures() {
        let name = Path::new(fixture.name);
        assert_eq!(Format::detect(name, fixture.before), Some(fixture.format), "{name:?}");
        let result = repoint(fixture.before, fixture.format, &relocation(), &context())
            .unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(diff(name, fixture.after, &result.bytes), "", "{name:?}");
        let mentions: Vec<_> = result.mentions.iter().map(|mention| mention.key.as_str()).collect();
        assert_eq!(mentions, fixture.mentions, "{name:?}");
        check_record(fixture.format, fixture.before, &result);
    }
}

#[test]
fn only_the_touched_bytes_change() {
    for fixture in fixtures() {
        let result = repoint(fixture.before, fixture.format, &relocation(), &context()).unwrap();
        let mut rest = fixture.before.to_vec();
        let mut new_rest = result.bytes.clone();
        for edit in &result.edits {
            let new = edit.offset..edit.offset + edit.new.len();
            new_rest.splice(new, vec![b'?'; edit.old.len()]);
            rest[edit.offset..edit.offset + edit.old.len()].fill(b'?');
        }
        assert_eq!(rest, new_rest, "{}", fixture.name);
    }
}

#[test]
fn quoting_changes_only_where_it_must() {
    let new = Relocation::new("/data/app", "/mnt/it's a #1, \"x\"");
    let context = Context::default();
    let run = |format, text: &str| {
        let result = repoint(text.as_bytes(), format, &new, &context).unwrap();
        String::from_utf8(result.bytes).unwrap()
    };
    assert_eq!(run(Format::Yaml, "a: /data/app/x\n"), "a: '/mnt/it''s a #1, \"x\"/x'\n");
    assert_eq!(run(Format::Yaml, "a: '/data/app'\n"), "a: '/mnt/it''s a #1, \"x\"'\n");
    assert_eq!(run(Format::Yaml, "a: [\"/data/app\"]\n"), "a: [\"/mnt/it's a #1, \\\"x\\\"\"]\n");
    assert_eq!(run(Format::Json, "{\"a\":\"/data/app\"}"), "{\"a\":\"/mnt/it's a #1, \\\"x\\\"\"}");
    assert_eq!(run(Format::Json, "{'a':'/data/app'}"), "{'a':'/mnt/it\\'s a #1, \"x\"'}");
    assert_eq!(run(Format::Toml, "a = '/data/app'"), "a = \"/mnt/it's a #1, \\\"x\\\"\"");
    assert_eq!(run(Format::Toml, "a = '''/data/app'''"), "a = \"/mnt/it's a #1, \\\"x\\\"\"");
    let refused = repoint(b"A=/data/app\n", Format::Env, &new, &context);
    assert!(matches!(refused, Err(Error::Inexpressible { line: 1, .. })), "{refused:?}");
    let refused = repoint(b"[s]\na = /data/app\n", Format::Ini, &new, &context);
    assert!(matches!(refused, Err(Error::Inexpressible { line: 2, .. })), "{refused:?}");

    let spaced = Relocation::new("/data/app", "/mnt/my vault");
    let run = |format, text: &str| {
        let result = repoint(text.as_bytes(), format, &spaced, &context).unwrap();
        String::from_utf8(result.bytes).unwrap()
    };
    assert_eq!(run(Format::Env, "A=/data/app/x # c\n"), "A='/mnt/my vault/x' # c\n");
    assert_eq!(run(Format::Env, "A=/data/app/${X}\n"), "A=\"/mnt/my vault/${X}\"\n");
    assert_eq!(run(Format::Env, "A=\"/data/app\"\n"), "A=\"/mnt/my vault\"\n");
    assert_eq!(run(Format::Yaml, "a: /data/app\n"), "a: /mnt/my vault\n");
    assert_eq!(
        run(Format::Ini, "[Service]\nEnvironment=A=/data/app B=2\nWorkingDirectory=/data/app\n"),
        "[Service]\nEnvironment=\"A=/mnt/my vault\" B=2\nWorkingDirectory=/mnt/my vault\n"
    );
    assert_eq!(
        run(Format::Ini, "[s]\na = \"/data/app\" ; c\n"),
        "[s]\na = \"/mnt/my vault\" ; c\n"
    );
}

#[test]
fn new_paths_that_mean_something_else_are_refused() {
    for (format, text, new) in [
        (Format::Ini, "[s]\na = /data/app\n", "/mnt/100%"),
        (Format::Ini, "[Service]\nExecStart=/data/app/x\n", "/mnt/$x"),
        (Format::Ini, "[s]\na = /data/app\n", "/mnt/a #b"),
        (Format::Yaml, "services: {a: {image: x, volumes: ['/data/app:/x']}}", "/mnt/a:b"),
        (Format::Env, "A=/data/app\n", "/mnt/a\nb"),
        (Format::Env, "A=/data/app\n", "/mnt/a'\"`"),
    ] {
        let result = repoint(
            text.as_bytes(),
            format,
            &Relocation::new("/data/app", new),
            &Context::default(),
        );
        assert!(matches!(result, Err(Error::Inexpressible { .. })), "{new}: {result:?}");
    }
    let bytes = std::ffi::OsStr::from_bytes(b"/mnt/\xFF");
    use std::os::unix::ffi::OsStrExt;
    let odd = Relocation::new("/data/app", bytes);
    let result = repoint(b"a: /data/app", Format::Yaml, &odd, &Context::default());
    assert!(matches!(result, Err(Error::Inexpressible { .. })));
    let result = repoint(b"A=/data/app", Format::Env, &odd, &Context::default()).unwrap();
    assert_eq!(result.bytes, b"A=/mnt/\xFF");
}

#[test]
fn yaml_in_odd_layouts() {
    let old = OLD;
    becomes(
        Format::Yaml,
        &format!("a: &x !!str {old}/é\nb: *x\n"),
        "a: &x !!str /mnt/vault/é\nb: *x\n",
    );
    becomes(
        Format::Yaml,
        &format!("? {old}x\n: - {old}\n"),
        &format!("? {old}x\n: - /mnt/vault\n"),
    );
    becomes(
        Format::Yaml,
        &format!("---\n{old}\n...\n---\n- {old}/x # c\r\n"),
        "---\n/mnt/vault\n...\n---\n- /mnt/vault/x # c\r\n",
    );
    becomes(
        Format::Yaml,
        &format!("é: '{old}'\nü: \"{old}\"   \n"),
        "é: '/mnt/vault'\nü: \"/mnt/vault\"   \n",
    );
    becomes(Format::Yaml, &format!("a: |-\n  {old}\n\nb: 1\n"), "a: |-\n  /mnt/vault\n\nb: 1\n");
    becomes(
        Format::Yaml,
        &format!("{{\"a\":\"{old}\",b: {old} , c: [{old}]}}"),
        "{\"a\":\"/mnt/vault\",b: /mnt/vault , c: [/mnt/vault]}",
    );
    becomes(Format::Yaml, &format!("\u{FEFF}a: {old}"), "\u{FEFF}a: /mnt/vault");
    becomes(Format::Yaml, &format!("a:\n  {old}\n\n\n# end"), "a:\n  /mnt/vault\n\n\n# end");
    becomes(Format::Yaml, "home: ~\ndir: ~/.local/share/aico/data", "home: ~\ndir: /mnt/vault");
    let home =
        repoint(b"a: ~\nb: '~'\n", Format::Yaml, &Relocation::new("/home/ada", NEW), &context());
    assert_eq!(home.unwrap().bytes, b"a: ~\nb: '/mnt/vault'\n");
}

#[test]
fn broken_texts_are_refused_with_a_place() {
    for (format, text) in [
        (Format::Yaml, "a: [1\nb: 2\n"),
        (Format::Toml, "a = \n"),
        (Format::Json, "{\"a\": }"),
        (Format::Json, "{} {}"),
    ] {
        let error = run_error(text.as_bytes(), format);
        assert!(error.contains("line"), "{error}");
    }
    assert!(run_error(b"a: \xFF\n", Format::Yaml).contains("not UTF-8 at byte 3"));
}

fn run_error(text: &[u8], format: Format) -> String {
    repoint(text, format, &relocation(), &context()).unwrap_err().to_string()
}

#[test]
fn detection_by_content() {
    let detect = |text: &str| Format::detect(Path::new("config"), text.as_bytes());
    assert_eq!(detect("{\"a\": 1} // c"), Some(Format::Json));
    assert_eq!(detect("[1, 2]"), Some(Format::Json));
    assert_eq!(detect("[a]\nb = 1\n"), Some(Format::Toml));
    assert_eq!(detect("[a]\nb = x y\n"), Some(Format::Ini));
    assert_eq!(detect("# c\nA=1\nexport B_2=x\n"), Some(Format::Env));
    assert_eq!(detect("a: 1\nb:\n  - x\n"), Some(Format::Yaml));
    assert_eq!(detect("a = \"x\"\n"), Some(Format::Toml));
    assert_eq!(detect("a = x y\n"), Some(Format::Ini));
    assert_eq!(detect("just words"), None);
    assert_eq!(detect(""), None);
    assert_eq!(detect("\0\0"), None);
    assert_eq!(Format::detect(Path::new("/x/.env.local"), b""), Some(Format::Env));
    assert_eq!(Format::detect(Path::new("/x/app.service"), b""), Some(Format::Ini));
}

#[test]
fn keys_are_read_and_written() {
    use scalar::Key;
    for text in ["a", "a.b[0].c", "a.\"b.c\".d", "[0].a", "a[0][1]", "\"\\\"\\\\\"", "é.ü"] {
        assert_eq!(Key::parse(text).unwrap().to_string(), text);
    }
    for text in ["", ".", "a.", "a..b", "a[", "a[x]", "a[0]b", "\"a", "a\"b\""] {
        assert!(Key::parse(text).is_err(), "{text}");
    }
}

/// Edits, lets somebody else edit, reverts.
fn after_the_fact(
    format: Format,
    text: &str,
    change: impl Fn(String) -> String,
) -> Result<Reverted, Error> {
    let result = run(text, format);
    let record = result.record(format, text.as_bytes());
    revert(change(String::from_utf8(result.bytes).unwrap()).as_bytes(), &record)
}

#[test]
fn reverting_leaves_what_others_changed() {
    let text = format!("a: {OLD}/x  # one\nb: 1\nlist:\n  - {OLD}/y\n  - {OLD}/z\n");
    let reverted = after_the_fact(Format::Yaml, &text, |new| {
        format!(
            "# added\n{}",
            new.replace("b: 1", "b: 22").replace("list:\n", "list:\n  - first\n")
        )
    })
    .unwrap();
    assert!(reverted.changed_since);
    assert_eq!(reverted.absent, [""; 0]);
    assert_eq!(
        String::from_utf8(reverted.bytes).unwrap(),
        format!("# added\na: {OLD}/x  # one\nb: 22\nlist:\n  - first\n  - {OLD}/y\n  - {OLD}/z\n")
    );
}

#[test]
fn reverting_stops_where_an_edited_value_was_changed() {
    let text = format!("a: {OLD}/x\nb: {OLD}/y\n");
    let error =
        after_the_fact(Format::Yaml, &text, |new| new.replace("/mnt/vault/x", "/mnt/vault/other"))
            .unwrap_err();
    let Error::Conflict { keys, diff } = error else { panic!("{error}") };
    assert_eq!(keys, ["a"]);
    assert!(diff.contains(&format!("+b: {OLD}/y")), "{diff}");
    // A text that no longer parses can't be judged.
    let broken = after_the_fact(Format::Yaml, &text, |new| format!("{new}[\n"));
    assert!(matches!(broken, Err(Error::Conflict { .. })));
    // A renamed key takes its value along.
    let renamed = after_the_fact(Format::Yaml, &text, |new| new.replace("a:", "c:")).unwrap();
    assert_eq!(String::from_utf8(renamed.bytes).unwrap(), format!("c: {OLD}/x\nb: {OLD}/y\n"));
}

#[test]
fn reverting_accepts_what_is_gone_or_back() {
    let text = format!("a: {OLD}/x\nb: {OLD}/y\n");
    let gone = after_the_fact(Format::Yaml, &text, |_| format!("b: {OLD}/y\nc: 1\n")).unwrap();
    assert_eq!(gone.bytes, format!("b: {OLD}/y\nc: 1\n").as_bytes());
    assert_eq!(gone.absent, ["a", "b"]);
    let back = after_the_fact(Format::Yaml, &text, |_| text.clone()).unwrap();
    assert_eq!((back.bytes, back.changed_since), (text.clone().into_bytes(), false));
}

#[test]
fn equal_values_are_reverted_to_their_own_originals() {
    let text = format!("a: ~/.local/share/aico/data\nb: {OLD}\nc: {OLD}\n");
    let changed = after_the_fact(Format::Yaml, &text, |new| format!("{new}d: 1\n")).unwrap();
    assert_eq!(String::from_utf8(changed.bytes).unwrap(), format!("{text}d: 1\n"));
    // Two equal values with different originals, both moved: which is which can't be told.
    let moved = after_the_fact(Format::Yaml, &text, |new| {
        new.replace("a:", "x:").replace("b:", "y:").replace("c:", "z:")
    });
    assert!(matches!(moved, Err(Error::Conflict { .. })), "{moved:?}");
}

/// Sets a key and compares the result; then takes it back, also after another change.
#[track_caller]
fn set_becomes(format: Format, text: &str, key: &str, value: &str, new: &str) {
    let result = set(text.as_bytes(), format, key, value).unwrap();
    assert_eq!(String::from_utf8_lossy(&result.bytes), new);
    let record = result.record(format, text.as_bytes());
    assert_eq!(revert(&result.bytes, &record).unwrap().bytes, text.as_bytes());
    let comment = if format == Format::Json { " " } else { "\n# later\n" };
    let later = [new.as_bytes(), comment.as_bytes()].concat();
    let reverted = revert(&later, &record).unwrap();
    assert_eq!(String::from_utf8_lossy(&reverted.bytes), format!("{text}{comment}"));
}

#[test]
fn values_are_set_by_key() {
    set_becomes(Format::Yaml, "a:\n  b: x # c\n", "a.b", "/new", "a:\n  b: /new # c\n");
    set_becomes(Format::Yaml, "a: [1, 'x']\n", "a[1]", "it's", "a: [1, 'it''s']\n");
    set_becomes(Format::Yaml, "a: [1, 'x']\n", "a.0", "22", "a: [22, 'x']\n");
    set_becomes(Format::Yaml, "a: 1\n", "a", "text: x", "a: 'text: x'\n");
    set_becomes(Format::Yaml, "a:\nb: 1\n", "a", "/new", "a: /new\nb: 1\n");
    set_becomes(Format::Yaml, "a: info\n", "a", "true", "a: true\n");
    set_becomes(Format::Yaml, "a: \"info\"\n", "a", "true", "a: \"true\"\n");
    set_becomes(Format::Json, "{\"a\": {\"b\": [1]}}", "a.b[0]", "2.5", "{\"a\": {\"b\": [2.5]}}");
    set_becomes(Format::Json, "{\"a\": 1}", "a", "x", "{\"a\": \"x\"}");
    set_becomes(Format::Json, "{\"a\": \"x\"}", "a", "1", "{\"a\": \"1\"}");
    set_becomes(Format::Json, "{\"a.b\": null}", "a.b", "true", "{\"a.b\": true}");
    set_becomes(Format::Toml, "[a]\nb = 'x'\n", "a.b", "/n", "[a]\nb = '/n'\n");
    set_becomes(Format::Toml, "a = 1\n", "a", "x", "a = \"x\"\n");
    set_becomes(Format::Toml, "a = 1\n", "a", "2020-01-01", "a = 2020-01-01\n");
    set_becomes(Format::Ini, "[s]\na.b: x\n", "s.a.b", "y", "[s]\na.b: y\n");
    set_becomes(Format::Env, "A=1\nA=2 # c\n", "A[1]", "x y", "A=1\nA='x y' # c\n");
    let same = set(b"a: x\n", Format::Yaml, "a", "x").unwrap();
    assert_eq!((same.bytes.as_slice(), same.edits.len()), (b"a: x\n".as_slice(), 0));
}

#[test]
fn missing_keys_are_added() {
    set_becomes(Format::Env, "A=1", "B", "x y", "A=1\nB='x y'");
    set_becomes(Format::Env, "A=1\r\n", "B", "2", "A=1\r\nB=2\r\n");
    set_becomes(Format::Env, "", "B", "2", "B=2\n");
    set_becomes(Format::Ini, "[s]\na = 1\n", "s.b", "2", "[s]\nb = 2\na = 1\n");
    set_becomes(Format::Ini, "[s]\na = 1\n", "t.b", "2", "[s]\na = 1\n[t]\nb = 2\n");
    set_becomes(Format::Ini, "; c\n[s]", "b", "2", "; c\nb = 2\n[s]");
    set_becomes(Format::Ini, "[Service]", "Service.User", "ada", "[Service]\nUser=ada");
    set_becomes(
        Format::Toml,
        "# c\na = 1\n[t]\nb = 2\n",
        "c",
        "x",
        "# c\nc = \"x\"\na = 1\n[t]\nb = 2\n",
    );
    set_becomes(Format::Toml, "[t.u]\nb = 2\n", "t.u.c", "3", "[t.u]\nc = 3\nb = 2\n");
    set_becomes(Format::Toml, "a = 1", "t.c", "x", "a = 1\n[t]\nc = \"x\"");
    set_becomes(Format::Json, "{\n  \"a\": 1\n}", "b", "x", "{\n  \"b\": \"x\",\n  \"a\": 1\n}");
    set_becomes(Format::Json, "{\"a\":{}}", "a.b", "1", "{\"a\":{\"b\": 1}}");
    set_becomes(Format::Yaml, "a:\n  b: 1\n", "a.c", "/x", "a:\n  c: /x\n  b: 1\n");
    set_becomes(Format::Yaml, "a: {b: 1}\n", "a.c", "x", "a: {c: x, b: 1}\n");
    set_becomes(Format::Yaml, "# c\n", "a", "x", "# c\na: x\n");
    for (format, text, key) in [
        (Format::Yaml, "a: 1\n", "b.c"),
        (Format::Yaml, "- a: 1\n", "x"),
        (Format::Yaml, "a: [1]\n", "a[1]"),
        (Format::Json, "{\"a\": 1}", "a.b"),
        (Format::Json, "", "a"),
        (Format::Toml, "a.b = 1\n", "a.c"),
        (Format::Env, "", "a.b"),
        (Format::Env, "", "a b"),
        (Format::Ini, "", "a.b.c"),
    ] {
        let result = set(text.as_bytes(), format, key, "v");
        let refused = matches!(result, Err(Error::NoSuchKey { .. } | Error::SideEffect { .. }));
        assert!(refused, "{format} {text:?} {key}: {result:?}");
    }
}

#[test]
fn replacing_a_file_keeps_what_it_is() {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("real.yaml");
    let link = directory.path().join("link.yaml");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    rustix::fs::setxattr(&file, "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(12), Some(34)).unwrap();
    }
    let before = fs::metadata(&file).unwrap();
    symlink("real.yaml", &link).unwrap();
    // What a crash may have left is no obstacle.
    fs::write(directory.path().join("unrelated.tmp"), "x").unwrap();

    replace_file(&link, b"old", b"new").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
    let after = fs::metadata(&file).unwrap();
    assert_eq!(
        (before.mode(), before.uid(), before.gid()),
        (after.mode(), after.uid(), after.gid())
    );
    let mut note = [0; 4];
    rustix::fs::getxattr(&file, "user.note", &mut note).unwrap();
    assert_eq!(&note, b"kept");
    // Again: nothing to do.
    replace_file(&link, b"old", b"new").unwrap();
    let again = fs::metadata(&file).unwrap();
    assert_eq!((after.ino(), after.mtime_nsec()), (again.ino(), again.mtime_nsec()));

    let changed = replace_file(&file, b"old", b"third");
    assert!(matches!(changed, Err(Error::Changed { .. })), "{changed:?}");
    assert_eq!(fs::read(&file).unwrap(), b"new");
    fs::hard_link(&file, directory.path().join("other.yaml")).unwrap();
    let linked = replace_file(&file, b"new", b"third");
    assert!(matches!(linked, Err(Error::HardLinked { links: 2, .. })), "{linked:?}");
    let not_a_file = replace_file(directory.path(), b"", b"x");
    assert!(matches!(not_a_file, Err(Error::NotAFile { .. })), "{not_a_file:?}");
    let missing = replace_file(&directory.path().join("none"), b"", b"x");
    assert!(matches!(missing, Err(Error::Io { .. })), "{missing:?}");
    let mut names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["link.yaml", "other.yaml", "real.yaml", "unrelated.tmp"]);
}

mod random {
    //! Random texts: bytes that mean nothing, and documents with odd layouts.
    use proptest::prelude::*;

    use super::*;

    const FORMATS: [Format; 5] =
        [Format::Yaml, Format::Toml, Format::Json, Format::Ini, Format::Env];

    /// So many cases, or more by `PROPTEST_CASES`.
    fn at_least(cases: u32) -> ProptestConfig {
        let config = ProptestConfig::default();
        ProptestConfig { cases: config.cases.max(cases), ..config }
    }

    fn any_format() -> impl Strategy<Value = Format> {
        prop::sample::select(FORMATS.to_vec())
    }

    /// Text made of what the formats' syntaxes are made of.
    fn soup() -> impl Strategy<Value = String> {
        let pieces = vec![
            "a",
            "key",
            ": ",
            ":",
            "=",
            " = ",
            "\n",
            "\r\n",
            "  ",
            "\t",
            "- ",
            "\"",
            "'",
            "'''",
            "\"\"\"",
            "`",
            "[",
            "]",
            "{",
            "}",
            ",",
            "#",
            " # ",
            ";",
            "//",
            "/*",
            "*/",
            "\\",
            "\\\n",
            "|",
            "|2-",
            ">",
            "&x ",
            "*x",
            "!!str ",
            "? ",
            "---",
            "...",
            "é",
            "\u{FEFF}",
            "\u{2028}",
            "$",
            "${",
            "%(here)s",
            "export ",
            "[Service]",
            "Environment=",
            "~",
            "/",
            ".",
            "1",
            "null",
            "<<: ",
        ];
        prop::collection::vec(prop::sample::select(pieces), 0..40)
            .prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(at_least(1500))]

        #[test]
        fn texts_without_the_path_never_change(bytes: Vec<u8>, soup in soup(), format in any_format()) {
            for text in [bytes, soup.into_bytes()] {
                if let Ok(result) = repoint(&text, format, &relocation(), &Context::default()) {
                    prop_assert_eq!(result.bytes, text);
                    prop_assert_eq!(result.edits, []);
                }
            }
        }

        #[test]
        fn paths_among_soup_change_alone_or_not_at_all(
            before in soup(), after in soup(), format in any_format()
        ) {
            let text = format!("{before}{OLD}{after}");
            if let Ok(result) = repoint(text.as_bytes(), format, &relocation(), &context()) {
                let record = result.record(format, text.as_bytes());
                let reverted = revert(&result.bytes, &record).unwrap();
                prop_assert_eq!(reverted.bytes, text.as_bytes());
                let mut rest = text.clone().into_bytes();
                for edit in result.edits.iter().rev() {
                    rest.splice(edit.offset..edit.offset + edit.old.len(), edit.new.iter().copied());
                }
                prop_assert_eq!(rest, result.bytes);
            }
        }

        #[test]
        fn keys_are_set_in_soup_without_side_effects(
            text in soup(), format in any_format(), value in soup(), key in "[a-z]{1,3}(\\.[a-z]|\\[[0-2]\\])?"
        ) {
            if let Ok(result) = set(text.as_bytes(), format, &key, &value) {
                let record = result.record(format, text.as_bytes());
                prop_assert_eq!(revert(&result.bytes, &record).unwrap().bytes, text.as_bytes());
            }
        }

        #[test]
        fn reverting_anything_never_panics(
            text in soup(), other in soup(), format in any_format()
        ) {
            let text = format!("{text}\na: {OLD}/x\n{OLD}\n");
            if let Ok(result) = repoint(text.as_bytes(), format, &relocation(), &context()) {
                let record = result.record(format, text.as_bytes());
                let _ = revert(other.as_bytes(), &record);
                let _ = revert([&result.bytes, other.as_bytes()].concat().as_slice(), &record);
            }
        }
    }

    /// A value in a document: its text in the original, and in the expected result.
    fn value() -> impl Strategy<Value = (String, String)> {
        prop_oneof![
            3 => "(/[a-z]{1,3}){0,2}".prop_map(|rest| (format!("{OLD}{rest}"), format!("{NEW}{rest}"))),
            1 => "(/[a-z]{1,3}){0,2}".prop_map(|rest| (format!("~/.local/share/aico/data{rest}"), format!("{NEW}{rest}"))),
            1 => "[a-z]{1,3}".prop_map(|rest| (format!("{OLD}{rest}"), format!("{OLD}{rest}"))),
            2 => "[a-z]{1,8}".prop_map(|text| (text.clone(), text)),
            1 => "[a-zé]{1,8}".prop_map(|text| (format!("sqlite:////srv/{text}"), format!("sqlite:////srv/{text}"))),
        ]
    }

    /// One line, as two strings: with the original value and with the expected one.
    fn line(format: Format) -> impl Strategy<Value = (String, String)> {
        let blank = "[ ]{0,3}";
        (value(), 0..4_u8, blank, blank, any::<bool>()).prop_map(
            move |((old, new), quote, before, after, comment)| {
                let quoted = |value: &str| match (format, quote) {
                    (Format::Json, _) => format!("\"{value}\""),
                    (Format::Toml, 0) => format!("'''{value}'''"),
                    (Format::Toml, 1) => format!("\"\"\"{value}\"\"\""),
                    (Format::Toml, 2) | (_, 2) => format!("\"{value}\""),
                    (Format::Toml, _) | (_, 3) => format!("'{value}'"),
                    _ => value.to_owned(),
                };
                let sign = match format {
                    Format::Yaml | Format::Json => format!(":{before} "),
                    Format::Toml | Format::Ini => format!("{before}={after}"),
                    Format::Env => "=".to_owned(),
                };
                let end = match (format, comment) {
                    (Format::Json, true) => format!("{after},// c {OLD}\n"),
                    (Format::Json, false) => format!("{after},\n"),
                    (_, true) => format!("{after} # c {OLD}\n"),
                    (_, false) => format!("{after}\n"),
                };
                (format!("{sign}{}{end}", quoted(&old)), format!("{sign}{}{end}", quoted(&new)))
            },
        )
    }

    fn document() -> impl Strategy<Value = (Format, String, String)> {
        (any_format(), any::<bool>()).prop_flat_map(|(format, crlf)| {
            prop::collection::vec(line(format), 0..8).prop_map(move |lines| {
                let mut old = String::new();
                let mut new = String::new();
                for (index, (before, after)) in lines.iter().enumerate() {
                    let key = match format {
                        Format::Json => format!("  \"k{index}\""),
                        _ => format!("k{index}"),
                    };
                    old.push_str(&format!("{key}{before}"));
                    new.push_str(&format!("{key}{after}"));
                }
                if format == Format::Json {
                    (old, new) = (format!("{{\n{old}}}\n"), format!("{{\n{new}}}\n"));
                }
                if crlf {
                    (old, new) = (old.replace('\n', "\r\n"), new.replace('\n', "\r\n"));
                }
                (format, old, new)
            })
        })
    }

    proptest! {
        #![proptest_config(at_least(1000))]

        #[test]
        fn documents_in_odd_layouts((format, old, new) in document()) {
            let result = repoint(old.as_bytes(), format, &relocation(), &context());
            let result = result.map_err(|error| TestCaseError::fail(format!("{error} in {old}")))?;
            prop_assert_eq!(String::from_utf8_lossy(&result.bytes), new);
            check_record(format, old.as_bytes(), &result);
        }
    }
}

/// A file that overrides another one says of services what Compose says.
#[test]
fn compose_overrides_keep_the_paths_of_the_container() {
    for text in [
        "services:\n  app:\n    volumes:\n      - /data/app:/data/app\n",
        "services:\n  app:\n    environment:\n      DATA: /data/app\n    volumes: [/data/app:/data/app]\n",
        "services:\n  app:\n    ports: ['8080:80']\n    volumes: [/data/app:/data/app]\n",
    ] {
        let edited = repoint(
            text.as_bytes(),
            Format::Yaml,
            &Relocation::new("/data/app", "/mnt/vault"),
            &Context::default(),
        )
        .unwrap();
        let expected = text.replace("/data/app:/data/app", "/mnt/vault:/data/app");
        assert_eq!(String::from_utf8(edited.bytes).unwrap(), expected);
    }
}

/// What a container engine is told of the host changes, what it tells the container does not.
#[test]
fn volumes_of_a_container_engine_in_a_unit() {
    let text = "[Service]\nExecStartPre=-/usr/bin/docker rm -v x\n\
                ExecStart=/usr/bin/docker run -v /data/app:/data/app:ro \\\n  \
                --volume=/data/app/x:/data/app -v \\\n  \"/data/app:/d\" -v /data/app \\\n  \
                -e DATA=/data/app --env=D=/data/app --env-file /data/app/env image\n\
                ExecStop=/data/app/stop -v /data/app\n";
    let edited = repoint(
        text.as_bytes(),
        Format::Ini,
        &Relocation::new("/data/app", "/mnt/vault"),
        &Context::default(),
    )
    .unwrap();
    let expected = "[Service]\nExecStartPre=-/usr/bin/docker rm -v x\n\
                ExecStart=/usr/bin/docker run -v /mnt/vault:/data/app:ro \\\n  \
                --volume=/mnt/vault/x:/data/app -v \\\n  \"/mnt/vault:/d\" -v /data/app \\\n  \
                -e DATA=/data/app --env=D=/data/app --env-file /mnt/vault/env image\n\
                ExecStop=/mnt/vault/stop -v /mnt/vault\n";
    assert_eq!(String::from_utf8(edited.bytes).unwrap(), expected);
    assert_eq!(edited.mentions.len(), 3, "{:?}", edited.mentions);
}

/// A drop-in whose lines happen to be TOML is read by systemd's rules.
#[test]
fn drop_ins_are_no_toml() {
    let text = b"[Service]\nEnvironment=\"DATA=%h/.local/share/app\"\n";
    assert_eq!(Format::detect(Path::new("/etc/override.conf"), text), Some(Format::Ini));
    let bare = b"Environment=\"DATA=1\"\n";
    let path = Path::new("/etc/systemd/system/app.service.d/a.conf");
    assert_eq!(Format::detect(path, bare), Some(Format::Ini));
    let other = b"[server]\ndata = \"/data\"\n";
    assert_eq!(Format::detect(Path::new("/etc/app.conf"), other), Some(Format::Toml));
}
