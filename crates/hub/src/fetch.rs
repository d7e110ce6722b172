//! One file of one commit: from the Hub into the cache, whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode};

use crate::cache::{Cache, disk, is_etag, make_parent, temporary_name};
use crate::client::{Again, Client, Failure};
use crate::error::Fault;
use crate::repo::Repo;

/// So many bytes that were never here before are progress: the connection is bad, but a download gets on.
const PROGRESS: u64 = 1 << 20;
const BLOCK: usize = 1 << 16;

/// What the endpoint announces of a file.
struct Announced {
    etag: String,
    size: Option<u64>,
    /// Of files in large file storage, whose ETag it is.
    sha256: Option<String>,
}

/// Fetches a file and returns its place in the snapshot of its commit.
///
/// A part that an earlier call has left is gone on from. Other processes and threads that want the same bytes wait.
pub(crate) fn fetch(client: &Client, cache: &Cache, repo: &Repo, commit: &str, file: &str) -> Result<PathBuf, Fault> {
    let address = repo.file_path(commit, file);
    let announced = client.patiently(|| {
        let answer = client.head(&address)?;
        announced(&answer.from_endpoint, answer.response.headers(), commit).map_err(Failure::last)
    })?;
    let blob = cache.blob(repo, &announced.etag);
    make_parent(&blob)?;
    if !is_whole(&blob, &announced) {
        let lock = cache.lock(repo, &announced.etag)?;
        if !is_whole(&blob, &announced) {
            // Without locks another process may write at the same time: to each its own part.
            let part = match &lock {
                Some(_) => blob.with_file_name(format!("{}.incomplete", announced.etag)),
                None => temporary_name(&blob),
            };
            if lock.is_none() {
                File::create_new(&part).map_err(|e| disk(&part, e))?;
            }
            let outcome = download(client, &address, &announced, &part);
            if outcome.is_err() && lock.is_none() {
                std::fs::remove_file(&part).ok();
            }
            outcome?;
            std::fs::rename(&part, &blob).map_err(|e| disk(&blob, e))?;
        }
    }
    cache.link(repo, commit, file, &blob)
}

/// The bytes get their final name when they are complete, so a length is check enough.
fn is_whole(blob: &Path, announced: &Announced) -> bool {
    std::fs::metadata(blob).is_ok_and(|found| found.is_file() && announced.size.is_none_or(|size| size == found.len()))
}

fn announced(from_endpoint: &HeaderMap, headers: &HeaderMap, commit: &str) -> Result<Announced, Fault> {
    let own = |name: &str| from_endpoint.get(name).and_then(|value| value.to_str().ok());
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // The page of a proxy that asks to sign in has none.
    if own("x-repo-commit") != Some(commit) {
        let found = own("x-repo-commit").unwrap_or("none");
        return Err(Fault::Answer(format!("the answer should be of commit {commit}, and names {found}")));
    }
    let linked = own("x-linked-etag").map(plain_etag);
    let etag = linked.or_else(|| text("etag").map(plain_etag));
    let etag = etag.ok_or_else(|| Fault::Answer("the answer has no ETag".into()))?;
    if !is_etag(etag) {
        return Err(Fault::Answer(format!("the answer has the ETag {etag:?}, which cannot name a file")));
    }
    // The length of the answer of a redirect is that of a page about it.
    let length = if headers.contains_key("location") { None } else { text("content-length") };
    let size = own("x-linked-size").or(length).map(|size| {
        size.trim().parse().map_err(|_| Fault::Answer(format!("the answer has the length {size:?}, which is none")))
    });
    let is_sha256 = |etag: &&str| etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let sha256 = linked.filter(is_sha256).map(str::to_ascii_lowercase);
    Ok(Announced { etag: etag.to_owned(), size: size.transpose()?, sha256 })
}

fn plain_etag(text: &str) -> &str {
    text.trim().trim_start_matches("W/").trim_matches('"')
}

/// Brings `part` to the announced bytes.
fn download(client: &Client, address: &str, announced: &Announced, part: &Path) -> Result<(), Fault> {
    // What another call has left may be broken (a crash of the machine): then it is fetched anew, once.
    let resumed = length(part) > 0;
    whole(client, address, announced, part)?;
    match verify(part, announced) {
        Err(Fault::Digest { .. }) if resumed => {
            whole(client, address, announced, part)?;
            verify(part, announced)
        }
        outcome => outcome,
    }
}

/// Appends to `part` until nothing is missing.
fn whole(client: &Client, address: &str, announced: &Announced, part: &Path) -> Result<(), Fault> {
    let mut longest = length(part);
    client.patiently(|| append(client, address, announced, part, &mut longest))
}

fn length(part: &Path) -> u64 {
    std::fs::metadata(part).map_or(0, |found| found.len())
}

