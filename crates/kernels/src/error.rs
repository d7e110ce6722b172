//! What a kernel refuses.

/// The result of every kernel.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a kernel did not run. Outputs are untouched when one is returned before any work was done, which holds for all
/// variants but [`Error::Cuda`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operand does not have the length its shape asks for.
    #[error("{op}: {operand} has {got} elements, expected {expected} ({dims})")]
    Length {
        /// The op.
        op: &'static str,
        /// The operand.
        operand: &'static str,
        /// Its length.
        got: usize,
        /// The length the shape asks for.
        expected: usize,
        /// The dimensions whose product that is.
        dims: &'static str,
    },
    /// An index points outside of what it indexes.
    #[error("{op}: {operand}[{position}] is {got}, expected less than {limit}")]
    Index {
        /// The op.
        op: &'static str,
        /// The list of indices.
        operand: &'static str,
        /// Where in the list.
        position: usize,
        /// The index.
        got: usize,
        /// The number of things there are.
        limit: usize,
    },
    /// Dimensions or parameters that do not go together.
    #[error("{op}: {reason}")]
    Shape {
        /// The op.
        op: &'static str,
        /// What does not fit, and what would.
        reason: String,
    },
    /// An operand is on a device for which the op has no kernel, or where its other operands are not.
    #[error(
        "{op}: an operand is on {device}, where the op has no kernel or its other operands are not; move all of them to one device, or to the cpu"
    )]
    NoKernel {
        /// The op.
        op: &'static str,
        /// The device.
        device: &'static str,
    },
    /// Operands of a type that the CPU does not compute with.
    #[error("{op}: the cpu does not compute in bf16; convert the operands to f32, or move them to a device")]
    Narrow {
        /// The op.
        op: &'static str,
    },
    /// Operands of one call are on different devices.
    #[error("{op}: operands are on different devices; move all of them to one")]
    MixedDevices {
        /// The op.
        op: &'static str,
    },
    /// There is no CUDA device to use, or this build cannot use one.
    #[error("no cuda device: {reason}")]
    NoDevice {
        /// Why, and what to do.
        reason: String,
    },
    /// A device has not so much memory left.
    #[error(
        "{op}: {} MiB of device memory are wanted for a buffer and {} MiB are free; ask for smaller buffers, or free others",
        .wanted.div_ceil(1 << 20),
        .free >> 20
    )]
    OutOfMemory {
        /// The op.
        op: &'static str,
        /// Bytes of the buffer.
        wanted: usize,
        /// Bytes that are free, as [`Cuda::memory`](crate::Cuda::memory) counts them; together they are enough where they are in pieces.
        free: usize,
    },
    /// The CUDA driver reported an error.
    #[error("{op}: cuda driver: {reason}")]
    Cuda {
        /// The op.
        op: &'static str,
        /// What the driver said.
        reason: String,
    },
}
