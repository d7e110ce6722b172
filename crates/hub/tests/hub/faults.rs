//! What goes wrong on the way, and what is said about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use candlewick_hub::{Hub, Options};

use crate::client::request;
use crate::server::{COMMIT, Fault, Server, bytes, sha256};

const REPO: &str = "datasets/someone/rows";
const SMALL: &str = "rows.csv";
const LARGE: &str = "rows.parquet";

/// A server with one small and one large file of a data set.
fn server() -> Server {
    let server = Server::start();
    server.publish(REPO, "main", COMMIT, &[(SMALL, bytes(5000, 1)), (LARGE, bytes(5000, 2))]);
    server
}

fn expected(file: &str) -> Vec<u8> {
    bytes(5000, if file == SMALL { 1 } else { 2 })
}

fn blobs(cache: &tempfile::TempDir) -> PathBuf {
    cache.path().join("datasets--someone--rows/blobs")
}

/// The names of the bytes in the cache.
fn names(blobs: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(blobs).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn get(hub: &Hub, file: &str) -> Result<Vec<u8>, String> {
    let path = hub.dataset_file("someone/rows", "main", file).map_err(|error| error.to_string())?;
    Ok(std::fs::read(path).unwrap())
}

/// The error of one try, and nothing under a final name.
fn refused(fault: Fault, file: &str, change: impl Fn(&mut Options)) -> String {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.fail(if file == LARGE { "storage" } else { file }, 100, fault);
    let mut options = server.options(&cache);
    change(&mut options);
    let error = get(&Hub::new(options).unwrap(), file).unwrap_err();
    assert!(!error.contains("secret"), "{error}");
    let left = names(&blobs(&cache));
    assert!(left.iter().all(|name| name.ends_with(".incomplete")), "{left:?}");
    error.strip_prefix(&format!("someone/rows at revision main: {file} could not be fetched: ")).unwrap().to_owned()
}

#[test]
fn refusals_say_what_to_do() {
    let plain = |status, headers| refused(Fault::Status(status, headers), SMALL, |_| {});
    let with_token =
        |status| refused(Fault::Status(status, ""), SMALL, |options| options.token = Some("hf_secret".into()));
    assert_eq!(
        plain(401, ""),
        "access denied (401); check the name, accept the repository's terms on the hub, and set HF_TOKEN to a token that \
         may read it"
    );
    assert_eq!(
        with_token(401),
        "access denied (401); check the name, accept the repository's terms on the hub, and check the token (HF_TOKEN): \
         it is wrong, has expired, or may not read it"
    );
    assert_eq!(
        with_token(403),
        "access denied (403); check the name, accept the repository's terms on the hub, and use a token (HF_TOKEN) that \
         may read it"
    );
    assert_eq!(plain(404, ""), "there is no such repository, revision or file (404); check the name and the revision");
    assert_eq!(
        plain(429, "retry-after: 120\r\n"),
        "too many requests (429); the server asks to wait 120 s; try again later, or set HF_TOKEN"
    );
    assert_eq!(plain(429, ""), "too many requests (429); try again later, or set HF_TOKEN");
    assert_eq!(plain(503, ""), "the server answered 503 (5 tries); try again later");
    assert_eq!(plain(418, ""), "the server answered 418; try again later");
}

#[test]
fn what_passes_is_tried_again() {
    for fault in [
        Fault::Status(500, ""),
        Fault::Status(503, "retry-after: 0\r\n"),
        Fault::Status(429, ""),
        Fault::Status(429, "retry-after: 0\r\n"),
    ] {
        let (server, cache) = (server(), tempfile::tempdir().unwrap());
        server.fail("/revision/", 2, fault.clone());
        server.fail("/resolve/", 2, fault.clone());
        server.fail("storage", 2, fault.clone());
        assert_eq!(get(&server.hub(&cache), LARGE).unwrap(), expected(LARGE), "{fault:?}");
    }
}

#[test]
fn a_server_is_waited_for_as_long_as_it_asks() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.fail("/revision/", 1, Fault::Status(429, "retry-after: 1\r\n"));
    let patient = Options { longest_pause: Duration::from_secs(2), ..server.options(&cache) };
    assert_eq!(get(&Hub::new(patient).unwrap(), SMALL).unwrap(), expected(SMALL));
    server.fail("/resolve/", 1, Fault::Status(429, "retry-after: 3\r\n"));
    let impatient = Options { longest_pause: Duration::from_secs(2), ..server.options(&cache) };
    assert!(get(&Hub::new(impatient).unwrap(), LARGE).unwrap_err().contains("asks to wait 3 s"));
}

