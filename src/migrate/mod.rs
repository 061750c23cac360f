//! Owns migrations: plan, journal, execute and resume, verify, switch, wipe, roll back. Names neither FUSE nor the vault's insides.
