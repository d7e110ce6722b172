//! Ctrl-C: the first asks the run to stop after its step, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tells whether the user has asked to stop.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Listens for Ctrl-C, and where they exist for SIGTERM and SIGHUP, from now on.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        ctrlc::set_handler(move || {
            if counter.fetch_add(1, Ordering::SeqCst) > 0 {
                std::process::exit(crate::failure::INTERRUPTED.into());
            }
            eprintln!("\nwick: finishing this step, then stopping; Ctrl-C again to stop at once");
        })?;
        Ok(Self { asked })
    }

    /// Whether to stop after the current step.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst) > 0
    }
}
