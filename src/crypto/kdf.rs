//! From a secret to the key that wraps the master key: Argon2id (RFC 9106) for passphrases,
//! HKDF-SHA256 (RFC 5869) for secrets that are random already.

use std::time::Duration;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::keys::{KEY_LEN, KeyEncryptionKey};
use super::secret::{KeyFile, Passphrase, RecoveryKey};

/// Bytes in the salt of a key slot.
pub const SALT_LEN: usize = 32;
/// Least memory for a new passphrase slot, in KiB (64 MiB).
pub const MIN_MEMORY_KIB: u32 = 64 * 1024;
/// Most memory that any passphrase slot may ask for, in KiB (1 GiB).
pub const MAX_MEMORY_KIB: u32 = 1024 * 1024;
/// Most lanes that any passphrase slot may ask for.
pub const MAX_LANES: u32 = 16;
/// Most work that any passphrase slot may ask for: memory in KiB times iterations (16 GiB passed
/// over once, some twenty seconds).
pub const MAX_WORK_KIB: u64 = 16 * 1024 * 1024;

/// Memory that a new slot takes where the machine has enough of it.
const USUAL_MEMORY_KIB: u32 = 256 * 1024;

/// Why parameters or a derivation are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KdfError {
    /// Outside the bounds that protect whoever opens a vault, or who relies on it.
    #[error(
        "Argon2id parameters out of bounds: {memory_kib} KiB, {iterations} iterations, {lanes} lanes"
    )]
    OutOfBounds {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes over the memory.
        iterations: u32,
        /// Lanes.
        lanes: u32,
    },
    /// The machine cannot give the memory.
    #[error("not enough memory to derive the key: {memory_kib} KiB are needed")]
    OutOfMemory {
        /// Memory in KiB.
        memory_kib: u32,
    },
}

/// The cost of Argon2id. A value is always within the bounds that protect whoever opens a vault:
/// at most [`MAX_MEMORY_KIB`], [`MAX_LANES`] and [`MAX_WORK_KIB`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Parameters {
    memory_kib: u32,
    iterations: u32,
    lanes: u32,
}

impl Argon2Parameters {
    /// For a new slot.
    ///
    /// # Errors
    /// [`KdfError::OutOfBounds`] below [`MIN_MEMORY_KIB`], or as [`Self::of_existing`].
    pub fn new(memory_kib: u32, iterations: u32, lanes: u32) -> Result<Self, KdfError> {
        let parameters = Self::of_existing(memory_kib, iterations, lanes)?;
        if memory_kib < MIN_MEMORY_KIB { Err(parameters.out_of_bounds()) } else { Ok(parameters) }
    }

    /// As found in a slot. There is no least cost here: whoever lowers the cost of an existing
    /// slot gets another key and opens nothing, and a cheap slot that opens was made so.
    ///
    /// # Errors
    /// [`KdfError::OutOfBounds`] above the bounds, or where Argon2 is not defined.
    pub fn of_existing(memory_kib: u32, iterations: u32, lanes: u32) -> Result<Self, KdfError> {
        let parameters = Self { memory_kib, iterations, lanes };
        let defined = iterations >= 1 && lanes >= 1 && memory_kib >= lanes.saturating_mul(8);
        let bounded = memory_kib <= MAX_MEMORY_KIB
            && lanes <= MAX_LANES
            && u64::from(memory_kib) * u64::from(iterations) <= MAX_WORK_KIB;
        if defined && bounded { Ok(parameters) } else { Err(parameters.out_of_bounds()) }
    }

    /// The least that Argon2 allows (8 KiB, one pass): protects nothing, and exists so that tests
    /// and fixtures open in microseconds.
    pub const fn insecure_for_tests() -> Self {
        Self { memory_kib: 8, iterations: 1, lanes: 1 }
    }

    /// Parameters for a new slot that take about `target` on this machine, which has
    /// `machine_memory_kib` of memory. 256 MiB where that is an eighth of the memory and quick
    /// enough, else 64 MiB with the three passes of RFC 9106 or more. Takes about as long as two passes.
    ///
    /// # Errors
    /// [`KdfError::OutOfMemory`].
    pub fn calibrate(target: Duration, machine_memory_kib: u64) -> Result<Self, KdfError> {
        if machine_memory_kib / 8 >= u64::from(USUAL_MEMORY_KIB) {
            let iterations = passes_within(target, USUAL_MEMORY_KIB)?;
            if iterations >= 2 {
                return Self::new(USUAL_MEMORY_KIB, iterations, 1);
            }
        }
        Self::new(MIN_MEMORY_KIB, passes_within(target, MIN_MEMORY_KIB)?.max(3), 1)
    }

