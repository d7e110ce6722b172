//! Clients of the server, each with a cache of its own.

use std::time::Duration;

use candlewick_hub::{DatasetRequest, Hub, Options};

use crate::server::Server;

impl Server {
    pub(crate) fn options(&self, cache: &tempfile::TempDir) -> Options {
        Options {
            cache: Some(cache.path().into()),
            endpoint: Some(self.address.clone()),
            longest_pause: Duration::from_millis(10),
            ..Options::default()
        }
    }

    pub(crate) fn hub(&self, cache: &tempfile::TempDir) -> Hub {
        Hub::new(self.options(cache)).unwrap()
    }
}

pub(crate) fn offline(cache: &tempfile::TempDir) -> Hub {
    Hub::new(Options { cache: Some(cache.path().into()), offline: true, ..Options::default() }).unwrap()
}

pub(crate) fn request(name: &str) -> DatasetRequest {
    DatasetRequest { name: name.into(), ..DatasetRequest::default() }
}
