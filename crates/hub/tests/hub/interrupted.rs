//! Processes that are killed while they fetch, and processes that fetch at the same time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use candlewick_hub::{Hub, Options};

use crate::server::{COMMIT, Fault, Server, bytes, sha256};

const SIZE: usize = 300_000;

fn server() -> Server {
    let server = Server::start();
    server.publish("datasets/someone/rows", "main", COMMIT, &[("rows.parquet", bytes(SIZE, 5))]);
    server
}

/// Another process that fetches the file: this program again, with one test.
fn spawn(server: &Server, cache: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "interrupted::fetch_in_a_process_of_its_own", "--quiet"]);
    command.env("TEST_HUB_ENDPOINT", &server.address).env("TEST_HUB_CACHE", cache);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
#[ignore = "the body of another process"]
#[expect(clippy::disallowed_methods, reason = "how the tests tell it where to fetch from")]
fn fetch_in_a_process_of_its_own() {
    let (Ok(endpoint), Ok(cache)) = (std::env::var("TEST_HUB_ENDPOINT"), std::env::var("TEST_HUB_CACHE")) else {
        return;
    };
    let options = Options { endpoint: Some(endpoint), cache: Some(cache.into()), ..Options::default() };
    Hub::new(options).unwrap().dataset_file("someone/rows", "main", "rows.parquet").unwrap();
}

fn blob(cache: &Path) -> PathBuf {
    cache.join("datasets--someone--rows/blobs").join(sha256(&bytes(SIZE, 5)))
}

/// Waits until the part has so many bytes.
fn wait_for_part(cache: &Path, size: u64, child: &mut Child) {
    let part = blob(cache).with_extension("incomplete");
    while std::fs::metadata(&part).map_or(0, |found| found.len()) < size {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::yield_now();
    }
}

#[test]
fn killed_in_the_middle_and_run_again() {
    let server = server();
    let cache = tempfile::tempdir().unwrap();
    server.fail("storage", 3, Fault::Drip(20));
    for size in [1, 40_000, 90_000] {
        let mut child = spawn(&server, cache.path());
        wait_for_part(cache.path(), size, &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!blob(cache.path()).exists(), "a part has no final name");
        assert!(!cache.path().join("datasets--someone--rows/snapshots").join(COMMIT).exists());
    }
    server.forget();
    let path = server.hub(&cache).dataset_file("someone/rows", "main", "rows.parquet").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes(SIZE, 5));
    let last = server.requests().into_iter().rfind(|request| request.is_storage).unwrap();
    assert!(last.from.is_some_and(|from| (90_000..SIZE).contains(&from)), "{last:?}");
}

#[test]
fn several_processes_fetch_one_file_once() {
    let server = server();
    let cache = tempfile::tempdir().unwrap();
    server.fail("storage", 1, Fault::Drip(2));
    let children: Vec<_> = (0..3).map(|_| spawn(&server, cache.path())).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let path = server.hub(&cache).dataset_file("someone/rows", "main", "rows.parquet").unwrap();
                assert_eq!(std::fs::read(path).unwrap(), bytes(SIZE, 5));
            });
        }
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let fetched = server.requests().into_iter().filter(|request| request.is_storage).count();
    assert_eq!(fetched, 1, "whoever comes second waits and finds it");
}
