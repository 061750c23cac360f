//! Owns sealed tar archives: writer, reader, manifest. Knows tree readers and writers, not the vault.
