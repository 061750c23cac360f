//! Just enough of Rust's grammar to find the paths that a source file names: comments and literals
//! are left out, `use` groups are expanded, and `crate`, `self` and `super` are resolved.

/// A piece of source text that matters: a word, or a single sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    /// Counted from 1.
    pub(super) line: usize,
}

/// A path from the crate's root that a source file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// Splits source text into tokens, without comments and literals.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let rest = &source[at..];
        let first = bytes[at];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += block_comment(rest);
        } else if let Some(len) = raw_string(rest).or_else(|| string(rest)) {
            at += len;
        } else if first == b'\'' {
            at += char_or_lifetime(rest);
        } else if is_word(first) {
            at += rest.bytes().take_while(|byte| is_word(*byte)).count();
            found.push(Token { text: &source[start..at], line });
        } else {
            // Signs outside of ASCII stand in no path: one byte after the other.
            at += rest.chars().next().map_or(1, char::len_utf8);
            if !first.is_ascii_whitespace() {
                found.push(Token { text: &source[start..at], line });
            }
        }
        line += bytes[start..at].iter().filter(|byte| **byte == b'\n').count();
    }
    found
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

/// The length of a block comment, which may hold others.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The length of the string literal that `text` begins with, with its prefix.
fn string(text: &str) -> Option<usize> {
    let quote = text.find('"').filter(|at| matches!(&text[..*at], "" | "b" | "c"))?;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(quote + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// The length of the raw string literal that `text` begins with, with its prefix.
fn raw_string(text: &str) -> Option<usize> {
    let body = ["r", "br", "cr"].into_iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let hashes = body.bytes().take_while(|byte| *byte == b'#').count();
    let content = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let before = text.len() - content.len();
    Some(content.find(&end).map_or(text.len(), |at| before + at + end.len()))
}

/// The length of a character literal, or of the quote that begins a lifetime.
fn char_or_lifetime(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        // The character after the backslash may be a quote.
        Some((_, '\\')) => text[3..].find('\'').map_or(text.len(), |at| at + 4),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

/// All paths that begin at the crate's root, or reach it through `super`, in a file that is the
/// module `module`. A path of nothing (`crate` by itself, or all of it) is among them.
pub(super) fn references(module: &[&str], source: &str) -> Vec<Reference> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    // What every open brace is: the name of the inline module that it began, or nothing.
    let mut braces: Vec<Option<&str>> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let before = |count: usize| at.checked_sub(count).map_or("", |at| tokens[at].text);
        match token.text {
            "{" => braces.push((before(2) == "mod").then(|| before(1))),
            "}" => drop(braces.pop()),
            "crate" if before(1) == "(" && text(&tokens, at + 1) == ")" => {}
            "crate" | "super" | "self" if before(1) != ":" => {
                let inline = braces.iter().copied().flatten();
                let mut base: Vec<&str> = match token.text {
                    "crate" => Vec::new(),
                    _ => module.iter().copied().chain(inline).collect(),
                };
                let mut next = at + 1;
                if token.text == "super" {
                    base.pop();
                }
                while is_separator(&tokens, next) && text(&tokens, next + 2) == "super" {
                    base.pop();
                    next += 3;
                }
                if token.text == "self" && !is_separator(&tokens, next) {
                    continue;
                }
                let base: Vec<String> = base.into_iter().map(str::to_owned).collect();
                for path in continuations(&tokens, &mut next, &base) {
                    found.push(Reference { path, line: token.line });
                }
            }
            _ => {}
        }
    }
    found
}

fn text<'a>(tokens: &[Token<'a>], at: usize) -> &'a str {
    tokens.get(at).map_or("", |token| token.text)
}

fn is_separator(tokens: &[Token<'_>], at: usize) -> bool {
    text(tokens, at) == ":" && text(tokens, at + 1) == ":"
}

/// The paths that `base` becomes by what follows at `next`: `::name`, or `::{several}`.
fn continuations(tokens: &[Token<'_>], next: &mut usize, base: &[String]) -> Vec<Vec<String>> {
    let mut path = base.to_vec();
    while is_separator(tokens, *next) {
        let step = text(tokens, *next + 2);
        if step == "{" {
            *next += 3;
            return group(tokens, next, &path);
        }
        if !step.bytes().all(is_word) {
            break;
        }
        path.push(step.to_owned());
        *next += 3;
    }
    vec![path]
}

/// The paths of a `use` group, of which the opening brace was passed.
fn group(tokens: &[Token<'_>], next: &mut usize, base: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    loop {
        match text(tokens, *next) {
            "" => return paths,
            "}" => {
                *next += 1;
                return paths;
            }
            "," => *next += 1,
            "self" => {
                paths.push(base.to_vec());
                *next += 1;
            }
            "as" => *next += 2,
            "*" => {
                paths.push([base, &["*".to_owned()]].concat());
                *next += 1;
            }
            name => {
                let step = [base, &[name.to_owned()]].concat();
                *next += 1;
                paths.extend(continuations(tokens, next, &step));
            }
        }
    }
}

/// The modules that a file declares for tests alone, in files of their own.
pub(super) fn test_modules(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    for at in test_attributes(&tokens) {
        let next = after_attributes(&tokens, at);
        if text(&tokens, next) == "mod" && text(&tokens, next + 2) == ";" {
            found.push(text(&tokens, next + 1).to_owned());
        }
    }
    found
}

/// How many lines a file has before its tests.
pub(super) fn production_lines(source: &str) -> usize {
    let tokens = tokens(source);
    test_attributes(&tokens)
        .find(|at| {
            let next = after_attributes(&tokens, *at);
            text(&tokens, next) == "mod" && text(&tokens, next + 2) == "{"
        })
        .map_or(source.lines().count(), |at| tokens[at].line - 1)
}

/// Where `#[cfg(test)]` stands.
fn test_attributes<'a>(tokens: &'a [Token<'a>]) -> impl Iterator<Item = usize> + 'a {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    (0..tokens.len()).filter(|at| {
        ATTRIBUTE.iter().enumerate().all(|(offset, sign)| text(tokens, at + offset) == *sign)
    })
}

/// Where the item begins that has the attributes from `at` on.
fn after_attributes(tokens: &[Token<'_>], at: usize) -> usize {
    let mut next = at;
    while text(tokens, next) == "#" {
        let mut depth = 0;
        next += 1;
        loop {
            match text(tokens, next) {
                "[" => depth += 1,
                "]" => depth -= 1,
                _ => {}
            }
            next += 1;
            if depth == 0 {
                break;
            }
        }
    }
    next
}
