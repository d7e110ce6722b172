//! Ctrl-C and its kin: the first asks the run to stop and be saved, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells whether the user has asked to stop.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens for Ctrl-C, and where they exist for SIGTERM and SIGHUP, from now on. SIGHUP stays ignored where it was, as under `nohup`.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let ignored = hangup::is_ignored();
        let asked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked);
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(crate::failure::INTERRUPTED.into());
            }
            eprintln!("\nwick: stopping; Ctrl-C again to stop at once");
        })?;
        if ignored {
            hangup::ignore();
        }
        Ok(Self { asked })
    }

    /// Whether to stop.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// What is set when the user asks to stop.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.asked)
    }
}

/// What the process was told to do when its terminal goes away.
#[cfg(unix)]
#[expect(unsafe_code, reason = "no safe interface tells what is done at a signal")]
mod hangup {
    /// Whether whoever started the process has it ignored.
    pub(super) fn is_ignored() -> bool {
        // SAFETY: a null action changes nothing, and the structure that is filled is plain numbers.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        }
    }

    pub(super) fn ignore() {
        // SAFETY: to ignore a signal runs no code of ours.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
}

#[cfg(not(unix))]
mod hangup {
    pub(super) fn is_ignored() -> bool {
        false
    }

    pub(super) fn ignore() {}
}
