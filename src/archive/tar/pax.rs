//! The records of a pax header: `LENGTH KEY=VALUE\n`.

use crate::tree::Timestamp;

/// Begins every key of an extended attribute.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";
/// Holds how many names a file has at most, on its first name, where there are several: the one
/// record that every reader of tars lets pass in silence.
pub(super) const COMMENT: &[u8] = b"comment";
/// Begins that comment.
pub(super) const LINKS: &[u8] = b"links=";

/// Appends a record.
pub(super) fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + digits(length) {
        length = rest + digits(length);
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// The records of a header, in order; `None` where they are not records.
pub(super) fn parse(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
        let length = number(&bytes[..space])?;
        let length = usize::try_from(length).ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Some(records)
}

/// A decimal number, without a sign.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with nine decimals. A time before 1970 is a negative number as a whole.
pub(super) fn encode_time(time: Timestamp) -> Vec<u8> {
    let before = time.seconds < 0 && time.nanoseconds > 0;
    let (seconds, nanoseconds) = match before {
        true => (time.seconds + 1, 1_000_000_000 - time.nanoseconds),
        false => (time.seconds, time.nanoseconds),
    };
    let sign = if time.seconds < 0 { "-" } else { "" };
    let mut text = Vec::with_capacity(24);
    text.extend_from_slice(sign.as_bytes());
    text.extend_from_slice(seconds.unsigned_abs().to_string().as_bytes());
    let mut decimals = *b".000000000";
    let mut rest = nanoseconds;
    for digit in decimals[1..].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    text.extend_from_slice(&decimals);
    text
}

/// Reads a time; digits beyond nanoseconds are refused.
pub(super) fn decode_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let nanoseconds = match parts.next() {
        None => 0,
        Some(fraction) => {
            let length = u32::try_from(fraction.len()).ok().filter(|length| *length <= 9)?;
            u32::try_from(number(fraction)?).ok()? * 10u32.pow(9 - length)
        }
    };
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds },
        (true, _) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// The key of an extended attribute. As GNU tar does, `=` and `%` in its name are escaped.
pub(super) fn encode_xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = XATTR.to_vec();
    for byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            other => key.push(*other),
        }
    }
    key
}

/// The name of an extended attribute; `None` where an escape is none of ours.
pub(super) fn decode_xattr_key(key: &[u8]) -> Option<Vec<u8>> {
    let mut rest = key.strip_prefix(XATTR)?;
    let mut name = Vec::with_capacity(rest.len());
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        if *first != b'%' {
            name.push(*first);
            continue;
        }
        let (escape, more) = rest.split_first_chunk::<2>()?;
        rest = more;
        name.push(match escape {
            b"25" => b'%',
            b"3D" => b'=',
            _ => return None,
        });
    }
    Some(name)
}

/// An ACL as text, which is what GNU tar reads; `None` for what is no ACL.
pub(super) fn acl_text(value: &[u8]) -> Option<Vec<u8>> {
    let entries = value.strip_prefix(&2u32.to_le_bytes())?;
    let mut text = String::new();
    if entries.len() % 8 != 0 {
        return None;
    }
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (class, named) = match tag {
            0x01 => ("user", false),
            0x02 => ("user", true),
            0x04 => ("group", false),
            0x08 => ("group", true),
            0x10 => ("mask", false),
            0x20 => ("other", false),
            _ => return None,
        };
        let bit = |mask: u16, letter: char| if permissions & mask != 0 { letter } else { '-' };
        if !text.is_empty() {
            text.push(',');
        }
        let id = if named { id.to_string() } else { String::new() };
        text.push_str(&format!("{class}:{id}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')));
    }
    Some(text.into_bytes())
}
