//! What the caller decides: where from, where to, with which token, how patiently.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, Result};

/// Where to fetch from and where to keep it. The caller reads the environment, not this crate: see
/// [`from_lookup`](Self::from_lookup).
#[derive(Clone)]
pub struct Options {
    /// The cache (`$HF_HUB_CACHE`, or `$HF_HOME/hub`); `~/.cache/huggingface/hub` when absent.
    pub cache: Option<PathBuf>,
    /// Address of the Hub (`$HF_ENDPOINT`); the public one when absent.
    pub endpoint: Option<String>,
    /// Access token (`$HF_TOKEN`). It is sent to the endpoint alone, never to a host that the endpoint redirects to. With
    /// an endpoint of `http://` that is not this machine it is an error.
    pub token: Option<String>,
    /// Use the cache only (`$HF_HUB_OFFLINE`).
    pub offline: bool,
    /// The proxy that requests go through (`$HTTPS_PROXY`, `$ALL_PROXY`), as `http://host:port` or `socks5://host:port`.
    pub proxy: Option<String>,
    /// Hosts that are reached without the proxy (`$NO_PROXY`), separated by commas.
    pub no_proxy: Option<String>,
    /// How long a server may stay silent, in seconds of wall time (`$HF_HUB_DOWNLOAD_TIMEOUT`): 10 by default.
    pub timeout: Duration,
    /// How often a request is tried again after a refusal that may pass (429, 5xx, a broken connection): 4 by default.
    pub retries: u32,
    /// The longest pause between two tries: 60 seconds by default. A server that asks for more (`Retry-After`) is not
    /// waited for.
    pub longest_pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache: None,
            endpoint: None,
            token: None,
            offline: false,
            proxy: None,
            no_proxy: None,
            timeout: Duration::from_secs(10),
            retries: 4,
            longest_pause: Duration::from_secs(60),
        }
    }
}

// A token is nobody's business in a log, nor is the password of a proxy.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hidden = |value: &Option<String>| value.as_ref().map(|_| "…");
        f.debug_struct("Options")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &hidden(&self.token))
            .field("offline", &self.offline)
            .field("proxy", &hidden(&self.proxy))
            .field("no_proxy", &self.no_proxy)
            .field("timeout", &self.timeout)
            .field("retries", &self.retries)
            .field("longest_pause", &self.longest_pause)
            .finish()
    }
}

impl Options {
    /// The options that the variables of `huggingface_hub` ask for, whatever they are looked up in.
    ///
    /// Read are `HF_HUB_CACHE` (or `HUGGINGFACE_HUB_CACHE`), `HF_HOME`, `XDG_CACHE_HOME`, `HF_ENDPOINT`, `HF_TOKEN` (or
    /// `HUGGING_FACE_HUB_TOKEN`), `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`), `HF_HUB_DOWNLOAD_TIMEOUT`, and
    /// `HTTPS_PROXY`, `ALL_PROXY`, `HTTP_PROXY`, `NO_PROXY` in capitals or small letters. An empty variable counts as
    /// unset. A leading `~` of a path stands for `HOME` (`USERPROFILE` on Windows). No file is read: for the token that
    /// `hf auth login` stores see [`with_stored_token`](Self::with_stored_token).
    ///
    /// ```
    /// use candlewick_hub::Options;
    ///
    /// let variables = [("HF_HOME", "/data/hf"), ("HF_HUB_OFFLINE", "1")];
    /// let lookup = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
    /// let options = Options::from_lookup(lookup)?;
    /// assert_eq!(options.cache, Some("/data/hf/hub".into()));
    /// assert!(options.offline);
    /// # Ok::<(), candlewick_hub::Error>(())
    /// ```
    ///
    /// # Errors
    /// `HF_HUB_OFFLINE` is neither yes nor no, or `HF_HUB_DOWNLOAD_TIMEOUT` is no number of seconds.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variables = Variables(&lookup);
        let cache = variables.path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]);
        let proxies = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];
        Ok(Self {
            cache: cache.or_else(|| variables.home().map(|home| home.join("hub"))),
            endpoint: variables.text(&["HF_ENDPOINT"]),
            token: variables.text(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]),
            offline: variables.switch(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])?,
            proxy: variables.text(&proxies),
            no_proxy: variables.text(&["NO_PROXY", "no_proxy"]),
            timeout: variables.seconds("HF_HUB_DOWNLOAD_TIMEOUT")?.unwrap_or(Self::default().timeout),
            ..Self::default()
        })
    }

    /// Takes the token that `hf auth login` stored, where none is set yet.
    ///
    /// The file is `HF_TOKEN_PATH`, or `token` in `HF_HOME`. It is not read where `HF_HUB_DISABLE_IMPLICIT_TOKEN` is
    /// set. A file that is not there is no error.
    ///
    /// # Errors
    /// The file is there and cannot be read, or `HF_HUB_DISABLE_IMPLICIT_TOKEN` is neither yes nor no.
    pub fn with_stored_token(mut self, lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variables = Variables(&lookup);
        if self.token.is_some() || variables.switch(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"])? {
            return Ok(self);
        }
        let path = variables.path(&["HF_TOKEN_PATH"]).or_else(|| variables.home().map(|home| home.join("token")));
        let Some(path) = path.or_else(|| default_home().map(|home| home.join("token"))) else { return Ok(self) };
        match std::fs::read_to_string(&path) {
            Ok(text) => self.token = Some(text.trim().to_owned()).filter(|token| !token.is_empty()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::Setup(format!("the token in {} cannot be read: {e}", path.display()))),
        }
        Ok(self)
    }

    /// The directory of the cache.
    pub(crate) fn cache_directory(&self) -> Result<PathBuf> {
        let cache = self.cache.clone().or_else(|| default_home().map(|home| home.join("hub")));
        cache.ok_or_else(|| Error::Setup("there is no home directory to keep files in; name a cache (HF_HOME)".into()))
    }
}