    /// Memory in KiB.
    pub fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Lanes.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    fn out_of_bounds(self) -> KdfError {
        let Self { memory_kib, iterations, lanes } = self;
        KdfError::OutOfBounds { memory_kib, iterations, lanes }
    }

    fn hash(
        self,
        secret: &[u8],
        salt: &[u8; SALT_LEN],
    ) -> Result<Zeroizing<[u8; KEY_LEN]>, KdfError> {
        self.hash_in(&mut self.memory()?, secret, salt)
    }

    fn params(self) -> Result<Params, KdfError> {
        Params::new(self.memory_kib, self.iterations, self.lanes, Some(KEY_LEN))
            .map_err(|_| self.out_of_bounds())
    }

    /// What is filled from the secret: hence wiped; and asked for in a way that can be refused.
    fn memory(self) -> Result<Memory, KdfError> {
        let count = self.params()?.block_count();
        let mut memory = Zeroizing::new(Vec::new());
        memory.try_reserve_exact(count).map_err(|_| self.out_of_memory())?;
        memory.resize(count, Block::new());
        Ok(memory)
    }

    fn hash_in(
        self,
        memory: &mut Memory,
        secret: &[u8],
        salt: &[u8; SALT_LEN],
    ) -> Result<Zeroizing<[u8; KEY_LEN]>, KdfError> {
        let mut output = Zeroizing::new([0u8; KEY_LEN]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params()?)
            .hash_password_into_with_memory(
                secret,
                salt,
                output.as_mut_slice(),
                memory.as_mut_slice(),
            )
            .map_err(|_| self.out_of_memory())?;
        Ok(output)
    }

    fn out_of_memory(self) -> KdfError {
        KdfError::OutOfMemory { memory_kib: self.memory_kib }
    }
}

type Memory = Zeroizing<Vec<Block>>;

/// What this thread has worked so far. Others' work beside it must not make a slot cheaper.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// How many passes fit; at least one. Getting and wiping the memory costs about as much as a
/// pass, and is paid for once.
fn passes_within(target: Duration, memory_kib: u32) -> Result<u32, KdfError> {
    let parameters = Argon2Parameters::of_existing(memory_kib, 1, 1)?;
    let begun = worked();
    let mut memory = parameters.memory()?;
    let got = worked();
    parameters.hash_in(&mut memory, b"calibration", &[0; SALT_LEN])?;
    let filled = worked();
    drop(memory);
    let around = got.saturating_sub(begun) + worked().saturating_sub(filled);
    let pass = filled.saturating_sub(got).as_nanos().max(1);
    let passes = target.saturating_sub(around).as_nanos() / pass;
    let most = MAX_WORK_KIB / u64::from(memory_kib);
    let passes = passes.clamp(1, u128::from(most));
    Ok(u32::try_from(passes).unwrap_or(u32::MAX))
}

/// HKDF-SHA256 of a secret that is random already.
fn extract_and_expand(secret: &[u8], salt: &[u8; SALT_LEN], label: &[u8]) -> KeyEncryptionKey {
    let mut output = Zeroizing::new([0u8; KEY_LEN]);
    Hkdf::<Sha256>::new(Some(salt), secret)
        .expand(label, output.as_mut())
        .expect("32 bytes are within the 8160 that HKDF-SHA256 can give");
    KeyEncryptionKey::from_bytes(&output)
}

impl KeyEncryptionKey {
    /// From a passphrase, by Argon2id version 0x13 with the slot's salt.
    ///
    /// # Errors
    /// [`KdfError::OutOfMemory`].
    pub fn from_passphrase(
        passphrase: &Passphrase,
        salt: &[u8; SALT_LEN],
        parameters: Argon2Parameters,
    ) -> Result<Self, KdfError> {
        Ok(Self::from_bytes(&*parameters.hash(passphrase.expose(), salt)?))
    }

    /// From the whole content of a key file, by HKDF-SHA256 with the slot's salt. Label
    /// `strongroom v1 key file`.
    pub fn from_key_file(key_file: &KeyFile, salt: &[u8; SALT_LEN]) -> Self {
        extract_and_expand(key_file.expose(), salt, b"strongroom v1 key file")
    }

