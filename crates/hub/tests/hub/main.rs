//! The hub client against a server on this machine that answers as the Hub does, or does not.
#![expect(clippy::unwrap_used, clippy::disallowed_types, reason = "tests with a server of their own")]

mod client;
mod datasets;
mod faults;
mod interrupted;
mod layout;
mod models;
mod server;