#[test]
fn a_cut_body_is_gone_on_from() {
    for file in [SMALL, LARGE] {
        for place in [0, 1, 2500, 4999] {
            let (server, cache) = (server(), tempfile::tempdir().unwrap());
            server.fail(if file == LARGE { "storage" } else { file }, 1, Fault::Cut(place));
            // Without another try the part stays, and the next call goes on from it.
            let once = Hub::new(Options { retries: 0, ..server.options(&cache) }).unwrap();
            let error = get(&once, file).unwrap_err();
            let told =
                format!("the connection broke after {place} of 5000 bytes; run it again: the download goes on from");
            assert!(error.contains(&told), "{error}");
            let left = names(&blobs(&cache));
            assert!(left.iter().all(|name| name.ends_with(".incomplete")), "{left:?}");
            server.forget();
            assert_eq!(get(&server.hub(&cache), file).unwrap(), expected(file));
            let last = server.requests().into_iter().rfind(|request| request.method == "GET").unwrap();
            assert_eq!(last.from, (place > 0).then_some(place), "{last:?}");
            assert_eq!(names(&blobs(&cache)).len(), 1);
        }
    }
}

#[test]
fn several_cuts_in_one_call() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.fail("storage", 4, Fault::Cut(1000));
    assert_eq!(get(&server.hub(&cache), LARGE).unwrap(), expected(LARGE));
    let error = refused(Fault::Cut(0), LARGE, |_| {});
    assert!(error.starts_with("the connection broke after 0 of 5000 bytes (5 tries)"), "{error}");
}

#[test]
fn the_same_bytes_again_are_no_progress() {
    let size = 3 << 20;
    for (cut, fetched) in [(Fault::CutWhole(2 << 20), false), (Fault::Cut(600_000), true)] {
        let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
        server.publish(REPO, "main", COMMIT, &[(LARGE, bytes(size, 3))]);
        server.fail("storage", 40, cut.clone());
        let options = Options { retries: 5, ..server.options(&cache) };
        let outcome = get(&Hub::new(options).unwrap(), LARGE);
        assert_eq!(outcome.is_ok(), fetched, "{cut:?}: {:?}", outcome.err());
        let asked = server.requests().iter().filter(|request| request.is_storage).count();
        assert_eq!(asked, 6, "{cut:?}");
    }
}

#[test]
fn another_length_than_announced_is_no_file() {
    for (length, coming) in [(4000, 4000), (6000, 6000), (0, 0)] {
        let error = refused(Fault::Length(length), LARGE, |_| {});
        assert_eq!(
            error,
            format!(
                "5000 bytes were announced, and the answer brings 0 + {coming}; check HF_ENDPOINT, and whether a proxy \
                 changes its answers"
            )
        );
    }
}

#[test]
fn other_bytes_than_announced_are_removed() {
    let error = refused(Fault::Changed, LARGE, |_| {});
    let (found, announced) = (expected(LARGE), sha256(&expected(LARGE)));
    let found = sha256(&[&[found[0] ^ 1], &found[1..]].concat());
    let told = format!("its SHA-256 is {found}, and the hub announced {announced}; the broken copy was removed");
    assert!(error.starts_with(&told), "{error}");

    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.fail("storage", 1, Fault::Changed);
    get(&server.hub(&cache), LARGE).unwrap_err();
    assert_eq!(get(&server.hub(&cache), LARGE).unwrap(), expected(LARGE));
}

#[test]
fn whatever_a_part_holds_the_file_is_right() {
    let part_of = |bytes: &[u8], ends: bool| if ends { bytes.to_vec() } else { bytes[..2000].to_vec() };
    let right = expected(LARGE);
    let parts = [
        ("the start", part_of(&right, false), true),
        ("other bytes", vec![7; 2000], true),
        ("all of it", part_of(&right, true), false),
        ("all of it, wrong", vec![7; 5000], true),
        ("more than all", vec![7; 9000], true),
        ("nothing", Vec::new(), true),
    ];
    for (what, part, asks) in parts {
        for ignores_range in [false, true] {
            let (server, cache) = (server(), tempfile::tempdir().unwrap());
            std::fs::create_dir_all(blobs(&cache)).unwrap();
            std::fs::write(blobs(&cache).join(format!("{}.incomplete", sha256(&right))), &part).unwrap();
            if ignores_range {
                server.fail("storage", 5, Fault::NoRange);
            }
            assert_eq!(get(&server.hub(&cache), LARGE).unwrap(), right, "{what}, {ignores_range}");
            assert_eq!(server.requests().iter().any(|request| request.is_storage), asks, "{what}");
        }
    }
}

#[test]
fn a_silent_server_is_not_waited_for_for_ever() {
    let short = |options: &mut Options| {
        options.timeout = Duration::from_millis(500);
        options.retries = 1;
    };
    let text = "sent nothing for 0.5 s (2 tries); try again later (a download goes on from where it stopped), or wait \
                longer (HF_HUB_DOWNLOAD_TIMEOUT)";
    assert_eq!(refused(Fault::Silence(3000), SMALL, short), format!("127.0.0.1 {text}"));
    assert_eq!(refused(Fault::Stall(1000, 3000), LARGE, short), format!("the server {text}"));
}

