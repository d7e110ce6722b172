//! What is to be known of each tensor of a flat buffer, in one pass wherever it lies.
use candlewick_kernels::{View, Workspace, survey};
use candlewick_model::Parameters;

use crate::error::Result;
use crate::tensor_file::Element;

/// Where each tensor ends among all numbers.
pub(crate) fn ends<T>(parameters: &Parameters<T>) -> Vec<u64> {
    (0..parameters.len()).map(|i| parameters.range(i).end as u64).collect()
}

/// The [`survey::flags`] of the tensors that end there.
pub(crate) fn flags<T: Element>(numbers: View<'_, T>, ends: &[u64], workspace: &mut Workspace) -> Result<Vec<u32>> {
    let Some(device) = workspace.device() else {
        let mut flags = vec![0; ends.len()];
        survey::flags(numbers, ends.into(), (&mut flags).into(), workspace)?;
        return Ok(flags);
    };
    let (ends, mut flags) = (device.upload(ends)?, device.unwritten(ends.len())?);
    survey::flags(numbers, ends.view(), flags.view_mut(), workspace)?;
    Ok(flags.download()?)
}
