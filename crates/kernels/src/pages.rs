//! Large buffers.
use crate::Float;

/// Bytes from which a buffer is worth asking for.
#[cfg(target_os = "linux")]
const LARGE: usize = 1 << 22;

/// `len` zeros. Where Linux gives out huge pages on request, a buffer of 4 MiB or more asks for them: it takes its memory in fewer
/// and larger steps when it is first written, and the processor finds its way through it faster.
pub fn zeros<T: Float>(len: usize) -> Vec<T> {
    let zeros = vec![T::ZERO; len];
    #[cfg(target_os = "linux")]
    ask_for_huge_pages(&zeros);
    zeros
}

#[cfg(target_os = "linux")]
fn ask_for_huge_pages<T>(buffer: &[T]) {
    let bytes = size_of_val(buffer);
    if bytes < LARGE {
        return;
    }
    // SAFETY: asks the system for a number.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else {
        return;
    };
    let skipped = buffer.as_ptr().addr().next_multiple_of(page) - buffer.as_ptr().addr();
    let whole_pages = bytes.saturating_sub(skipped) / page * page;
    let start = buffer.as_ptr().cast::<u8>().wrapping_add(skipped).cast_mut().cast();
    // SAFETY: whole pages inside the buffer, of which the advice changes neither content nor address. A system that does not take it
    // leaves the pages as they are.
    unsafe { libc::madvise(start, whole_pages, libc::MADV_HUGEPAGE) };
}

/// The same numbers in a buffer of [`zeros`].
pub fn copied<T: Float>(numbers: &[T]) -> Vec<T> {
    let mut copy = zeros(numbers.len());
    copy.copy_from_slice(numbers);
    copy
}

/// Asks the allocator of the process to take buffers of 128 KiB or more from the system one by one, and to give each back to it when
/// it is freed. glibc otherwise raises that size to the largest buffer freed so far, up to 32 MiB, and what lies between
/// smaller things is never given back: a run with batches of many sizes then holds far more than it uses. It is for a program to
/// call, once, before it works; a library that is only a part of one should not. Elsewhere than with glibc it does nothing.
pub fn return_freed_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a number that the allocator reads under its lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_zero_and_can_be_written() {
        for len in [0, 1, 1000, (1 << 20) - 1, (3 << 20) + 17] {
            let mut buffer = zeros::<f32>(len);
            assert!(buffer.len() == len && buffer.iter().all(|&x| x == 0.0), "{len}");
            buffer.fill(1.0);
            assert!(buffer == vec![1.0; len], "{len}");
            assert!(copied(&buffer) == buffer, "{len}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn large_buffers_ask_for_huge_pages() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            eprintln!("skipped: this system has no huge pages on request");
            return;
        }
        // Larger than what an allocator keeps beside other things.
        let buffer = zeros::<f32>(16 << 20);
        let middle = buffer.as_ptr().addr() + (32 << 20);
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let flags = text.lines().find(|line| {
            let range = line.split(' ').next().and_then(|word| word.split_once('-'));
            let ends =
                range.and_then(|(a, b)| Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?)));
            if let Some((start, end)) = ends {
                inside = (start..end).contains(&middle);
            }
            inside && line.starts_with("VmFlags:")
        });
        assert!(flags.unwrap().split(' ').any(|flag| flag == "hg"), "{flags:?}");
    }
}
