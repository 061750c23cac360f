//! Owns what a name given to a directory may be, for every implementation alike.

use std::io;

use rustix::io::Errno;

/// The longest name, in bytes.
const NAME_MAX: usize = 255;

/// `name`, checked to be a single component. The rest ([`check`]) the kernel checks itself.
pub(super) fn component(name: &[u8]) -> io::Result<&[u8]> {
    if name.contains(&b'/') || name == b".." {
        return Err(Errno::INVAL.into());
    }
    Ok(name)
}

/// A single component, or two with a `/` between them: the first of two, and the last.
pub(super) fn one_or_two_components(name: &[u8]) -> io::Result<(Option<&[u8]>, &[u8])> {
    let Some(slash) = name.iter().position(|&byte| byte == b'/') else {
        return Ok((None, component(name)?));
    };
    let (first, last) = (&name[..slash], component(&name[slash + 1..])?);
    let special = |part: &[u8]| matches!(part, b"" | b"." | b"..");
    if special(first) || special(last) {
        return Err(Errno::INVAL.into());
    }
    Ok((Some(first), last))
}

/// What the kernel refuses in a component.
pub(super) fn check(name: &[u8]) -> io::Result<()> {
    if name.contains(&0) {
        return Err(Errno::INVAL.into());
    }
    if name.is_empty() {
        return Err(Errno::NOENT.into());
    }
    if name.len() > NAME_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    Ok(())
}
