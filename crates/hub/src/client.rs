//! Requests: where they go, what they carry, and how often they are made again.

use std::time::Duration;

use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, RANGE, RETRY_AFTER};
use ureq::http::{HeaderMap, Method, Response, Uri};
use ureq::{Agent, Body};

use crate::address::{Origin, redirect};
use crate::error::Fault;
use crate::{Error, Options, Result};

const PUBLIC: &str = "https://huggingface.co";
const MOST_REDIRECTS: usize = 10;
/// The first pause; each following one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A connection to one endpoint.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
    timeout: Duration,
    retries: u32,
    longest_pause: Duration,
}

struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// A request that failed, and whether it is worth another try.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    pub(crate) again: Again,
    /// A good deal arrived before it failed: the count of tries starts anew.
    pub(crate) progress: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    Never,
    Soon,
    After(Duration),
}

impl Failure {
    pub(crate) fn last(fault: Fault) -> Self {
        Self { fault, again: Again::Never, progress: false }
    }

    pub(crate) fn passing(fault: Fault) -> Self {
        Self { fault, again: Again::Soon, progress: false }
    }
}

/// An answer that is no refusal.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    /// What the endpoint itself said on the way, in headers of its own (`x-…`). The first of a name counts.
    pub(crate) from_endpoint: HeaderMap,
}

