//! The targets without a fuzzer: every example is taken, and a bounded number of changed examples
//! does no harm. The same bytes at every run.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Changed examples of one target: some, for a fuzzer finds more.
const ROUNDS: usize = 300;

fn change(bytes: &mut Vec<u8>, random: &mut StdRng) {
    let at = random.random_range(0..=bytes.len());
    let end = (at + random.random_range(0..40usize)).min(bytes.len());
    match random.random_range(0..6u8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8u8),
        1 if at < bytes.len() => bytes[at] = *b"\x00\xff/.0\n\"9".get(end - at).unwrap_or(&b' '),
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        4 => {
            let piece = bytes[at..end].to_vec();
            let to = random.random_range(0..=bytes.len());
            bytes.splice(to..to, piece);
        }
        _ => bytes.insert(at, random.random()),
    }
}

#[test]
fn examples_are_taken_and_changed_ones_do_no_harm() {
    for target in TARGETS {
        let examples = (target.examples)();
        assert!(!examples.is_empty(), "{} has no examples", target.name);
        for (number, example) in examples.iter().enumerate() {
            assert!((target.run)(example), "{}: example {number} is refused", target.name);
        }
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..ROUNDS / examples.len() {
            for example in &examples {
                let mut bytes = example.clone();
                for _ in 0..random.random_range(1..4u8) {
                    change(&mut bytes, &mut random);
                }
                (target.run)(&bytes);
            }
        }
    }
}

#[test]
fn nothing_is_no_example() {
    for target in TARGETS {
        (target.run)(&[]);
    }
}
