//! A filesystem in memory on which the power can be cut, to try what lies on it: reading sees
//! everything, but what was not synced survives a cut only by chance.
//!
//! `powercut MOUNTPOINT --from DIRECTORY --to DIRECTORY [--after COUNT] [--fault FAULT]
//! [--metadata MODEL] [--seed NUMBER]` serves the disk kept in the one directory (an empty one if
//! there is none) until it is unmounted or the power is cut, and keeps in the other what the disk
//! has then. The cut comes at the `COUNT`th change or sync, or at SIGUSR1. To look at a disk that
//! was kept, serve it.
//!
//! FAULT says what becomes of data not synced: all of it is gone (`dropped`), each page of 4 KiB
//! (`pages`) or each sector of 512 bytes (`sectors`) is there or not, or all of it but for a part
//! of the last write (`last-torn`). MODEL says what becomes of names and attributes: all of them
//! are durable at once (`immediate`), or a beginning of their changes as on ext4 and xfs
//! (`ordered`), or in addition what was synced as on btrfs and f2fs (`per-file`).
//!
//! Independent of `strongroom::backing::crash` on purpose: what one takes for granted the other
//! may not.

mod content;
mod disk;
mod file;
mod image;
mod machine;
mod serve;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use clap::Parser;

use self::disk::{Cut, Disk, Metadata};
use self::file::Fault;
use self::machine::Machine;
use self::serve::Served;

/// A filesystem in memory on which the power can be cut.
#[derive(Parser)]
struct Arguments {
    /// Where it is mounted.
    mountpoint: PathBuf,
    /// The disk to serve.
    #[arg(long)]
    from: PathBuf,
    /// Where to keep what it has in the end.
    #[arg(long)]
    to: PathBuf,
    /// At which change or sync the power is cut.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    after: Option<u64>,
    /// What becomes of data that was not synced.
    #[arg(long, value_enum, default_value = "pages")]
    fault: Fault,
    /// What becomes of names and attributes that were not synced.
    #[arg(long, value_enum, default_value = "ordered")]
    metadata: Metadata,
    /// For everything left to chance.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let Arguments { fault, metadata, seed, .. } = arguments;
    let disk = Disk::new(image::load(&arguments.from)?, Cut { fault, metadata, seed });
    let (machine, end) = Machine::new(disk, arguments.after, arguments.to);
    let machine = Arc::new(machine);

    let mut signals = signal_hook::iterator::Signals::new([libc::SIGUSR1])?;
    let switch = Arc::clone(&machine);
    thread::spawn(move || signals.forever().for_each(|_| switch.cut()));

    let mut config = fuser::Config::default();
    config.mount_options = vec![
        fuser::MountOption::FSName("powercut".into()),
        fuser::MountOption::Dev,
        fuser::MountOption::Suid,
    ];
    config.acl = fuser::SessionACL::All;
    let session =
        fuser::Session::new(Served(Arc::clone(&machine)), &arguments.mountpoint, &config)?;
    thread::spawn(move || {
        // However the connection ends, by an unmount or by force.
        let _ = session.run();
        machine.unmounted();
    });
    let words = end.recv()??;
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    tracing::info!("{words}");
    Ok(())
}
