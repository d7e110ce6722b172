//! How much memory this process has used at most.

/// What a process holds that has read rows with a tokenizer of some ten thousand words, where the system does not tell.
const USUAL: u64 = 48 << 20;
/// Code that only steps reach, and the records of a run.
const OF_STEPS: u64 = 4 << 20;
/// A thread's stack and its share of the allocator.
const OF_A_THREAD: u64 = 1 << 20;

/// Peak resident memory in bytes; nothing where the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn peak_bytes() -> Option<u64> {
    of_status("VmHWM:")
}

/// Peak resident memory in bytes; nothing where the system does not tell.
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn peak_bytes() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let peak = u64::try_from(getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss()).ok()?;
    // Apple counts bytes, the BSDs kibibytes.
    Some(if cfg!(target_vendor = "apple") { peak } else { peak * 1024 })
}

/// Peak resident memory in bytes; nothing where the system does not tell.
#[cfg(not(unix))]
pub(crate) fn peak_bytes() -> Option<u64> {
    None
}

/// Bytes that this process holds now; nothing where the system does not tell.
#[cfg(target_os = "linux")]
fn resident_bytes() -> Option<u64> {
    of_status("VmRSS:")
}

/// Bytes that may still be taken before the system runs short; nothing where it does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn free_bytes() -> Option<u64> {
    let all = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = all.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes that may still be taken before the system runs short; nothing where it does not tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn free_bytes() -> Option<u64> {
    None
}

#[cfg(target_os = "linux")]
fn of_status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes that this process holds now; nothing where the system does not tell.
#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> Option<u64> {
    peak_bytes()
}

/// What a run takes beside numbers: what this process holds once it has read the rows, and what only steps touch.
pub(crate) fn own_bytes(threads: usize) -> u64 {
    resident_bytes().unwrap_or(USUAL) + OF_STEPS + threads.max(1) as u64 * OF_A_THREAD
}

/// Bytes as people read them.
pub(crate) fn readable(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if bytes > 0 && mebibytes < 1.0 {
        format!("{:.0} KiB", bytes as f64 / 1024.0)
    } else if mebibytes < 1024.0 {
        format!("{mebibytes:.0} MiB")
    } else {
        format!("{:.1} GiB", mebibytes / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_rises_with_what_is_touched() {
        let before = peak_bytes().expect("linux tells");
        let block = std::hint::black_box(vec![1u8; 256 << 20]);
        // The kernel counts in batches, and other tests run beside this one.
        let after = peak_bytes().expect("linux tells");
        assert!(after >= before && after >= block.len() as u64 / 2, "{before} {after}");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!((readable(3 << 20).as_str(), readable(5 << 10).as_str()), ("3 MiB", "5 KiB"));
        assert_eq!(readable(5 << 29), "2.5 GiB");
    }
}
