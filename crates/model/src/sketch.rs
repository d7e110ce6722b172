//! Sketches of the gradient of each item of a batch, made while the batch's own gradient is.
use std::ops::Range;

use candlewick_kernels::attention::Segment;
use candlewick_kernels::count_sketch::{self, MOST_DIMENSIONS, Projection};
use candlewick_kernels::{Element, Float, View, ViewMut, Workspace, linear};

use crate::error::{Error, Result};
use crate::packed::Packed;
use crate::parameters::{Gradients, Parameters};

/// How gradients are sketched: a random projection to a few thousand numbers that keeps inner products on average.
///
/// The sketch s(g) of a gradient g is a count sketch (Charikar, Chen and Farach-Colton, ICALP 2002; Weinberger et al.
/// 2009, arXiv 0902.2206): every element of every tensor is added to one of k buckets with one of two signs, both computed
/// from the tensor's name, the element's place and the seed, as [`Projection`] says. So sketches of different steps, runs
/// and checkpoints can be compared wherever the adapter has the same names and shapes, and no random matrix is stored.
///
/// s is linear, and over random seeds
///
/// ```text
/// E ⟨s(g), s(h)⟩ = ⟨g, h⟩        Var ⟨s(g), s(h)⟩ = (‖g‖²‖h‖² + ⟨g,h⟩² − 2 Σ gᵢ²hᵢ²)/k ≤ 2‖g‖²‖h‖²/k
/// ```
///
/// for independent hashes: a cosine of two gradients is known to about 1/√k where it is small and to √(2/k) at most.
/// Few large elements among many make rare, large errors likelier than a dense projection would; their variance is the
/// same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sketch {
    /// Numbers in a sketch, k: 1 to 2²⁴.
    pub dimensions: usize,
    /// Which of the random projections.
    pub seed: u64,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { dimensions: 4096, seed: 0 }
    }
}

impl Sketch {
    /// The sketch of a whole gradient, such as that of a held-out loss: one item, the sum of the sketches of its parts.
    ///
    /// # Errors
    /// A number of dimensions out of bounds, or gradients that do not belong to `parameters`.
    pub fn of<T: Float>(&self, parameters: &Parameters<T>, gradients: &Gradients<T>) -> Result<Sketches> {
        if gradients.is_on_device() {
            return Err(Error::Input("the gradients are on a device; sketches are made of those of the host".into()));
        }
        if gradients.data().len() != parameters.element_count() {
            return Err(Error::Input(format!(
                "the gradients hold {} numbers and the parameters {}; expected those of the same model",
                gradients.data().len(),
                parameters.element_count()
            )));
        }
        let projections = self.projections(parameters)?;
        let mut values = vec![0.0; self.dimensions];
        for (projection, range) in projections.into_iter().zip((0..parameters.len()).map(|i| parameters.range(i))) {
            count_sketch::dense(gradients.data()[range].into(), projection, (&mut values).into())?;
        }
        Ok(Sketches { sketch: *self, values })
    }

    fn projections<T>(&self, parameters: &Parameters<T>) -> Result<Vec<Projection>> {
        if !(1..=MOST_DIMENSIONS).contains(&self.dimensions) {
            return Err(Error::Input(format!(
                "sketch dimensions is {}; expected 1 to {MOST_DIMENSIONS}",
                self.dimensions
            )));
        }
        parameters.names().map(|name| Ok(Projection::new(name, self.seed, self.dimensions)?)).collect()
    }
}

/// One sketch an item, `[items, dimensions]`, with the projection that made them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketches {
    sketch: Sketch,
    values: Vec<f64>,
}

impl Sketches {
    /// How they were made.
    pub fn sketch(&self) -> Sketch {
        self.sketch
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.values.len() / self.sketch.dimensions
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The sketch of item `i`, `[dimensions]`.
    pub fn item(&self, i: usize) -> &[f64] {
        &self.values[i * self.sketch.dimensions..][..self.sketch.dimensions]
    }

    /// The sketches in the order of the items.
    pub fn items(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.values.chunks_exact(self.sketch.dimensions)
    }

    /// All numbers, `[items, dimensions]`.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Estimates of the inner products of the gradients of these items with those of `others`, `[items, others]`.
    ///
    /// # Errors
    /// `others` were made with other dimensions or another seed.
    pub fn inner_products(&self, others: &Self) -> Result<Vec<f64>> {
        if self.sketch != others.sketch {
            return Err(Error::Input(format!(
                "sketches of {:?} and of {:?} cannot be compared; make both with the same dimensions and seed",
                self.sketch, others.sketch
            )));
        }
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
        Ok(self.items().flat_map(|a| others.items().map(move |b| product(a, b))).collect())
    }
}

/// Sketches of a batch while its backward runs.
pub(crate) struct SketchSums {
    sketch: Sketch,
    /// The rows of each item.
    items: Vec<Range<usize>>,
    /// By the place of the tensor.
    projections: Vec<Projection>,
    values: Vec<f64>,
}

impl SketchSums {
    /// Nothing yet, for each context of `packed`.
    pub(crate) fn new<T>(sketch: Sketch, packed: &Packed, trainable: &Parameters<T>) -> Result<Self> {
        let items: Vec<Range<usize>> = packed.segments().iter().map(rows).collect();
        let projections = sketch.projections(trainable)?;
        let values = vec![0.0; items.len() * sketch.dimensions];
        Ok(Self { sketch, items, projections, values })
    }

    pub(crate) fn finish(self) -> Sketches {
        Sketches { sketch: self.sketch, values: self.values }
    }
}

/// The rows of a context: its prompt and, after it, its completions.
fn rows(segment: &Segment) -> Range<usize> {
    segment.prompt.start..segment.completions.last().unwrap_or(&segment.prompt).end
}

/// Where a backward pass leaves what it finds: gradients, and sketches of them by item where they are wanted.
pub(crate) struct GradientSink<'a, T> {
    pub(crate) whole: &'a mut Gradients<T>,
    pub(crate) by_item: Option<&'a mut SketchSums>,
}

impl<W: Float> GradientSink<'_, W> {
    pub(crate) fn tensor_mut(&mut self, i: usize) -> ViewMut<'_, W> {
        self.whole.view_mut(i)
    }

    /// Adds `scale·dyᵀ·x`, the gradient of a weight `[out, in]` that is tensor `place`, of which every row belongs to one
    /// item.
    pub(crate) fn add_product<T: Element<Wide = W>>(
        &mut self,
        place: usize,
        x: View<'_, T>,
        dy: View<'_, T>,
        shape: linear::Shape,
        scale: W,
        workspace: &mut Workspace,
    ) -> Result<()> {
        linear::backward_weight(x, dy, self.tensor_mut(place), shape, scale, true, workspace)?;
        if let Some(sums) = &mut self.by_item {
            const OP: &str = "sketches of gradients";
            let linear::Shape { rows, in_features, out_features } = shape;
            count_sketch::outer_products(
                dy.cpu(OP)?.into(),
                x.cpu(OP)?.into(),
                &sums.items,
                sums.projections[place],
                scale,
                (&mut sums.values).into(),
                count_sketch::Shape { rows, left: out_features, right: in_features },
                workspace,
            )?;
        }
        Ok(())
    }
}
