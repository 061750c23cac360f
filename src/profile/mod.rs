//! Owns app profiles: parse, validate, resolve paths.