    /// From the 32 bytes of a recovery key, by HKDF-SHA256 with the slot's salt. Label
    /// `strongroom v1 recovery key`.
    pub fn from_recovery_key(recovery_key: &RecoveryKey, salt: &[u8; SALT_LEN]) -> Self {
        extract_and_expand(recovery_key.expose(), salt, b"strongroom v1 recovery key")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::test_support::hex;
    use super::*;
    use proptest::prelude::*;

    const SALT: [u8; SALT_LEN] = {
        let mut salt = [0; SALT_LEN];
        let mut at = 0u8;
        while (at as usize) < SALT_LEN {
            salt[at as usize] = at;
            at += 1;
        }
        salt
    };

    /// Expected values from Python's `cryptography` package (OpenSSL).
    #[test]
    fn derivations_are_those_of_the_format() {
        let passphrase = Passphrase::new(Zeroizing::new(b"correct horse".to_vec())).unwrap();
        let parameters = Argon2Parameters::of_existing(64, 2, 2).unwrap();
        let key = KeyEncryptionKey::from_passphrase(&passphrase, &SALT, parameters).unwrap();
        assert_eq!(
            hex(key.expose()),
            "5bb25b9d3247ec86c8ce1a4939584fb24d89a94a67a096d60d0510056d9513fe"
        );
        let key_file = KeyFile::new(Zeroizing::new(vec![7; 40])).unwrap();
        assert_eq!(
            hex(KeyEncryptionKey::from_key_file(&key_file, &SALT).expose()),
            "aa2ef2145d26691aed0ee4a353110154a185f0c02d29ff65b78238d1d9a0a987"
        );
        let recovery = RecoveryKey::parse(&format!("{}art", "abandon ".repeat(23))).unwrap();
        assert_eq!(
            hex(KeyEncryptionKey::from_recovery_key(&recovery, &SALT).expose()),
            "608d91c526fb47760f54c357c9ad63bd4863ae7bd36982d079251d4b67144245"
        );
    }

    #[test]
    fn bounds_hold_for_existing_slots() {
        let refused = |m, t, p| Argon2Parameters::of_existing(m, t, p).is_err();
        assert!(!refused(8, 1, 1));
        assert!(refused(7, 1, 1));
        assert!(refused(8, 0, 1));
        assert!(refused(8, 1, 0));
        assert!(refused(15, 1, 2));
        assert!(!refused(MAX_MEMORY_KIB, 16, 16));
        assert!(refused(MAX_MEMORY_KIB, 17, 1));
        assert!(refused(MAX_MEMORY_KIB + 1, 1, 1));
        assert!(refused(u32::MAX, u32::MAX, 1));
        assert!(refused(MAX_MEMORY_KIB, 1, MAX_LANES + 1));
        assert!(refused(8, u32::MAX, 1));
    }

    #[test]
    fn new_slots_are_not_cheap() {
        assert!(Argon2Parameters::new(MIN_MEMORY_KIB, 1, 1).is_ok());
        assert_eq!(
            Argon2Parameters::new(MIN_MEMORY_KIB - 1, 4, 1),
            Err(KdfError::OutOfBounds { memory_kib: MIN_MEMORY_KIB - 1, iterations: 4, lanes: 1 })
        );
    }

    #[test]
    fn calibration_keeps_the_bounds() {
        // A target of nothing and one of days: the extremes of any machine.
        let least = Argon2Parameters::calibrate(Duration::ZERO, u64::MAX).unwrap();
        assert_eq!((least.memory_kib(), least.iterations()), (MIN_MEMORY_KIB, 3));
        let most = Argon2Parameters::calibrate(Duration::from_secs(1_000_000), u64::MAX).unwrap();
        assert_eq!((most.memory_kib(), most.iterations()), (USUAL_MEMORY_KIB, 64));
        let small = Argon2Parameters::calibrate(Duration::from_secs(1_000_000), 1 << 20).unwrap();
        assert_eq!((small.memory_kib(), small.iterations()), (MIN_MEMORY_KIB, 256));
    }

    proptest! {
        #[test]
        fn any_numbers_are_bounded(memory: u32, iterations: u32, lanes: u32) {
            if let Ok(parameters) = Argon2Parameters::of_existing(memory, iterations, lanes) {
                let work = u64::from(parameters.memory_kib()) * u64::from(parameters.iterations());
                prop_assert!(work <= MAX_WORK_KIB && parameters.memory_kib() <= MAX_MEMORY_KIB);
            }
        }
    }
}
