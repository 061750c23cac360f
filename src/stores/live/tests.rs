#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::stores::scan;

fn only_component(root: &Path) -> Component {
    let mut components = scan(root).unwrap().components;
    assert_eq!(components.len(), 1);
    components.remove(0)
}

/// Money moves between accounts all the time; every copy has all of it.
#[test]
fn sqlite_under_a_writer() {
    for mode in ["wal", "delete"] {
        let room = tempfile::tempdir().unwrap();
        let (root, out) = (room.path().join("root"), room.path().join("out"));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&out).unwrap();
        let database = root.join("bank.db");
        let writer = Connection::open(&database).unwrap();
        writer
            .execute_batch(&format!(
                "pragma journal_mode={mode}; pragma synchronous=off;
                 create table account (id integer primary key, money integer, junk blob);
                 with recursive n(i) as (select 1 union all select i + 1 from n where i < 500)
                 insert into account select i, 100, zeroblob(2000) from n;"
            ))
            .unwrap();
        writer.busy_timeout(PATIENCE).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut moved = 0i64;
            while !ended.load(Ordering::Relaxed) {
                moved += 1;
                writer
                    .execute_batch(&format!(
                        "begin immediate;
                         update account set money = money - 1 where id = 1 + {moved} % 500;
                         update account set money = money + 1 where id = 1 + {moved} * 7 % 500;
                         commit;"
                    ))
                    .unwrap();
            }
            moved
        });
        for number in 0..10 {
            let component = only_component(&root);
            let copy = out.join(format!("copy {number}"));
            let made = copy_live(&root, &component, &copy).unwrap().unwrap();
            assert_eq!(made.file, Path::new("bank.db"));
            assert!(made.replaced.contains(&PathBuf::from("bank.db-wal")));
            let copied = Connection::open(&copy).unwrap();
            let money: i64 =
                copied.query_row("select sum(money) from account", [], |row| row.get(0)).unwrap();
            assert_eq!(money, 50_000, "{mode}");
            let told: String =
                copied.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(told, "ok");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(thread.join().unwrap() > 0);
    }
}

#[test]
fn what_has_no_copy_of_its_own_and_what_is_damaged() {
    let room = tempfile::tempdir().unwrap();
    let component = Component {
        kind: StoreKind::RocksDb,
        path: PathBuf::new(),
        files: Vec::new(),
        bytes: 0,
        state: super::super::LiveState::Unknown,
    };
    let copy = room.path().join("copy");
    assert_eq!(copy_live(room.path(), &component, &copy).unwrap(), None);
    assert!(!copy.exists());
    std::fs::write(room.path().join("data.mdb"), [0; 100]).unwrap();
    let component = Component { kind: StoreKind::Lmdb, ..component };
    assert!(copy_live(room.path(), &component, &copy).is_err());
    // Nothing that is there is written over.
    std::fs::write(room.path().join("data.mdb"), [0xff; 9000]).unwrap();
    assert!(copy_live(room.path(), &component, &copy).is_err());
}