/// Asks for the bytes that `part` lacks and appends them. `longest` is how long it has ever been: a server that sends the
/// whole file each time cuts it back, and the same bytes again are no progress.
fn append(
    client: &Client,
    address: &str,
    announced: &Announced,
    part: &Path,
    longest: &mut u64,
) -> Result<(), Failure> {
    let failed = |e| Failure::last(disk(part, e));
    let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(failed)?;
    let mut have = file.metadata().map_err(failed)?.len();
    // A part of unknown length may be whole or not: nobody can tell.
    if announced.size.is_none_or(|size| have > size) {
        file.set_len(0).map_err(failed)?;
        have = 0;
    }
    if announced.size == Some(have) {
        return Ok(());
    }
    let answer = client.get(address, have)?;
    if answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE || !continues(&answer.response, have)? {
        // The whole file comes, or nothing: what is there is of no use.
        file.set_len(0).map_err(failed)?;
        have = 0;
    }
    if answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        return Err(Failure::passing(Fault::Status { status: 416, tries: 1 }));
    }
    let coming = content_length(answer.response.headers());
    if let (Some(size), Some(coming)) = (announced.size, coming)
        && have.checked_add(coming) != Some(size)
    {
        let what = format!("{size} bytes were announced, and the answer brings {have} + {coming}");
        return Err(Failure::passing(Fault::Answer(what)));
    }
    if announced.size.is_none() && coming.is_none() && !is_chunked(answer.response.headers()) {
        return Err(Failure::last(Fault::Answer("the answer has no length, so that nobody could tell a cut".into())));
    }

    let outcome = receive(client, answer.response, announced.size, &mut have, &mut file, part);
    let progress = have.saturating_sub(*longest) >= PROGRESS;
    *longest = have.max(*longest);
    outcome.map_err(|failure| Failure { progress: failure.again == Again::Soon && progress, ..failure })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get("content-length")?.to_str().ok()?.trim().parse().ok()
}

fn is_chunked(headers: &HeaderMap) -> bool {
    headers.get("transfer-encoding").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Whether an answer goes on at an offset; `false` where it starts at the beginning.
fn continues(response: &Response<Body>, have: u64) -> Result<bool, Failure> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(false);
    }
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let start = range.trim().strip_prefix("bytes ").and_then(|rest| rest.split('-').next());
    if start.and_then(|start| start.trim().parse().ok()) == Some(have) {
        return Ok(true);
    }
    let what = format!("the bytes from {have} on were asked for, and the answer brings {range:?}");
    Err(Failure::last(Fault::Answer(what)))
}

fn receive(
    client: &Client,
    response: Response<Body>,
    size: Option<u64>,
    have: &mut u64,
    file: &mut File,
    part: &Path,
) -> Result<(), Failure> {
    let failed = |e| Failure::last(disk(part, e));
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; BLOCK];
    loop {
        let stopped = match body.read(&mut buffer) {
            Ok(0) if size.is_none_or(|size| size == *have) => return file.sync_all().map_err(failed),
            Ok(0) => None,
            Ok(count) => {
                *have += count as u64;
                if size.is_some_and(|size| *have > size) {
                    file.set_len(0).map_err(failed)?;
                    *have = 0;
                    return Err(Failure::passing(Fault::Answer("more bytes came than were announced".into())));
                }
                file.write_all(buffer.get(..count).unwrap_or_default()).map_err(failed)?;
                continue;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => Some(ureq::Error::from(e)),
        };
        let fault = match stopped {
            Some(ureq::Error::Timeout(_)) => {
                client.failure(ureq::Error::Timeout(ureq::Timeout::PerRead), "the server").fault
            }
            _ => Fault::Cut { received: *have, expected: size, tries: 1 },
        };
        return Err(Failure::passing(fault));
    }
}

/// Checks the digest where one was announced; removes what does not fit.
fn verify(part: &Path, announced: &Announced) -> Result<(), Fault> {
    let Some(expected) = &announced.sha256 else { return Ok(()) };
    let failed = |e| disk(part, e);
    let mut file = File::open(part).map_err(failed)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BLOCK];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => context.update(buffer.get(..count).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
    let found: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == *expected {
        return Ok(());
    }
    std::fs::remove_file(part).map_err(failed)?;
    Err(Fault::Digest { found, expected: expected.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&str, &str)]) -> Result<Announced, String> {
        let commit = [("x-repo-commit", "abc")];
        let headers = headers.iter().chain(&commit);
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        announced(&headers, &headers, "abc").map_err(|fault| fault.to_string())
    }

    #[test]
    fn an_answer_of_nobody_is_refused() {
        let told = |headers: HeaderMap| announced(&headers, &headers, "abc").err().unwrap().to_string();
        assert!(told(HeaderMap::new()).starts_with("the answer should be of commit abc, and names none; check"));
        let other = HeaderMap::from_iter([("x-repo-commit".parse().unwrap(), "def".parse().unwrap())]);
        assert!(told(other).starts_with("the answer should be of commit abc, and names def; check"));
    }

    #[test]
    fn the_headers_of_large_files_come_first() {
        let sha256 = "A".repeat(64);
        let quoted = format!("\"{sha256}\"");
        let large = of(&[
            ("etag", "\"page\""),
            ("content-length", "20"),
            ("location", "https://cdn"),
            ("x-linked-etag", &quoted),
            ("x-linked-size", "5000"),
        ]);
        let large = large.unwrap();
        assert_eq!((large.etag.as_str(), large.size), (sha256.as_str(), Some(5000)));
        assert_eq!(large.sha256, Some("a".repeat(64)));
        let small = of(&[("etag", "W/\"abc\""), ("content-length", "20")]).unwrap();
        assert_eq!((small.etag.as_str(), small.size, small.sha256), ("abc", Some(20), None));
        let redirected = of(&[("etag", "abc"), ("content-length", "20"), ("location", "https://cdn")]).unwrap();
        assert_eq!(redirected.size, None, "20 is the length of the page that redirects");
    }

    #[test]
    fn headers_that_lead_out_of_the_cache_are_refused() {
        for etag in ["\"../../../escaped\"", "/etc/passwd", "..", ""] {
            let error = of(&[("x-linked-etag", etag)]).err().unwrap();
            assert!(error.contains("cannot name a file"), "{error}");
        }
        assert!(of(&[]).err().unwrap().contains("no ETag"));
        assert!(of(&[("etag", "a"), ("content-length", "-1")]).err().unwrap().contains("which is none"));
    }
}