#[test]
fn a_slow_body_is_no_silence() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.fail("storage", 1, Fault::Drip(300));
    let options = Options { timeout: Duration::from_secs(1), retries: 0, ..server.options(&cache) };
    // Five pieces take longer than the limit; none of them does.
    assert_eq!(get(&Hub::new(options).unwrap(), LARGE).unwrap(), expected(LARGE));
}

#[test]
fn a_refused_connection() {
    let cache = tempfile::tempdir().unwrap();
    let options = Options { endpoint: Some("http://127.0.0.1:1".into()), ..server().options(&cache) };
    let error = Hub::new(options).unwrap().dataset(&request("someone/rows")).unwrap_err().to_string();
    let start = "someone/rows at revision refs/convert/parquet could not be looked up: no connection to 127.0.0.1 \
                 (5 tries): ";
    let end = "; check the network, the proxy and HF_ENDPOINT, or work offline with what is cached (HF_HUB_OFFLINE=1)";
    assert!(error.starts_with(start) && error.ends_with(end), "{error}");
}

#[test]
fn answers_that_are_not_the_hubs() {
    let with = |body: &str| {
        let (server, cache) = (server(), tempfile::tempdir().unwrap());
        server.fail("/revision/", 1, Fault::Body(body.into()));
        get(&server.hub(&cache), SMALL).unwrap_err()
    };
    let start = "someone/rows at revision main could not be looked up: the answer to \
                 /api/datasets/someone/rows/revision/main";
    for (body, told) in [
        ("<html>Sign in</html>", "is no JSON (expected value at line 1 column 1)"),
        ("{\"sha\": ", "is no JSON (EOF while parsing a value at line 1 column 8)"),
        ("{}", "has no commit under sha"),
        ("[[[[", "is no JSON (EOF while parsing a list at line 1 column 4)"),
    ] {
        let end = "; check HF_ENDPOINT, and whether a proxy changes its answers";
        assert_eq!(with(body), format!("{start} {told}{end}"));
    }
    let deep = "[".repeat(100_000);
    assert!(with(&deep).contains("recursion limit"), "a deep answer is no reason to fall over");
}

#[test]
fn redirects_are_followed_within_bounds() {
    let with = |fault: Fault, times| {
        let (server, cache) = (server(), tempfile::tempdir().unwrap());
        server.publish("datasets/new/name", "main", COMMIT, &[(SMALL, expected(SMALL))]);
        server.fail("/someone/rows/revision/", times, fault);
        get(&server.hub(&cache), SMALL)
    };
    // A renamed repository.
    let renamed = "location: /api/datasets/new/name/revision/main\r\n";
    assert_eq!(with(Fault::Status(307, renamed), 1).unwrap(), expected(SMALL));
    let itself = "location: /api/datasets/someone/rows/revision/main\r\n";
    assert!(with(Fault::Status(307, itself), 99).unwrap_err().contains("the server redirects without end"));
    let elsewhere = "location: http://127.0.0.1:1/api/datasets/someone/rows/revision/main\r\n";
    assert!(with(Fault::Status(302, elsewhere), 1).unwrap_err().contains("the API redirects to another host"));
    for nowhere in ["", "location: file:///etc/passwd\r\n", "location: http://\r\n"] {
        assert!(with(Fault::Status(302, nowhere), 1).unwrap_err().contains("to what is no address"), "{nowhere}");
    }
}

#[test]
fn the_token_goes_to_the_endpoint_alone() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let hub = Hub::new(Options { token: Some("hf_secret".into()), ..server.options(&cache) }).unwrap();
    assert_eq!(get(&hub, LARGE).unwrap(), expected(LARGE));
    assert!(!format!("{hub:?}").contains("hf_secret"));
    let requests = server.requests();
    assert!(requests.iter().any(|request| request.is_storage));
    for request in requests {
        let expected = (!request.is_storage).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(request.token, expected, "{request:?}");
    }
    let error = refused(Fault::Status(403, ""), LARGE, |options| options.token = Some("hf_secret".into()));
    assert!(error.starts_with("access denied (403)"), "{error}");
}

#[test]
fn a_cache_that_cannot_be_written_is_said() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    std::fs::write(cache.path().join("datasets--someone--rows"), "a file where a folder goes").unwrap();
    let error = get(&server.hub(&cache), SMALL).unwrap_err();
    assert!(error.contains("; check that the cache is writable and the disk not full"), "{error}");
}

#[test]
fn a_proxy_is_used_but_for_the_hosts_that_are_excepted() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let proxied = Options { proxy: Some("http://127.0.0.1:1".into()), retries: 0, ..server.options(&cache) };
    let error = get(&Hub::new(proxied.clone()).unwrap(), SMALL).unwrap_err();
    assert!(error.contains("no connection to"), "{error}");
    assert!(server.requests().is_empty());
    let excepted = Options { no_proxy: Some("example.org, 127.0.0.1".into()), ..proxied };
    assert_eq!(get(&Hub::new(excepted).unwrap(), SMALL).unwrap(), expected(SMALL));
}
