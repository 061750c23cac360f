//! Spellings of paths, one table a subject.

use super::*;

const OLD: &str = "/home/u/.local/share/app";
const NEW: &str = "/mnt/vault";

fn context() -> Context {
    Context {
        home: Some("/home/u".into()),
        directory: Some("/home/u/.config/app".into()),
        working_directory: Some("/home/u/.local/share".into()),
        variables: [
            ("XDG_DATA_HOME".to_owned(), "/home/u/.local/share".to_owned()),
            ("APP_DATA".to_owned(), "/home/u/.local/share/app/data/".to_owned()),
            ("OTHER".to_owned(), "/elsewhere".to_owned()),
        ]
        .into(),
    }
}

fn judge(value: &str) -> Verdict {
    Matcher::new(&Relocation::new(OLD, NEW), &context()).judge(value.as_bytes(), Manner::Plain)
}

#[track_caller]
fn becomes(value: &str, new: &str) {
    match judge(value) {
        Verdict::Rewrite(result) => {
            assert_eq!(String::from_utf8_lossy(&result), new, "for {value}")
        }
        other => panic!("{value}: {other:?}"),
    }
}

#[track_caller]
fn stays(value: &str) {
    assert_eq!(judge(value), Verdict::Unrelated, "for {value}");
}

#[track_caller]
fn is_mentioned(value: &str) {
    assert!(matches!(judge(value), Verdict::Mention(_)), "{value}: {:?}", judge(value));
}

#[test]
fn plain_paths() {
    becomes("/home/u/.local/share/app", "/mnt/vault");
    becomes("/home/u/.local/share/app/", "/mnt/vault/");
    becomes("/home/u/.local/share/app/a b/c.db", "/mnt/vault/a b/c.db");
    becomes("//home/u//.local/share/./app//x", "/mnt/vault//x");
    becomes("/home/u/.local/../.local/share/app/x", "/mnt/vault/x");
    becomes("~/.local/share/app/x", "/mnt/vault/x");
    becomes("$HOME/.local/share/app", "/mnt/vault");
    becomes("${HOME}/.local/share/app/x", "/mnt/vault/x");
    becomes("${XDG_DATA_HOME}/app/x", "/mnt/vault/x");
    becomes("$XDG_DATA_HOME/app", "/mnt/vault");
    becomes("/home/u/.local/share/app/../app/x", "/mnt/vault/x");
}

#[test]
fn siblings_and_strangers_stay() {
    for value in [
        "/home/u/.local/share/app2",
        "/home/u/.local/share/app.old/x",
        "/home/u/.local/share/app-data",
        "/home/u/.local/share",
        "/x/home/u/.local/share/app",
        "~/.local/share/apparel",
        "~other/.local/share/app",
        "$OTHER/app",
        "$UNKNOWN/app",
        "${OTHER:-/tmp}/app",
        "text/html",
        "",
        "~",
        "/",
        "$",
        "${",
        "%(",
        ":::",
    ] {
        stays(value);
    }
}

#[test]
fn what_a_variable_covers() {
    becomes("${APP_DATA}", "/mnt/vault/data/");
    becomes("${APP_DATA}x.db", "/mnt/vault/data/x.db");
    becomes("${APP_DATA}/x.db", "/mnt/vault/data//x.db");
    becomes("${UNSET:-/home/u/.local/share/app}/x", "${UNSET:-/mnt/vault}/x");
    becomes("${UNSET:-~/.local/share/app/y}", "${UNSET:-/mnt/vault/y}");
    becomes("${UNSET-/home/u/.local/share}/app/x", "/mnt/vault/x");
    becomes("/home/u/.local/share/app/${UNSET}/x", "/mnt/vault/${UNSET}/x");
}

#[test]
fn the_spelling_is_kept_where_the_new_path_allows() {
    let relocation = Relocation::new(OLD, "/home/u/private");
    let matcher = Matcher::new(&relocation, &context());
    for (value, new) in [
        ("~/.local/share/app/x", "~/private/x"),
        ("$HOME/.local/share/app", "$HOME/private"),
        ("${HOME}/.local/share/app/", "${HOME}/private/"),
        ("${XDG_DATA_HOME}/app/x", "/home/u/private/x"),
        ("/home/u/.local/share/app/x", "/home/u/private/x"),
    ] {
        let verdict = matcher.judge(value.as_bytes(), Manner::Plain);
        assert_eq!(verdict, Verdict::Rewrite(new.as_bytes().to_vec()), "for {value}");
    }
}

