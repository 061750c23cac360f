//! Owns the check of an unmounted vault: finding what is damaged, what a crash left behind, and
//! mending or salvaging it. It must know nothing of FUSE, terminals or how findings are shown.
//!
//! A [`Session`] holds the vault's lock. [`Session::check`] only reads; each [`Finding`] may carry a
//! [`Remedy`], and the remedies together are the plan that [`Session::repair`] carries out. No
//! remedy gives up bytes that could still be read: what is damaged for good stays where it is, and
//! [`Session::salvage`] copies what is left of it elsewhere.

mod data;
mod finding;
mod mend;
mod repair;
mod salvage;
mod session;
mod structure;
mod walk;

pub use finding::{Finding, Location, Problem, Remedy, Severity};
pub use repair::Outcome;
pub use salvage::{Salvage, SalvagedFile};
pub use session::{CheckError, Observer, Options, Phase, Report, Session, Totals, Unobserved};

#[cfg(test)]
mod tests;
