//! Forward and backward kernels of a transformer training step over borrowed buffers.
//!
//! Every op is a pair of functions: `forward` writes into buffers the caller gives (and into what its backward needs
//! later), `backward` turns the gradient of the output into gradients of the inputs ([`count_sketch`], [`clip`], [`survey`] and
//! the steps of optimizers have none). Nothing here allocates a tensor, keeps one, or knows what the numbers are for.
//!
//! * Operands are [`View`]s and [`ViewMut`]s: a slice on the CPU or a range of a [`CudaBuffer`]. An op without a kernel
//!   for the device of its operands returns [`Error::NoKernel`]. Those that have one for CUDA: [`adamw::step_clipped`] and
//!   [`adamw::step_bf16`], [`attention`], [`clip`], [`elementwise`], [`embedding::gather`] and [`embedding::scatter`], [`gated`],
//!   [`linear`], [`lion`], [`lora`], [`rms_norm`], [`rmsprop`], [`rope::apply_pair`], [`running_mean`], [`schedule_free`],
//!   [`segment_sum`], [`survey`] and [`token_log_probs`].
//! * Scratch comes from a [`Workspace`], which also decides how many threads work. After the first call of a shape no
//!   op asks the allocator for a buffer again.
//! * Element types are `f32` and `f64` through [`Float`]; on a device also `bf16`, through [`Element`], with sums in `f32`.
//! * The same inputs give the same bits on one kind of processor, on any number of threads: every reduction runs in a fixed
//!   order.
//! * An argument is *overwritten* unless its documentation says that it *accumulates*.
//!
//! ```
//! use candlewick_kernels::{Workspace, linear};
//! # fn main() -> Result<(), candlewick_kernels::Error> {
//! let x = [1.0f32, 2.0]; // [1, 2]
//! let w = [3.0f32, 4.0, 5.0, 6.0]; // [2, 2]
//! let mut y = [0.0f32; 2];
//! let shape = linear::Shape { rows: 1, in_features: 2, out_features: 2 };
//! linear::forward((&x[..]).into(), (&w[..]).into(), (&mut y[..]).into(), shape, 1.0, false, &mut Workspace::new(1))?;
//! assert_eq!(y, [11.0, 17.0]);
//! # Ok(()) }
//! ```
//!
//! On a device (feature `cuda`) the same op takes views of buffers there. Calls are queued, and reading a result waits for them.
//!
//! ```no_run
//! use candlewick_kernels::{Cuda, Workspace, linear};
//! # fn main() -> Result<(), candlewick_kernels::Error> {
//! let cuda = Cuda::new(0)?;
//! let (x, w) = (cuda.upload(&[1.0f32, 2.0])?, cuda.upload(&[3.0f32, 4.0, 5.0, 6.0])?);
//! let mut y = cuda.unwritten::<f32>(2)?;
//! let shape = linear::Shape { rows: 1, in_features: 2, out_features: 2 };
//! linear::forward(x.view(), w.view(), y.view_mut(), shape, 1.0, false, &mut Workspace::new(1))?;
//! assert_eq!(y.download()?, [11.0, 17.0]);
//! # Ok(()) }
//! ```
#![expect(unsafe_code, reason = "strided products, disjoint parts of one buffer, vector instructions, device launches")]

pub mod adafactor;
pub mod adamw;
pub mod adamw_8bit;
pub mod attention;
pub mod clip;
pub mod count_sketch;
pub mod elementwise;
pub mod embedding;
pub mod gated;
pub mod linear;
pub mod lion;
pub mod lora;
pub mod muon;
pub mod rms_norm;
pub mod rmsprop;
pub mod rope;
pub mod running_mean;
pub mod schedule_free;
pub mod segment_sum;
pub mod survey;
pub mod token_log_probs;

mod buffer;
mod check;
mod cuda;
mod error;
mod float;
mod groups;
mod matmul;
mod pages;
mod parallel;
mod shelf;
mod simd;
mod stochastic;
#[cfg(test)]
mod testing;
mod view;
mod workspace;

pub use buffer::Buffer;
pub use cuda::{Cuda, CudaBuffer, DEVICE_GRAIN, Memory, Order, Properties};
pub use error::{Error, Result};
pub use float::{Element, Float};
pub use groups::Groups;
pub use half::bf16;
pub use pages::{copied, return_freed_buffers, zeros};
pub use shelf::{Lendable, Shelf};
pub use view::{View, ViewMut};
pub use workspace::Workspace;
