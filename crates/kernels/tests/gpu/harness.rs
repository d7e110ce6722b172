//! The device that runs the cases.
use std::sync::OnceLock;

use candlewick_kernels::Cuda;

use crate::cases::Case;

/// With this in the environment, a device that cannot be used is a failure.
const NEEDED: &str = "CANDLEWICK_NEEDS_GPU";

/// The sizes that a case runs at: here all. None where there is no device, since what they come to would be computed for nothing.
pub(crate) fn sizes<S: Copy>(small: &[S], large: &[S]) -> Vec<S> {
    if device().is_none() {
        return Vec::new();
    }
    [small, large].concat()
}

/// The first device, opened once more: its buffers are counted apart.
pub(crate) fn opened() -> Option<Cuda> {
    device()?;
    Some(Cuda::new(0).unwrap())
}

/// The device twice, for what runs twice.
pub(crate) fn devices() -> Option<[Cuda; 2]> {
    let device = device()?;
    Some([device.clone(), device])
}

/// The first device. All tests queue their work into its one stream.
pub(crate) fn device() -> Option<Cuda> {
    static DEVICE: OnceLock<candlewick_kernels::Result<Cuda>> = OnceLock::new();
    match DEVICE.get_or_init(|| Cuda::new(0)) {
        Ok(cuda) => Some(cuda.clone()),
        Err(error) => {
            assert!(!is_needed(), "{NEEDED} is set, but {error}");
            println!("skipped: {error}");
            None
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "whoever runs the tests says in the environment that there is a device")]
fn is_needed() -> bool {
    std::env::var_os(NEEDED).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Every case gives the right numbers, the same bits twice.
pub(crate) fn check(cases: &[Case]) {
    let Some(devices) = devices() else { return };
    for case in cases {
        if let Some(fault) = case.fault(&devices) {
            panic!("{}: {fault}", case.name);
        }
    }
}

/// As [`check`]: barriers are left out in the emulation alone.
pub(crate) fn check_barriers(_source: &str, cases: &[Case]) {
    check(cases);
}