/// Where `huggingface_hub` keeps everything unless told otherwise.
fn default_home() -> Option<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    home.map(|home| home.join(".cache/huggingface"))
}

/// Variables by name.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// The first of several names that is set, without the line end that a file of variables leaves.
    fn text(&self, names: &[&str]) -> Option<String> {
        let value = names.iter().find_map(|name| (self.0)(name).filter(|value| !value.trim().is_empty()))?;
        Some(value.trim().to_owned())
    }

    fn path(&self, names: &[&str]) -> Option<PathBuf> {
        let text = self.text(names)?;
        let below_home = match text.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Some(rest.trim_start_matches('/')),
            _ => None,
        };
        match (below_home, self.text(&["HOME", "USERPROFILE"])) {
            (Some(rest), Some(home)) => Some(Path::new(&home).join(rest)),
            _ => Some(text.into()),
        }
    }

    fn home(&self) -> Option<PathBuf> {
        let home = self.path(&["HF_HOME"]);
        home.or_else(|| self.path(&["XDG_CACHE_HOME"]).map(|cache| cache.join("huggingface")))
    }

    fn switch(&self, names: &[&str]) -> Result<bool> {
        let Some(value) = self.text(names) else { return Ok(false) };
        match value.to_ascii_lowercase().as_str() {
            "1" | "on" | "yes" | "true" => Ok(true),
            "0" | "off" | "no" | "false" => Ok(false),
            _ => Err(Error::Setup(format!("{} is {value:?}; expected 1 or 0", names.join(" or ")))),
        }
    }

    fn seconds(&self, name: &str) -> Result<Option<Duration>> {
        let Some(value) = self.text(&[name]) else { return Ok(None) };
        match value.parse::<u32>() {
            Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds.into()))),
            _ => Err(Error::Setup(format!("{name} is {value:?}; expected a whole number of seconds above 0"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> Result<Options> {
        Options::from_lookup(lookup(variables))
    }

    fn lookup<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<'a> {
        |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn nothing_set_is_the_default() {
        let options = options(&[]).unwrap();
        assert_eq!(format!("{options:?}"), format!("{:?}", Options::default()));
    }

    #[test]
    fn the_cache_follows_the_order_of_huggingface_hub() {
        let all = [
            ("HF_HUB_CACHE", "/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b"),
            ("HF_HOME", "~/c"),
            ("XDG_CACHE_HOME", "/d"),
            ("HOME", "/home/x"),
        ];
        let expected = ["/a", "/b", "/home/x/c/hub", "/d/huggingface/hub"];
        for (unset, expected) in expected.iter().enumerate() {
            assert_eq!(options(&all[unset..]).unwrap().cache, Some(PathBuf::from(expected)));
        }
        assert_eq!(options(&[("HF_HOME", "")]).unwrap().cache, None, "empty is unset");
    }

    #[test]
    fn the_rest_is_taken_as_written() {
        let options = options(&[
            ("HF_ENDPOINT", "https://mirror.example/"),
            ("HF_TOKEN", "hf_abc\n"),
            ("HF_HUB_OFFLINE", "TRUE"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "30"),
            ("https_proxy", "http://proxy:3128"),
            ("NO_PROXY", "localhost"),
        ]);
        let options = options.unwrap();
        assert_eq!(options.endpoint.as_deref(), Some("https://mirror.example/"));
        assert_eq!(options.token.as_deref(), Some("hf_abc"));
        assert!(options.offline);
        assert_eq!(options.timeout, Duration::from_secs(30));
        assert_eq!(options.proxy.as_deref(), Some("http://proxy:3128"));
        assert_eq!(options.no_proxy.as_deref(), Some("localhost"));
    }

    #[test]
    fn a_value_that_means_nothing_is_an_error_with_its_name() {
        let offline = options(&[("HF_HUB_OFFLINE", "maybe")]).unwrap_err().to_string();
        assert_eq!(offline, "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is \"maybe\"; expected 1 or 0");
        assert!(!options(&[("HF_HUB_OFFLINE", "false")]).unwrap().offline);
        for bad in ["0", "soon", "-1"] {
            let error = options(&[("HF_HUB_DOWNLOAD_TIMEOUT", bad)]).unwrap_err().to_string();
            assert!(error.starts_with("HF_HUB_DOWNLOAD_TIMEOUT is"), "{error}");
        }
    }

    #[test]
    fn the_stored_token_is_read_when_asked_for_and_only_then() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_stored\n").unwrap();
        std::fs::write(home.path().join("other"), "hf_other").unwrap();
        let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        let (home_path, other, absent) = (at(""), at("other"), at("absent"));
        let stored = |variables: &[(&str, &str)]| {
            options(variables).unwrap().with_stored_token(lookup(variables)).unwrap().token
        };
        let home_set = ("HF_HOME", home_path.as_str());
        assert_eq!(options(&[home_set]).unwrap().token, None);
        assert_eq!(stored(&[home_set]).as_deref(), Some("hf_stored"));
        assert_eq!(stored(&[home_set, ("HF_TOKEN", "hf_set")]).as_deref(), Some("hf_set"));
        assert_eq!(stored(&[home_set, ("HF_TOKEN_PATH", &other)]).as_deref(), Some("hf_other"));
        assert_eq!(stored(&[home_set, ("HF_TOKEN_PATH", &absent)]), None);
        assert_eq!(stored(&[home_set, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = |text: &str| Some(text.to_owned());
        let options =
            Options { token: secret("hf_secret"), proxy: secret("http://me:secret@proxy"), ..Options::default() };
        assert!(!format!("{options:?}").contains("secret"));
    }
}
