//! A server on this machine that speaks as much of the Hub's protocol as clients use, and misbehaves on request.
//!
//! Small files come from the endpoint itself. Large ones (`.safetensors`, `.parquet`) are redirected to a second server
//! under another address, as the Hub does with its storage.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// What a request was.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) from: Option<usize>,
    pub(crate) token: Option<String>,
    pub(crate) is_storage: bool,
}

/// How an answer goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A status and its headers.
    Status(u16, &'static str),
    /// So many bytes of the body, then the end of the connection.
    Cut(usize),
    /// Another length than that of the file, and a body of that length.
    Length(usize),
    /// No word for so many milliseconds after so many bytes of the body.
    Stall(usize, u64),
    /// Accepted, and no answer.
    Silence(u64),
    /// The whole file whatever range was asked for.
    NoRange,
    /// The whole file whatever range was asked for, and of it so many bytes, then the end of the connection.
    CutWhole(usize),
    /// The file with its first byte changed.
    Changed,
    /// Another body, with status 200.
    Body(String),
    /// Another value of a header.
    Header(&'static str, &'static str),
    /// A thousand bytes every so many milliseconds.
    Drip(u64),
}

#[derive(Default)]
struct World {
    /// By API path (`models/owner/name`): revisions to commits.
    revisions: BTreeMap<String, BTreeMap<String, String>>,
    /// By API path and commit.
    files: BTreeMap<(String, String), BTreeMap<String, Vec<u8>>>,
    /// Pieces of a path, how many requests with it go wrong, and how.
    faults: Vec<(String, usize, Fault)>,
    requests: Vec<Request>,
    storage: String,
}

/// The server. It ends with the test.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    world: Arc<Mutex<World>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let storage = listen(&world, true);
        world.lock().unwrap().storage = storage;
        Self { address: listen(&world, false), world }
    }

    /// Publishes files as a commit, under a revision.
    pub(crate) fn publish(&self, repo: &str, revision: &str, commit: &str, files: &[(&str, Vec<u8>)]) {
        let mut world = self.world.lock().unwrap();
        world.revisions.entry(repo.into()).or_default().insert(revision.into(), commit.into());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        world.files.insert((repo.into(), commit.into()), files);
    }

    /// Takes a commit away, as a rewritten history does.
    pub(crate) fn withdraw(&self, repo: &str, commit: &str) {
        self.world.lock().unwrap().files.remove(&(repo.into(), commit.into()));
    }

    /// Lets the next requests whose path contains `part` go wrong; `storage` in place of a part means the storage.
    pub(crate) fn fail(&self, part: &str, times: usize, fault: Fault) {
        self.world.lock().unwrap().faults.push((part.into(), times, fault));
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.world.lock().unwrap().requests.clone()
    }

    pub(crate) fn forget(&self) {
        self.world.lock().unwrap().requests.clear();
    }
}

/// Bytes that tell where they stand.
pub(crate) fn bytes(count: usize, seed: u8) -> Vec<u8> {
    (0..count).map(|n| (n / 7 + n * 31) as u8 ^ seed).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listen(world: &Arc<Mutex<World>>, is_storage: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let world = Arc::clone(world);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let world = Arc::clone(&world);
            // A client that is killed breaks the connection: no matter.
            std::thread::spawn(move || drop(serve(stream, &world, is_storage)));
        }
    });
    address
}

fn serve(mut stream: TcpStream, world: &Mutex<World>, is_storage: bool) -> std::io::Result<()> {
    let Some(request) = read(&stream, is_storage) else { return Ok(()) };
    let (answer, fault) = {
        let mut world = world.lock().unwrap();
        world.requests.push(request.clone());
        let fault = world.next_fault(&request);
        (world.answer(&request), fault)
    };
    answer.send(&mut stream, &request, fault)
}

fn read(stream: &TcpStream, is_storage: bool) -> Option<Request> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut request = Request { method, path, from: None, token: None, is_storage };
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => request.from = value.strip_prefix("bytes=")?.split('-').next()?.parse().ok(),
            "authorization" => request.token = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn refusal(status: u16, code: &str) -> Answer {
    Answer { status, headers: vec![("x-error-code", code.to_owned())], body: Vec::new() }
}

impl World {
    fn next_fault(&mut self, request: &Request) -> Option<Fault> {
        let fits = |part: &str| if part == "storage" { request.is_storage } else { request.path.contains(part) };
        let (_, times, fault) = self.faults.iter_mut().find(|(part, times, _)| *times > 0 && fits(part))?;
        // A question about a file has no body that could be cut.
        let needs_body = !matches!(fault, Fault::Status(..) | Fault::Silence(_) | Fault::Header(..));
        if needs_body && request.method == "HEAD" {
            return None;
        }
        *times -= 1;
        Some(fault.clone())
    }