impl Client {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let endpoint = options.endpoint.as_deref().unwrap_or(PUBLIC).trim_end_matches('/').to_owned();
        let wrong = || {
            Error::Setup("the endpoint (HF_ENDPOINT) is no address; expected one such as https://huggingface.co".into())
        };
        let address: Uri = endpoint.parse().map_err(|_| wrong())?;
        let origin = Origin::of(&address).ok_or_else(wrong)?;
        if address.authority().is_some_and(|authority| authority.as_str().contains('@')) || address.query().is_some() {
            return Err(wrong());
        }
        if let Some(token) = &options.token
            && !token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(Error::Setup("the token (HF_TOKEN) holds characters that no token has".into()));
        }
        if options.token.is_some() && origin.scheme == "http" && !origin.is_this_machine() {
            return Err(Error::Setup(format!(
                "the endpoint (HF_ENDPOINT) is http://{}, and over http anyone on the way could read the token; use https, \
                 or go without a token: unset HF_TOKEN, and set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 where `hf auth login` has \
                 stored one",
                origin.host
            )));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy(options)?)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(options.timeout))
            .timeout_connect(Some(options.timeout))
            .timeout_recv_response(Some(options.timeout))
            .timeout_per_read(Some(options.timeout))
            .timeout_per_write(Some(options.timeout))
            .build()
            .into();
        Ok(Self {
            agent,
            endpoint,
            origin,
            token: options.token.clone().map(Token),
            timeout: options.timeout,
            retries: options.retries,
            longest_pause: options.longest_pause,
        })
    }

    /// Runs an attempt until it succeeds, fails for good, or has failed too often in a row.
    pub(crate) fn patiently<T>(
        &self,
        mut attempt: impl FnMut() -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Fault> {
        let mut tries = 0;
        loop {
            let failure = match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            tries = if failure.progress { 1 } else { tries + 1 };
            let pause = match failure.again {
                Again::Never => return Err(failure.fault),
                Again::Soon => FIRST_PAUSE.saturating_mul(1 << (tries - 1).min(16)).min(self.longest_pause),
                Again::After(asked) if asked > self.longest_pause => return Err(failure.fault),
                Again::After(asked) => asked,
            };
            if tries > self.retries {
                return Err(failure.fault.after(tries));
            }
            rest(pause);
        }
    }

    /// What the Hub's API says at a path, as JSON of at most `limit` bytes.
    pub(crate) fn json(&self, path: &str, limit: u64) -> std::result::Result<serde_json::Value, Failure> {
        let mut answer = self.request(&Method::GET, path, None, Across::No)?;
        let body = answer.response.body_mut().with_config().limit(limit).read_to_vec();
        let body = body.map_err(|e| match e {
            ureq::Error::BodyExceedsLimit(_) => {
                Failure::last(Fault::Answer(format!("the answer to {path} is longer than {limit} bytes")))
            }
            e => self.failure(e, &self.origin.host),
        })?;
        serde_json::from_slice(&body)
            .map_err(|e| Failure::last(Fault::Answer(format!("the answer to {path} is no JSON ({e})"))))
    }

    /// What the endpoint says of a file, without its bytes.
    pub(crate) fn head(&self, path: &str) -> std::result::Result<Answer, Failure> {
        self.request(&Method::HEAD, path, None, Across::Stop)
    }

    /// The bytes of a file from an offset on.
    pub(crate) fn get(&self, path: &str, from: u64) -> std::result::Result<Answer, Failure> {
        self.request(&Method::GET, path, (from > 0).then_some(from), Across::Follow)
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        from: Option<u64>,
        across: Across,
    ) -> std::result::Result<Answer, Failure> {
        let unusable = || Failure::last(Fault::Answer(format!("{path} is no address")));
        let mut address: Uri = format!("{}{path}", self.endpoint).parse().map_err(|_| unusable())?;
        let mut from_endpoint = HeaderMap::new();
        for _ in 0..=MOST_REDIRECTS {
            let origin = Origin::of(&address).ok_or_else(unusable)?;
            let response = self.send(method, &address, &origin, from)?;
            if origin == self.origin {
                let own = response.headers().iter().filter(|(name, _)| name.as_str().starts_with("x-"));
                for (name, value) in own {
                    from_endpoint.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return match self.refusal(&response) {
                    Some(failure) => Err(failure),
                    None => Ok(Answer { response, from_endpoint }),
                };
            }
            let next = redirect(&address, response.headers()).map_err(answer)?;
            if Origin::of(&next).as_ref() != Some(&self.origin) {
                match across {
                    Across::Follow => {}
                    Across::Stop => return Ok(Answer { response, from_endpoint }),
                    Across::No => return Err(answer("the API redirects to another host")),
                }
            }
            address = next;
        }
        Err(answer("the server redirects without end"))
    }

    fn send(
        &self,
        method: &Method,
        address: &Uri,
        origin: &Origin,
        from: Option<u64>,
    ) -> std::result::Result<Response<Body>, Failure> {
        let agent = &self.agent;
        let request = if *method == Method::HEAD { agent.head(address) } else { agent.get(address) };
        // Lengths and offsets count the bytes of the file, not those of a compressed copy.
        let mut request = request.header(ACCEPT_ENCODING, "identity");
        if let Some(from) = from {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        if let Some(Token(token)) = self.token.as_ref().filter(|_| *origin == self.origin) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call().map_err(|e| self.failure(e, &origin.host))
    }

    fn refusal(&self, response: &Response<Body>) -> Option<Failure> {
        let with_token = self.token.is_some();
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        match response.status().as_u16() {
            200 | 206 | 416 => None,
            status @ (401 | 403) => Some(Failure::last(Fault::Denied { status, with_token })),
            404 => Some(Failure::last(Fault::Missing {
                what: match text("x-error-code") {
                    Some("RepoNotFound") => "repository",
                    Some("RevisionNotFound") => "revision",
                    Some("EntryNotFound") => "file",
                    _ => "repository, revision or file",
                },
            })),
            status @ (408 | 429 | 500..=599) => {
                let seconds = text(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
                let pause = seconds.map(Duration::from_secs);
                let limited = Fault::Limited { pause };
                let fault = if status == 429 { limited } else { Fault::Status { status, tries: 1 } };
                Some(Failure { fault, again: pause.map_or(Again::Soon, Again::After), progress: false })
            }
            status => Some(Failure::last(Fault::Status { status, tries: 1 })),
        }
    }

    /// A broken exchange in our words. Addresses are not shown: those of redirects carry signatures.
    pub(crate) fn failure(&self, error: ureq::Error, host: &str) -> Failure {
        let host = host.to_owned();
        let lost = |reason: String| Fault::Unreachable { host: host.clone(), reason, tries: 1 };
        match error {
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
                Failure::passing(lost(format!("no answer within {} s", self.timeout.as_secs_f64())))
            }
            ureq::Error::Timeout(_) => Failure::passing(Fault::Silent { host, timeout: self.timeout, tries: 1 }),
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::TimedOut => {
                Failure::passing(Fault::Silent { host, timeout: self.timeout, tries: 1 })
            }
            ureq::Error::HostNotFound => Failure::last(lost("there is no such host".into())),
            ureq::Error::Io(e) => Failure::passing(lost(e.to_string())),
            ureq::Error::ConnectionFailed => Failure::passing(lost("the connection failed".into())),
            ureq::Error::Protocol(e) => {
                Failure::passing(Fault::Answer(format!("{host} does not answer in HTTP ({e})")))
            }
            ureq::Error::Tls(reason) => Failure::last(lost(format!("TLS: {reason}"))),
            ureq::Error::Rustls(e) => Failure::last(lost(format!("TLS: {e}"))),
            ureq::Error::LargeResponseHeader(..) => answer("the headers of the answer are too long"),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => answer("the server redirects to what is no address"),
            _ => Failure::last(lost("the request failed".into())),
        }
    }
}

/// What to do where the endpoint sends a request to another host.
#[derive(Clone, Copy)]
enum Across {
    Follow,
    /// The answer of the endpoint is what was wanted.
    Stop,
    No,
}

fn answer(what: &str) -> Failure {
    Failure::last(Fault::Answer(what.to_owned()))
}

fn proxy(options: &Options) -> Result<Option<ureq::Proxy>> {
    let Some(text) = options.proxy.as_deref() else { return Ok(None) };
    let wrong = || {
        Error::Setup("the proxy (HTTPS_PROXY, ALL_PROXY) is no address; expected one such as http://host:port".into())
    };
    let plain = ureq::Proxy::new(text).map_err(|_| wrong())?;
    let Some(exceptions) = options.no_proxy.as_deref() else { return Ok(Some(plain)) };
    let mut builder = ureq::Proxy::builder(plain.protocol()).host(plain.host()).port(plain.port());
    if let Some(name) = plain.username() {
        builder = builder.username(name);
    }
    if let Some(password) = plain.password() {
        builder = builder.password(password);
    }
    for exception in exceptions.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        builder = builder.no_proxy(exception);
    }
    builder.build().map(Some).map_err(|_| wrong())
}

#[expect(clippy::disallowed_methods, reason = "a server that asks to wait is waited for, and here alone is a server")]
fn rest(pause: Duration) {
    std::thread::sleep(pause);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(options: Options) -> Client {
        Client::new(&options).unwrap()
    }

    #[test]
    fn the_count_of_tries_starts_anew_after_progress() {
        let client = client(Options { retries: 2, longest_pause: Duration::ZERO, ..Options::default() });
        let cut = |progress| Failure {
            fault: Fault::Cut { received: 1, expected: Some(2), tries: 1 },
            again: Again::Soon,
            progress,
        };
        let mut tries = 0;
        let never = client.patiently::<()>(|| {
            tries += 1;
            Err(cut(false))
        });
        assert_eq!(tries, 3);
        assert!(matches!(never, Err(Fault::Cut { tries: 3, .. })), "{never:?}");
        let mut tries = 0;
        let at_last = client.patiently(|| {
            tries += 1;
            if tries == 9 { Ok(tries) } else { Err(cut(tries % 2 == 0)) }
        });
        assert_eq!(at_last.unwrap(), 9);
    }

    #[test]
    fn a_server_that_asks_for_too_long_a_pause_is_not_waited_for() {
        let client = client(Options { longest_pause: Duration::from_secs(5), ..Options::default() });
        let asked = Duration::from_secs(3600);
        let mut tries = 0;
        let refused = client.patiently::<()>(|| {
            tries += 1;
            let fault = Fault::Limited { pause: Some(asked) };
            Err(Failure { fault, again: Again::After(asked), progress: false })
        });
        assert_eq!(tries, 1);
        let text = refused.unwrap_err().to_string();
        assert_eq!(text, "too many requests (429); the server asks to wait 3600 s; try again later, or set HF_TOKEN");
    }

    #[test]
    fn endpoints_and_proxies_that_are_no_address_are_refused_without_being_shown() {
        for endpoint in ["", "huggingface.co", "ftp://x", "https://", "https://me:secret@x", "https://x/?q"] {
            let options = Options { endpoint: Some(endpoint.into()), ..Options::default() };
            let error = Client::new(&options).unwrap_err().to_string();
            assert!(error.starts_with("the endpoint (HF_ENDPOINT) is no address"), "{endpoint}: {error}");
        }
        let options = Options { proxy: Some("ht tp://me:secret@".into()), ..Options::default() };
        let error = Client::new(&options).unwrap_err().to_string();
        assert!(error.starts_with("the proxy") && !error.contains("secret"), "{error}");
        let options = Options { token: Some("hf_a\r\nb".into()), ..Options::default() };
        assert!(Client::new(&options).unwrap_err().to_string().starts_with("the token (HF_TOKEN)"));
    }

    #[test]
    fn a_token_is_not_sent_where_anyone_can_read_it() {
        let with = |endpoint: &str, token: Option<&str>| {
            let options =
                Options { endpoint: Some(endpoint.into()), token: token.map(str::to_owned), ..Options::default() };
            Client::new(&options).map(drop).map_err(|error| error.to_string())
        };
        for endpoint in ["http://hub.example", "http://10.0.0.1:8080", "http://localhost.example", "http://[::2]"] {
            let error = with(endpoint, Some("hf_secret")).unwrap_err();
            assert!(error.contains("use https") && !error.contains("secret"), "{error}");
            assert_eq!(with(endpoint, None), Ok(()));
        }
        for endpoint in ["https://hub.example", "http://localhost:80", "http://127.0.0.2:80", "http://[::1]:80"] {
            assert_eq!(with(endpoint, Some("hf_secret")), Ok(()), "{endpoint}");
        }
    }

    #[test]
    fn what_is_printed_holds_no_token() {
        let options = Options { token: Some("hf_secret".into()), ..Options::default() };
        assert!(!format!("{:?}", client(options)).contains("secret"));
    }
}
