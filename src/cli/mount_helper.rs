//! `mount.fuse.strongroom`: this program as mount(8) calls it, for `mount -t fuse.strongroom` and
//! `/etc/fstab`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What mount(8) asks of its helper.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// To do nothing (`-f`).
    Nothing,
    /// To run `strongroom` with these arguments, the program's name among them.
    Run(Vec<OsString>),
}

/// What mount(8) asks; `None` when this program was not called as its helper.
///
/// mount(8) calls `mount.TYPE SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
pub fn asked(arguments: &[OsString]) -> Option<Asked> {
    let (program, rest) = arguments.split_first()?;
    let name = Path::new(program).file_name()?.to_str()?;
    if !matches!(name, "mount.fuse.strongroom" | "mount.strongroom") {
        return None;
    }
    let mut translated: Vec<OsString> = vec!["strongroom".into()];
    let mut paths: Vec<&OsStr> = Vec::new();
    let mut options: Vec<&OsStr> = Vec::new();
    let mut verbose = false;
    let mut pretend = false;
    let mut rest = rest.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => options.extend(rest.next().map(OsString::as_os_str)),
            Some("-t" | "-N") => drop(rest.next()),
            Some(flags) if flags.len() > 1 && flags.starts_with('-') && is_flags(flags) => {
                verbose |= flags.contains('v');
                pretend |= flags.contains('f');
            }
            _ => paths.push(argument),
        }
    }
    if pretend {
        return Some(Asked::Nothing);
    }
    translated.push("mount".into());
    if verbose {
        translated.push("--verbose".into());
    }
    for list in options {
        translated.extend(["-o".into(), list.to_owned()]);
    }
    translated.push("--".into());
    translated.extend(paths.into_iter().map(OsStr::to_owned));
    Some(Asked::Run(translated))
}

fn is_flags(argument: &str) -> bool {
    argument.chars().skip(1).all(|flag| "sfnv".contains(flag))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ask(line: &str) -> Option<Asked> {
        asked(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn calls_of_mount_are_understood() {
        let run = |line: &str| Some(Asked::Run(line.split(' ').map(OsString::from).collect()));
        assert_eq!(ask("strongroom mount a b"), None);
        assert_eq!(
            ask("/sbin/mount.fuse.strongroom /v /m -o rw,key_file=/k"),
            run("strongroom mount -o rw,key_file=/k -- /v /m")
        );
        assert_eq!(
            ask("/sbin/mount.strongroom /v /m -nv -o ro -t fuse.strongroom"),
            run("strongroom mount --verbose -o ro -- /v /m")
        );
        assert_eq!(ask("mount.fuse.strongroom -f /v /m"), Some(Asked::Nothing));
        assert_eq!(ask("mount.fuse.strongroom /v -odd"), run("strongroom mount -- /v -odd"));
        assert_eq!(asked(&[]), None);
    }
}