    fn answer(&self, request: &Request) -> Answer {
        if request.is_storage {
            let digest = request.path.split('?').next().unwrap().trim_start_matches('/').to_owned();
            let mut all = self.files.values().flat_map(BTreeMap::values);
            let body = all.find(|body| sha256(body) == digest).cloned().unwrap_or_default();
            return Answer { status: 200, headers: vec![("etag", "\"of-the-storage\"".into())], body };
        }
        let path = request.path.replace("%2F", "/").replace("%20", " ");
        if let Some((repo, revision)) = path.strip_prefix("/api/").and_then(|rest| rest.split_once("/revision/")) {
            return self.look_up(repo, revision);
        }
        let small = path.strip_prefix("/api/resolve-cache/");
        let repo_and_file = small.map(str::to_owned).unwrap_or_else(|| match path.strip_prefix("/datasets/") {
            Some(rest) => format!("datasets/{rest}"),
            None => format!("models{path}"),
        });
        let Some((repo, rest)) = repo_and_file.split_once("/resolve/") else { return refusal(404, "RepoNotFound") };
        let Some((commit, file)) = rest.split_once('/') else { return refusal(404, "EntryNotFound") };
        let files = self.files.get(&(repo.to_owned(), commit.to_owned()));
        let Some(body) = files.and_then(|files| files.get(file)) else { return refusal(404, "EntryNotFound") };
        let headers = vec![("x-repo-commit", commit.to_owned())];
        if file.ends_with(".safetensors") || file.ends_with(".parquet") {
            return self.in_storage(headers, body);
        }
        if small.is_none() && file == "tokenizer.json" {
            let location = format!("/api/resolve-cache/{repo}/resolve/{commit}/{file}");
            return Answer {
                status: 307,
                headers: [headers, vec![("location", location), ("etag", "\"of-the-page\"".into())]].concat(),
                body: b"moved".into(),
            };
        }
        let etag = format!("\"{}\"", &sha256(body)[..40]);
        Answer { status: 200, headers: [headers, vec![("etag", etag)]].concat(), body: body.clone() }
    }

    fn in_storage(&self, mut headers: Vec<(&'static str, String)>, body: &[u8]) -> Answer {
        let digest = sha256(body);
        headers.push(("x-linked-size", body.len().to_string()));
        headers.push(("x-linked-etag", format!("\"{digest}\"")));
        headers.push(("etag", "\"of-the-page\"".into()));
        headers.push(("location", format!("{}/{digest}?signature=very-secret", self.storage)));
        Answer { status: 302, headers, body: b"Found. Redirecting".into() }
    }

    fn look_up(&self, repo: &str, revision: &str) -> Answer {
        let Some(revisions) = self.revisions.get(repo) else { return refusal(404, "RepoNotFound") };
        let is_commit = self.files.contains_key(&(repo.to_owned(), revision.to_owned()));
        let commit = revisions.get(revision).cloned().or_else(|| is_commit.then(|| revision.to_owned()));
        let Some(commit) = commit else { return refusal(404, "RevisionNotFound") };
        let names = self.files[&(repo.to_owned(), commit.clone())].keys();
        let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "id": repo, "sha": commit, "siblings": siblings }).to_string().into_bytes();
        Answer { status: 200, headers: vec![("content-type", "application/json".into())], body }
    }
}

impl Answer {
    fn send(mut self, stream: &mut TcpStream, request: &Request, fault: Option<Fault>) -> std::io::Result<()> {
        let ignores_range = matches!(fault, Some(Fault::NoRange | Fault::CutWhole(_)));
        match &fault {
            Some(Fault::Status(status, headers)) => {
                let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n");
                return stream.write_all(head.as_bytes());
            }
            Some(Fault::Silence(milliseconds)) => {
                pause(*milliseconds);
                return Ok(());
            }
            Some(Fault::Body(body)) => {
                self = Self { status: 200, headers: Vec::new(), body: body.clone().into_bytes() }
            }
            Some(Fault::Changed) => self.body[0] ^= 1,
            Some(Fault::Length(length)) => self.body.resize(*length, 0),
            Some(Fault::Header(name, value)) => {
                self.headers.retain(|(known, _)| known != name);
                self.headers.push((name, (*value).to_owned()));
            }
            _ => {}
        }
        let mut body = self.body.as_slice();
        if let Some(from) = request.from.filter(|_| self.status == 200 && !ignores_range) {
            let all = body.len();
            if from >= all {
                self.status = 416;
                body = &[];
            } else {
                body = &body[from..];
                self.status = 206;
                self.headers.push(("content-range", format!("bytes {from}-{}/{all}", all - 1)));
            }
        }
        let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\ncontent-length: {}\r\n", self.status, body.len());
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if request.method == "HEAD" {
            return Ok(());
        }
        match fault {
            Some(Fault::Cut(count) | Fault::CutWhole(count)) => stream.write_all(&body[..count.min(body.len())]),
            Some(Fault::Stall(count, milliseconds)) => {
                stream.write_all(&body[..count.min(body.len())])?;
                pause(milliseconds);
                Ok(())
            }
            Some(Fault::Drip(milliseconds)) => body.chunks(1000).try_for_each(|chunk| {
                pause(milliseconds);
                stream.write_all(chunk)
            }),
            _ => stream.write_all(body),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a server that is slow")]
fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}