#[test]
fn urls() {
    becomes("file:///home/u/.local/share/app/x", "file:///mnt/vault/x");
    becomes("file://localhost/home/u/.local/share/app", "file://localhost/mnt/vault");
    becomes("file:/home/u/.local/share/app/x?mode=ro", "file:/mnt/vault/x?mode=ro");
    becomes("sqlite:////home/u/.local/share/app/x.db", "sqlite:////mnt/vault/x.db");
    becomes("sqlite:///home/u/.local/share/app/x.db", "sqlite:///mnt/vault/x.db");
    becomes(
        "sqlite+aiosqlite:////home/u/.local/share/app/x.db?timeout=30#f",
        "sqlite+aiosqlite:////mnt/vault/x.db?timeout=30#f",
    );
    becomes("sqlite:///${XDG_DATA_HOME}/app/x.db", "sqlite:////mnt/vault/x.db");
    becomes("sqlite:///~/.local/share/app/x.db", "sqlite:////mnt/vault/x.db");
    becomes("sqlite:///app/x.db", "sqlite:////mnt/vault/x.db");
    becomes("sqlite:///./app/x.db", "sqlite:////mnt/vault/x.db");
    becomes("jdbc:sqlite:/home/u/.local/share/app/x.db", "jdbc:sqlite:/mnt/vault/x.db");
    becomes("sqlite:/home/u/.local/share/app/x.db", "sqlite:/mnt/vault/x.db");
    becomes("file:../../.local/share/app/x.db", "file:/mnt/vault/x.db");
    becomes("unix:///home/u/.local/share/app/run.sock", "unix:///mnt/vault/run.sock");
    stays("sqlite:////home/u/.local/share/app2/x.db");
    stays("postgresql://user@host/home/u/.local/share/app");
    stays("sqlite://");
    stays("file:");
}

#[test]
fn percent_encoding() {
    let matcher = Matcher::new(&Relocation::new("/data/my app", "/mnt/a b"), &Context::default());
    for (value, new) in [
        ("file:///data/my%20app/x%20y", "file:///mnt/a%20b/x%20y"),
        ("file:///data/my app/x", "file:///mnt/a b/x"),
        ("sqlite:////data/my app/x", "sqlite:////mnt/a b/x"),
        ("sqlite:////data/my%20app/x", "sqlite:////mnt/a%20b/x"),
        ("/data/my app", "/mnt/a b"),
    ] {
        let verdict = matcher.judge(value.as_bytes(), Manner::Plain);
        assert_eq!(verdict, Verdict::Rewrite(new.as_bytes().to_vec()), "for {value}");
    }
    let matcher = Matcher::new(&Relocation::new("/data/app", "/mnt/100%?"), &Context::default());
    let verdict = matcher.judge(b"file:///data/app/x", Manner::Plain);
    assert_eq!(verdict, Verdict::Rewrite(b"file:///mnt/100%25%3F/x".to_vec()));
    let verdict = matcher.judge(b"sqlite:////data/app/x", Manner::Plain);
    assert!(matches!(verdict, Verdict::Impossible(_)));
}

#[test]
fn lists_and_assignments() {
    becomes("/usr/bin:/home/u/.local/share/app/bin:/bin", "/usr/bin:/mnt/vault/bin:/bin");
    becomes("/home/u/.local/share/app:/container:ro", "/mnt/vault:/container:ro");
    becomes("--data=/home/u/.local/share/app/x", "--data=/mnt/vault/x");
    becomes("DATA_DIR=~/.local/share/app", "DATA_DIR=/mnt/vault");
    becomes("URL=sqlite:////home/u/.local/share/app/x", "URL=sqlite:////mnt/vault/x");
    becomes("/home/u/.local/share/app/a,/home/u/.local/share/app/b", "/mnt/vault/a,/mnt/vault/b");
    becomes(
        "/usr/bin/app --data /home/u/.local/share/app --log=/home/u/.local/share/app/log",
        "/usr/bin/app --data /mnt/vault --log=/mnt/vault/log",
    );
    becomes("/home/u/.local/share/app/2024-01-01T10:00/x", "/mnt/vault/2024-01-01T10:00/x");
    becomes("/home/u/.local/share/app/a, b", "/mnt/vault/a, b");
}

#[test]
fn prose_is_mentioned_and_left() {
    is_mentioned("see /home/u/.local/share/app for the data");
    is_mentioned("/home/u/.local/share/app is where the data is");
    is_mentioned("The data is in ~/.local/share/app.");
    is_mentioned("rm -rf '/home/u/.local/share/app'");
    is_mentioned("/home/u/.local/share/app/../other");
    is_mentioned("first\n/home/u/.local/share/app\n");
    // One half could be edited, the other not: neither is.
    is_mentioned("/bin/sh -c 'cd /home/u/.local/share/app' /home/u/.local/share/app/x");
    stays("see /home/u/.local/share/app2 for the data");
    stays("see /home/u/.local/share/app.old for the data");
}

