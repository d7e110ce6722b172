//! Addresses: whose they are, and where redirects lead.

use std::net::IpAddr;

use ureq::http::header::LOCATION;
use ureq::http::{HeaderMap, Uri};

/// Scheme, host and port: the token goes to one of these only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) scheme: String,
    pub(crate) host: String,
    port: u16,
}

impl Origin {
    pub(crate) fn of(address: &Uri) -> Option<Self> {
        let scheme = address.scheme_str()?.to_ascii_lowercase();
        let usual = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let host = address.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        Some(Self { scheme, host, port: address.port_u16().unwrap_or(usual) })
    }

    /// Whether requests stay on this machine.
    pub(crate) fn is_this_machine(&self) -> bool {
        let plain = self.host.trim_start_matches('[').trim_end_matches(']');
        plain == "localhost" || plain.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

/// Where a redirect leads, seen from the address that redirects.
pub(crate) fn redirect(from: &Uri, headers: &HeaderMap) -> Result<Uri, &'static str> {
    let unusable = "the server redirects to what is no address";
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok()).ok_or(unusable)?;
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |authority| authority.as_str());
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.split(['/', '?']).next().is_some_and(|start| start.ends_with(':')) {
        location.to_owned()
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let next: Uri = absolute.parse().map_err(|_| unusable)?;
    let origin = Origin::of(&next).ok_or(unusable)?;
    if scheme == "https" && origin.scheme != "https" {
        return Err("the server redirects from https to http");
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_read_as_browsers_do() {
        let from: Uri = "https://hub.example/a/b".parse().unwrap();
        let to = |location: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            redirect(&from, &headers).map(|uri| uri.to_string())
        };
        assert_eq!(to("/c?d").unwrap(), "https://hub.example/c?d");
        assert_eq!(to("/c?from=http://x").unwrap(), "https://hub.example/c?from=http://x");
        assert_eq!(to("c").unwrap(), "https://hub.example/a/c");
        assert_eq!(to("//cdn.example/x").unwrap(), "https://cdn.example/x");
        assert_eq!(to("https://cdn.example/x?s=1").unwrap(), "https://cdn.example/x?s=1");
        assert!(to("http://cdn.example/x").unwrap_err().contains("from https to http"));
        assert!(to("file:///etc/passwd").unwrap_err().contains("no address"));
    }
}
