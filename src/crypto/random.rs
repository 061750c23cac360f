//! Random bytes: from the operating system for keys and IDs, from a per-thread generator that
//! the operating system seeds for block nonces.

use rand::Rng as _;

use super::aead::NONCE_LEN;

/// Random bytes from the operating system, for keys, salts and IDs.
///
/// # Panics
/// When the operating system cannot give random bytes; nothing secret can be made then.
pub fn random_array<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Bytes for a nonce from this thread's cryptographic generator. AES-GCM-SIV tolerates a repeated
/// nonce (RFC 8452 section 1), so a fast generator is enough here.
pub fn random_nonce_bytes() -> [u8; NONCE_LEN] {
    let mut bytes = [0u8; NONCE_LEN];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}