#[test]
fn relative_values() {
    becomes("../../.local/share/app/x", "/mnt/vault/x");
    becomes("./app/x", "/mnt/vault/x");
    becomes("app/x", "/mnt/vault/x");
    assert_eq!(judge("app"), Verdict::Mention(MentionReason::RelativeName));
    stays("application/json");
    // A base that moves along keeps what is relative to it valid.
    let inside = Context { directory: Some(format!("{OLD}/config").into()), ..context() };
    let matcher = Matcher::new(&Relocation::new(OLD, NEW), &inside);
    assert_eq!(matcher.judge(b"../data/x", Manner::Plain), Verdict::Unrelated);
    assert_eq!(matcher.judge(b"text/html", Manner::Plain), Verdict::Unrelated);
}

#[test]
fn volumes() {
    let context = Context { directory: Some("/srv".into()), ..Context::default() };
    let matcher = Matcher::new(&Relocation::new("/srv/data", "/mnt/v"), &context);
    let judge = |value: &str| matcher.judge(value.as_bytes(), Manner::Volume);
    let rewrite = |value: &str| Verdict::Rewrite(value.as_bytes().to_vec());
    assert_eq!(judge("/srv/data/db:/srv/data/db:ro"), rewrite("/mnt/v/db:/srv/data/db:ro"));
    assert_eq!(judge("./data:/data"), rewrite("/mnt/v:/data"));
    assert_eq!(judge("${DATA:-./data/x}:/data"), rewrite("${DATA:-/mnt/v/x}:/data"));
    assert_eq!(judge("data:/srv/data"), Verdict::Mention(MentionReason::InsideContainer));
    assert_eq!(judge("/srv/data"), Verdict::Mention(MentionReason::InsideContainer));
    assert_eq!(judge("named:/var/lib/x"), Verdict::Unrelated);
}

#[test]
fn further_names_of_the_old_path() {
    let relocation = Relocation::new("/var/lib/app", "/mnt/v").also_known_as("/data/app");
    let matcher = Matcher::new(&relocation, &Context::default());
    for value in ["/var/lib/app/x", "/data/app/x"] {
        let verdict = matcher.judge(value.as_bytes(), Manner::Plain);
        assert_eq!(verdict, Verdict::Rewrite(b"/mnt/v/x".to_vec()));
    }
}

#[test]
fn relocations_of_nothing_match_nothing() {
    for old in ["/", "", "relative", "//", "/.."] {
        let matcher = Matcher::new(&Relocation::new(old, "/mnt"), &context());
        for value in ["/", "/x", "relative", "~/x", "", "a relative b"] {
            assert_eq!(matcher.judge(value.as_bytes(), Manner::Plain), Verdict::Unrelated);
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_judged(value: Vec<u8>, manner in 0..3_u8) {
        let manner = [Manner::Plain, Manner::Volume, Manner::Container][usize::from(manner)];
        let matcher = Matcher::new(&Relocation::new(OLD, NEW), &context()).with_specifiers();
        matcher.judge(&value, manner);
    }

    #[test]
    fn odd_spellings_are_judged_and_stay_rewritten(
        value in r"(/|\$HOME|\$\{HOME\}|\$\{X:-|~|%\(here\)s|%h|\}|sqlite:///|file:|:|,| |=|\.\.|home/u|/\.local/share|/app|%41|x){0,12}"
    ) {
        let matcher = Matcher::new(&Relocation::new(OLD, NEW), &context()).with_specifiers();
        if let Verdict::Rewrite(new) = matcher.judge(value.as_bytes(), Manner::Plain) {
            proptest::prop_assert!(!matches!(matcher.judge(&new, Manner::Plain), Verdict::Rewrite(_)));
        }
    }

    #[test]
    fn whatever_lies_under_the_old_path_moves(rest in "(/[a-z0-9][a-z0-9 ._%&+-]{0,7}){0,4}/?") {
        let matcher = Matcher::new(&Relocation::new("/data/app", NEW), &Context::default());
        let verdict = matcher.judge(format!("/data/app{rest}").as_bytes(), Manner::Plain);
        proptest::prop_assert_eq!(verdict, Verdict::Rewrite(format!("{NEW}{rest}").into_bytes()));
    }
}
