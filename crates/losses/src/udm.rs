//! Underlying-distribution matching: how much a desirable-set prompt an undesirable row's prompt looks like.
//!
//! Where desirable and undesirable completions answer different prompts, a loss that tells them apart may learn the prompts
//! instead. [`Bco`](crate::Bco) then weights every undesirable row by the density ratio of its prompt, which a
//! classifier estimates: draw prompts of both kinds ([`sample_prompts`]), embed them with any model, fit
//! [`LogisticRegression`], write [`probability`](LogisticRegression::probability) of every row's prompt into the column
//! `desirable_prompt`, and train with `density_ratio`.
//!
//! Source: Jung et al. 2024, arXiv 2404.04656, in the form of TRL's `BCOTrainer`. Confidence A✓.
//!
//! ```
//! use candlewick_losses::udm::{DensityRatio, LogisticRegression, sample_prompts};
//! // Embeddings of five prompts; those of desirable completions have the larger first coordinate.
//! let embeddings = [[1.0, 0.2], [0.8, -0.1], [1.2, 0.1], [-1.0, 0.1], [-0.9, 0.3]];
//! let desirable = [true, true, true, false, false];
//! let drawn = sample_prompts(&desirable, 1024, 7)?;
//! let rows: Vec<[f64; 2]> = drawn.iter().map(|&index| embeddings[index]).collect();
//! let labels: Vec<bool> = drawn.iter().map(|&index| desirable[index]).collect();
//! let classifier = LogisticRegression::fit(&rows, &labels)?;
//! assert!(classifier.probability(&[1.0, 0.0])? > 0.6);
//! assert_eq!(DensityRatio::default().weight(classifier.probability(&[-3.0, 0.0])?), 0.5);
//! # Ok::<(), candlewick_losses::Error>(())
//! ```

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::numbers::Number;

/// The probability that a row's prompt is one of the desirable rows: the number that
/// [`Bco`](crate::Bco) reads with a density ratio.
pub const DESIRABLE_PROMPT: Number =
    Number::share("desirable_prompt", "how likely its prompt is one of a desirable completion");

/// The weight of an undesirable row: `p/(1 − p + 1e-8)`, held within bounds.
///
/// ```
/// use candlewick_losses::udm::DensityRatio;
/// let ratio = DensityRatio::default();
/// assert_eq!([ratio.weight(0.0), ratio.weight(1.0)], [0.5, 10.0]);
/// assert!((ratio.weight(0.75) - 3.0).abs() < 1e-6);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DensityRatio {
    /// The smallest weight, at least 0. Default 0.5.
    pub min: f64,
    /// The largest weight, at least `min`. Default 10.
    pub max: f64,
}

impl Default for DensityRatio {
    fn default() -> Self {
        Self { min: 0.5, max: 10.0 }
    }
}

impl DensityRatio {
    /// The weight of a row whose prompt is one of the desirable rows with probability `p` in [0, 1].
    pub fn weight(self, p: f64) -> f64 {
        (p / (1.0 - p + 1e-8)).max(self.min).min(self.max)
    }
}

/// Rows to fit a classifier on: up to `per_class` desirable ones, then up to `per_class` undesirable ones, as indices
/// into `desirable`. Drawn with replacement, as many as the class has rows where those are fewer; one seed, one draw.
///
/// TRL does the same with `prompt_sample_size` = 1024 and no seed of its own.
///
/// # Errors
/// If a class has no rows or `per_class` is 0.
pub fn sample_prompts(desirable: &[bool], per_class: usize, seed: u64) -> Result<Vec<usize>> {
    if per_class == 0 {
        return Err(Error::DensityRatio("got 0 prompts a class, expected at least 1; TRL draws 1024".to_owned()));
    }
    classes(desirable)?;
    let mut random = SplitMix(seed);
    let mut drawn = Vec::new();
    for class in [true, false] {
        let of_class: Vec<usize> = (0..desirable.len()).filter(|&row| desirable[row] == class).collect();
        let count = per_class.min(of_class.len());
        drawn.extend((0..count).map(|_| of_class[random.below(of_class.len())]));
    }
    Ok(drawn)
}

/// A logistic regression with balanced classes and a ridge penalty, as `LogisticRegression(class_weight="balanced")` of
/// scikit-learn: weights `w` and an intercept `b` that minimise
///
/// `½·‖w‖² + Σ_i c_i·log(1 + e^{∓(w·x_i + b)})`, with `c_i = n/(2·n_class)`.
///
/// The intercept is not penalised. The fit is Newton's method with step halving, on `d × d` systems, or `n × n` ones
/// where rows are fewer than their `d` dimensions; it is deterministic, and goes on until the gradient is 0 up to
/// rounding, where scikit-learn stops earlier. It is written as JSON with a format version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct LogisticRegression {
    weights: Vec<f64>,
    intercept: f64,
}

impl LogisticRegression {
    /// Fits to embeddings, one a row, all of one length, and whether each belongs to a desirable completion.
    ///
    /// Time grows with `n·d·min(n, d)`: less than a minute for 2048 rows of 4096 dimensions in an optimised build.
    ///
    /// # Errors
    /// If there are not as many verdicts as rows, a class is empty, lengths differ, a number is not finite, or numbers
    /// are so large that the fit does not converge.
    pub fn fit<R: AsRef<[f64]>>(rows: &[R], desirable: &[bool]) -> Result<Self> {
        let dimensions = check(rows, desirable)?;
        let means: Vec<f64> = (0..dimensions)
            .map(|column| rows.iter().map(|row| row.as_ref()[column]).sum::<f64>() / rows.len() as f64)
            .collect();
        // About their mean, which moves nothing but the intercept, the rows are as small as they can be.
        let centred = rows.iter().map(|row| row.as_ref().iter().zip(&means).map(|(x, mean)| x - mean).collect());
        let fitted = Problem::new(centred.collect(), desirable)?.solve()?;
        let intercept = fitted.intercept - dot(&fitted.weights, &means);
        Self { weights: fitted.weights, intercept }.checked()
    }

    /// The probability that a prompt with that embedding is one of a desirable completion.
    ///
    /// # Errors
    /// If the embedding has another length than those of the fit, or a number in it is not finite.
    pub fn probability(&self, embedding: &[f64]) -> Result<f64> {
        if embedding.len() != self.weights.len() {
            let (got, expected) = (embedding.len(), self.weights.len());
            return Err(Error::DensityRatio(format!(
                "got an embedding of {got} dimensions, and the classifier was fitted on {expected}: embed with the same model"
            )));
        }
        if let Some((place, got)) = embedding.iter().enumerate().find(|(_, x)| !x.is_finite()) {
            return Err(Error::DensityRatio(format!(
                "got an embedding with {got} at {place}, expected finite numbers"
            )));
        }
        Ok(sigmoid(dot(&self.weights, embedding) + self.intercept))
    }

    /// `w`, one a dimension.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// `b`.
    pub fn intercept(&self) -> f64 {
        self.intercept
    }

    fn checked(self) -> Result<Self> {
        let finite = self.intercept.is_finite() && self.weights.iter().all(|weight| weight.is_finite());
        if finite && !self.weights.is_empty() {
            return Ok(self);
        }
        Err(Error::DensityRatio("a classifier has at least one weight, and finite ones".to_owned()))
    }
}

/// A classifier as it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    format: u64,
    weights: Vec<f64>,
    intercept: f64,
}

impl From<LogisticRegression> for Saved {
    fn from(LogisticRegression { weights, intercept }: LogisticRegression) -> Self {
        Self { format: FORMAT, weights, intercept }
    }
}

impl TryFrom<Saved> for LogisticRegression {
    type Error = Error;

    fn try_from(Saved { format, weights, intercept }: Saved) -> Result<Self> {
        if format != FORMAT {
            let got = format!("got a classifier of format {format}, this version reads {FORMAT}: fit it again");
            return Err(Error::DensityRatio(got));
        }
        Self { weights, intercept }.checked()
    }
}

/// Rows about their mean, and what each of them counts.
struct Problem {
    rows: Vec<Vec<f64>>,
    dimensions: usize,
    /// 1 for desirable rows and 0 for others.
    targets: Vec<f64>,
    /// `c_i`.
    counts: Vec<f64>,
    /// Products of all rows with each other, where these are fewer than dimensions.
    gram: Option<Lower>,
    /// A bound of the gradient, which it is compared with.
    scale: f64,
}

/// A place that the fit has reached.
#[derive(Clone)]
struct Point {
    weights: Vec<f64>,
    intercept: f64,
    /// `w·x_i + b`.
    margins: Vec<f64>,
}

impl Problem {
    fn new(rows: Vec<Vec<f64>>, desirable: &[bool]) -> Result<Self> {
        let (wanted, unwanted) = classes(desirable)?;
        let half = rows.len() as f64 / 2.0;
        let (of_wanted, of_unwanted) = (half / wanted as f64, half / unwanted as f64);
        let counts: Vec<f64> = desirable.iter().map(|&label| if label { of_wanted } else { of_unwanted }).collect();
        let targets = desirable.iter().map(|&label| f64::from(u8::from(label))).collect();
        let dimensions = rows.first().map_or(0, Vec::len);
        let scale = rows.iter().zip(&counts).map(|(row, count)| count * (1.0 + dot(row, row).sqrt())).sum();
        let gram = (rows.len() < dimensions).then(|| products(&rows));
        Ok(Self { rows, dimensions, targets, counts, gram, scale })
    }

    fn solve(&self) -> Result<Point> {
        let mut point =
            Point { weights: vec![0.0; self.dimensions], intercept: 0.0, margins: vec![0.0; self.rows.len()] };
        let mut before = f64::INFINITY;
        for _ in 0..STEPS {
            let (gradient, of_intercept) = self.gradient(&point);
            let norm = (dot(&gradient, &gradient) + of_intercept * of_intercept).sqrt() / self.scale;
            if norm <= ROUNDING || (norm <= TOLERANCE && norm > 0.5 * before) {
                return Ok(point);
            }
            before = norm;
            match self.step(&point, &gradient, of_intercept)? {
                Some(next) => point = next,
                None if norm <= TOLERANCE => return Ok(point),
                None => break,
            }
        }
        Err(Error::DensityRatio("the classifier did not converge: scale the embeddings to a length near 1".to_owned()))
    }

    /// The penalised loss.
    fn objective(&self, point: &Point) -> f64 {
        let rows = point.margins.iter().zip(&self.targets).zip(&self.counts);
        let losses: f64 = rows.map(|((margin, target), count)| count * (softplus(*margin) - target * margin)).sum();
        losses + 0.5 * dot(&point.weights, &point.weights)
    }

    /// Its gradient for weights and intercept.
    fn gradient(&self, point: &Point) -> (Vec<f64>, f64) {
        let rows = point.margins.iter().zip(&self.targets).zip(&self.counts);
        let slopes: Vec<f64> = rows.map(|((margin, target), count)| count * (sigmoid(*margin) - target)).collect();
        let mut gradient = self.combine(&slopes);
        gradient.iter_mut().zip(&point.weights).for_each(|(slope, weight)| *slope += weight);
        (gradient, slopes.iter().sum())
    }

    /// One step of Newton's method, halved until it goes down; `None` if it does not.
    fn step(&self, point: &Point, gradient: &[f64], of_intercept: f64) -> Result<Option<Point>> {
        let bends: Vec<f64> = point
            .margins
            .iter()
            .zip(&self.counts)
            .map(|(margin, count)| count * sigmoid(*margin) * sigmoid(-margin))
            .collect();
        let curvature = self.curvature(&bends)?;
        // Block elimination of the intercept, which has the column `border` and the corner `Σ bends`.
        let border = self.combine(&bends);
        let solved_gradient = self.apply_inverse(&curvature, &bends, gradient);
        let solved_border = self.apply_inverse(&curvature, &bends, &border);
        let corner = bends.iter().sum::<f64>() - dot(&border, &solved_border);
        let by_intercept = (dot(&border, &solved_gradient) - of_intercept) / corner;
        let by_intercept = if by_intercept.is_finite() { by_intercept } else { 0.0 };
        let by_weights: Vec<f64> =
            solved_gradient.iter().zip(&solved_border).map(|(g, b)| -g - by_intercept * b).collect();
        let by_margins: Vec<f64> = self.rows.iter().map(|row| dot(row, &by_weights) + by_intercept).collect();

        let slope = dot(gradient, &by_weights) + of_intercept * by_intercept;
        let start = self.objective(point);
        // What rounding may add to the loss.
        let slack = 4.0 * f64::EPSILON * start.abs();
        let lengths = std::iter::successors(Some(1.0), |length| Some(length * 0.5)).take(HALVINGS);
        for length in lengths {
            let next = Point {
                weights: along(&point.weights, length, &by_weights),
                intercept: point.intercept + length * by_intercept,
                margins: along(&point.margins, length, &by_margins),
            };
            if slope < 0.0 && self.objective(&next) <= start + 1e-4 * length * slope + slack {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    /// `Xᵀ·values`.
    fn combine(&self, values: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; self.dimensions];
        for (row, value) in self.rows.iter().zip(values) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += value * x);
        }
        sum
    }

    /// The factor of `I + Xᵀ·B·X`, or of `I + B^½·X·Xᵀ·B^½` where that is smaller.
    fn curvature(&self, bends: &[f64]) -> Result<Lower> {
        let mut matrix = match &self.gram {
            Some(gram) => Lower::of(gram.size(), |i, j| (bends[i] * bends[j]).sqrt() * gram.rows[i][j]),
            None => self.moments(bends),
        };
        matrix.rows.iter_mut().filter_map(|row| row.last_mut()).for_each(|corner| *corner += 1.0);
        matrix.factored()
    }

    /// `Xᵀ·B·X`.
    fn moments(&self, bends: &[f64]) -> Lower {
        let mut moments = Lower::of(self.dimensions, |_, _| 0.0);
        for (row, bend) in self.rows.iter().zip(bends) {
            for (sums, x) in moments.rows.iter_mut().zip(row) {
                sums.iter_mut().zip(row).for_each(|(sum, y)| *sum += bend * x * y);
            }
        }
        moments
    }

    /// `(I + Xᵀ·B·X)⁻¹·vector`; from the factor of the smaller matrix by Woodbury's identity.
    fn apply_inverse(&self, factor: &Lower, bends: &[f64], vector: &[f64]) -> Vec<f64> {
        if self.gram.is_none() {
            return factor.solve(vector);
        }
        let scaled: Vec<f64> = self.rows.iter().zip(bends).map(|(row, bend)| bend.sqrt() * dot(row, vector)).collect();
        let solved: Vec<f64> = factor.solve(&scaled).iter().zip(bends).map(|(x, bend)| bend.sqrt() * x).collect();
        vector.iter().zip(self.combine(&solved)).map(|(x, taken)| x - taken).collect()
    }
}

/// The lower half of a symmetric matrix, or a triangular factor: row `i` holds `i + 1` numbers.
struct Lower {
    rows: Vec<Vec<f64>>,
}

impl Lower {
    fn of(size: usize, element: impl Fn(usize, usize) -> f64) -> Self {
        Self { rows: (0..size).map(|i| (0..=i).map(|j| element(i, j)).collect()).collect() }
    }

    fn size(&self) -> usize {
        self.rows.len()
    }

    /// Cholesky's factor of a positive definite matrix.
    fn factored(mut self) -> Result<Self> {
        for i in 0..self.size() {
            let (above, below) = self.rows.split_at_mut(i);
            let row = &mut below[0];
            for j in 0..i {
                row[j] = (row[j] - dot(&row[..j], &above[j][..j])) / above[j][j];
            }
            let pivot = row[i] - dot(&row[..i], &row[..i]);
            if !(pivot > 0.0 && pivot.is_finite()) {
                let text = "the embeddings are too large for the classifier: scale them to a length near 1";
                return Err(Error::DensityRatio(text.to_owned()));
            }
            row[i] = pivot.sqrt();
        }
        Ok(self)
    }

    /// `(L·Lᵀ)⁻¹·vector` of a factor `L`.
    fn solve(&self, vector: &[f64]) -> Vec<f64> {
        let mut solved = vector.to_vec();
        for (i, row) in self.rows.iter().enumerate() {
            solved[i] = (solved[i] - dot(&row[..i], &solved[..i])) / row[i];
        }
        for (i, row) in self.rows.iter().enumerate().rev() {
            solved[i] /= row[i];
            let known = solved[i];
            solved[..i].iter_mut().zip(row).for_each(|(open, x)| *open -= known * x);
        }
        solved
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): its numbers decide what is drawn, so they depend on no library's version.
struct SplitMix(u64);

impl SplitMix {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform below a bound, to within bound / 2⁶⁴.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }
}

/// How many rows are desirable and undesirable.
fn classes(desirable: &[bool]) -> Result<(usize, usize)> {
    let wanted = desirable.iter().filter(|&&label| label).count();
    let unwanted = desirable.len() - wanted;
    if wanted == 0 || unwanted == 0 {
        return Err(Error::DensityRatio(format!(
            "got prompts of {wanted} desirable and {unwanted} undesirable rows, expected at least one of each"
        )));
    }
    Ok((wanted, unwanted))
}

/// The dimensions of rows that can be fitted.
fn check<R: AsRef<[f64]>>(rows: &[R], desirable: &[bool]) -> Result<usize> {
    if rows.len() != desirable.len() {
        let (got, expected) = (desirable.len(), rows.len());
        return Err(Error::DensityRatio(format!("got {got} verdicts for {expected} embeddings, expected one each")));
    }
    classes(desirable)?;
    let dimensions = rows.first().map_or(0, |row| row.as_ref().len());
    if dimensions == 0 {
        return Err(Error::DensityRatio("got embeddings without numbers".to_owned()));
    }
    for (index, row) in rows.iter().map(AsRef::as_ref).enumerate() {
        if row.len() != dimensions {
            let got = row.len();
            return Err(Error::DensityRatio(format!(
                "embedding {index}: got {got} dimensions, expected {dimensions} as in the first"
            )));
        }
        if let Some((place, got)) = row.iter().enumerate().find(|(_, x)| !x.is_finite()) {
            return Err(Error::DensityRatio(format!(
                "embedding {index}: got {got} at {place}, expected a finite number"
            )));
        }
    }
    Ok(dimensions)
}

/// A product in a fixed order: eight sums side by side, which processors add at once.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_blocks, b_blocks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(x, y)| x * y).sum();
    let mut sums = [0.0; 8];
    for (a, b) in a_blocks.zip(b_blocks) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (x, y))| *sum += x * y);
    }
    sums.iter().sum::<f64>() + rest
}

/// `X·Xᵀ`, in panels of columns that stay near the processor.
fn products(rows: &[Vec<f64>]) -> Lower {
    const PANEL: usize = 128;
    let mut sums = Lower::of(rows.len(), |_, _| 0.0);
    let dimensions = rows.first().map_or(0, Vec::len);
    for start in (0..dimensions).step_by(PANEL) {
        let panel: Vec<&[f64]> = rows.iter().map(|row| &row[start..dimensions.min(start + PANEL)]).collect();
        for (sums, row) in sums.rows.iter_mut().zip(&panel) {
            sums.iter_mut().zip(&panel).for_each(|(sum, other)| *sum += dot(row, other));
        }
    }
    sums
}

fn along(from: &[f64], length: f64, by: &[f64]) -> Vec<f64> {
    from.iter().zip(by).map(|(x, step)| x + length * step).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `log(1 + e^x)`
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

const FORMAT: u64 = 1;
const STEPS: usize = 100;
const HALVINGS: usize = 60;
/// The gradient, as a part of its scale, that counts as 0.
const TOLERANCE: f64 = 1e-8;
/// Where rounding is all that is left of it.
const ROUNDING: f64 = 1e-13;

#[cfg(test)]
mod tests {
    use candlewick_testkit::{central_difference, error, worst};

    use super::*;

    /// Rows of a lopsided cloud, a quarter of them desirable, with a shift between the classes.
    fn cloud(count: usize, dimensions: usize, shift: f64) -> (Vec<Vec<f64>>, Vec<bool>) {
        let mut random = SplitMix(3);
        let mut uniform = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 - 0.5;
        let labels: Vec<bool> = (0..count).map(|row| row % 4 == 0).collect();
        let rows = labels.iter().map(|&label| {
            let scale = |column: usize| 1.0 + 3.0 / (1.0 + column as f64);
            (0..dimensions).map(|column| scale(column) * uniform() + if label { shift } else { 0.0 }).collect()
        });
        (rows.collect(), labels)
    }

    /// The penalised loss as scikit-learn states it, of weights with the intercept at their end.
    fn penalised(rows: &[Vec<f64>], labels: &[bool], at: &[f64]) -> f64 {
        let (intercept, weights) = at.split_last().unwrap();
        let of = |class: bool| labels.iter().filter(|&&label| label == class).count() as f64;
        let losses = rows.iter().zip(labels).map(|(row, &label)| {
            let margin: f64 = row.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>() + intercept;
            let sign = if label { 1.0 } else { -1.0 };
            labels.len() as f64 / (2.0 * of(label)) * (1.0 + (-sign * margin).exp()).ln()
        });
        losses.sum::<f64>() + 0.5 * weights.iter().map(|w| w * w).sum::<f64>()
    }

    #[test]
    fn the_gradient_of_the_penalised_loss_is_zero() {
        for (count, dimensions) in [(60, 3), (40, 39), (24, 40), (8, 300)] {
            let (rows, labels) = cloud(count, dimensions, 0.3);
            let fitted = LogisticRegression::fit(&rows, &labels).unwrap();
            let at = [fitted.weights(), &[fitted.intercept()]].concat();
            let slopes = central_difference(|at| penalised(&rows, &labels, at), &at, 1e-4);
            // Differences of a loss of about 20 leave 1e-10 of rounding; elsewhere slopes are of order 1.
            assert!(worst(&slopes, &vec![0.0; at.len()]) < 1e-8, "{count} {dimensions}: {slopes:?}");
            let elsewhere = central_difference(|at| penalised(&rows, &labels, at), &vec![0.0; at.len()], 1e-4);
            assert!(elsewhere.iter().any(|slope| slope.abs() > 0.5), "{elsewhere:?}");
        }
    }

    #[test]
    fn one_dimension_agrees_with_bisection() {
        // Rows at 1 and −1: b = 0 and w = 2·c·σ(−w), where each class counts c = n/2 in all, however many rows it has.
        for (wanted, unwanted) in [(1, 1), (2, 2), (1, 5), (30, 3)] {
            let labels: Vec<bool> = (0..wanted + unwanted).map(|row| row < wanted).collect();
            let rows: Vec<Vec<f64>> = labels.iter().map(|&label| vec![if label { 1.0 } else { -1.0 }]).collect();
            let total = (wanted + unwanted) as f64;
            let (mut low, mut high) = (0.0, total);
            for _ in 0..200 {
                let middle = 0.5 * (low + high);
                if middle < total / (1.0 + f64::exp(middle)) { low = middle } else { high = middle }
            }
            let fitted = LogisticRegression::fit(&rows, &labels).unwrap();
            assert!(error(fitted.weights()[0], low) < 1e-12, "{wanted} {unwanted}: {fitted:?} {low}");
            assert!(fitted.intercept().abs() < 1e-12, "{fitted:?}");
        }
    }

    #[test]
    fn few_rows_and_many_dimensions_give_the_same() {
        // Zeros beside the two coordinates change nothing but the form of the equations.
        let (rows, labels) = cloud(20, 2, 0.5);
        let wide: Vec<Vec<f64>> = rows.iter().map(|row| [row.as_slice(), &[0.0; 38]].concat()).collect();
        let (narrow, wide) =
            (LogisticRegression::fit(&rows, &labels).unwrap(), LogisticRegression::fit(&wide, &labels).unwrap());
        assert!(worst(&wide.weights()[..2], narrow.weights()) < 1e-11);
        assert!(wide.weights()[2..].iter().all(|weight| weight.abs() < 1e-15));
        assert!(error(wide.intercept(), narrow.intercept()) < 1e-11);
    }

    #[test]
    fn the_intercept_is_not_penalised() {
        let (rows, labels) = cloud(30, 4, 0.5);
        let far: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(|x| x + 100.0).collect()).collect();
        let (near, far) =
            (LogisticRegression::fit(&rows, &labels).unwrap(), LogisticRegression::fit(&far, &labels).unwrap());
        assert!(worst(near.weights(), far.weights()) < 1e-9);
        let probability = |fitted: &LogisticRegression, shift: f64| fitted.probability(&[shift; 4]).unwrap();
        assert!(error(probability(&near, 0.0), probability(&far, 100.0)) < 1e-9);
    }

    #[test]
    fn separable_and_repeated_rows_stay_finite() {
        // Far apart, long, drawn several times, and more dimensions than rows.
        for (count, dimensions, shift) in [(40, 2, 1e3), (12, 64, 1e3), (40, 2, 1e6)] {
            let (mut rows, mut labels) = cloud(count, dimensions, shift);
            rows.extend_from_within(..);
            labels.extend_from_within(..);
            let fitted = LogisticRegression::fit(&rows, &labels).unwrap();
            for (row, label) in rows.iter().zip(labels) {
                assert_eq!(fitted.probability(row).unwrap() > 0.5, label, "{count} {dimensions} {shift}");
            }
        }
    }

    #[test]
    fn classes_that_do_not_differ_are_even() {
        let rows = [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]];
        let fitted = LogisticRegression::fit(&rows, &[true, false, false]).unwrap();
        assert!((fitted.probability(&[5.0, -3.0]).unwrap() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_fitted_is_named() {
        let message =
            |rows: &[Vec<f64>], labels: &[bool]| LogisticRegression::fit(rows, labels).unwrap_err().to_string();
        let good = vec![vec![1.0, 2.0], vec![0.0, 1.0]];
        assert!(message(&good, &[true, true]).contains("2 desirable and 0 undesirable"));
        assert!(message(&good, &[true]).contains("1 verdicts for 2 embeddings"));
        assert!(message(&[vec![1.0, 2.0], vec![0.0]], &[true, false]).contains("embedding 1: got 1 dimensions"));
        assert!(message(&[vec![1.0], vec![f64::NAN]], &[true, false]).contains("embedding 1: got NaN at 0"));
        assert!(message(&[vec![], vec![]], &[true, false]).contains("without numbers"));
        assert!(message(&[vec![1e200], vec![-1e200]], &[true, false]).contains("scale"));
        let fitted = LogisticRegression::fit(&good, &[true, false]).unwrap();
        assert!(fitted.probability(&[1.0]).unwrap_err().to_string().contains("fitted on 2"));
        assert!(fitted.probability(&[1.0, f64::INFINITY]).is_err());
    }

    #[test]
    fn a_classifier_survives_its_file() {
        let fitted = LogisticRegression::fit(&[[1.0, 2.0], [0.0, 1.0]], &[true, false]).unwrap();
        let text = serde_json::to_string(&fitted).unwrap();
        assert!(text.starts_with(r#"{"format":1,"#), "{text}");
        let read: LogisticRegression = serde_json::from_str(&text).unwrap();
        assert!(worst(read.weights(), fitted.weights()) < 1e-15);
        for bad in [
            r#"{ "format": 2, "weights": [1.0], "intercept": 0.0 }"#,
            r#"{ "format": 1, "weights": [], "intercept": 0.0 }"#,
            r#"{ "format": 1, "weights": [null], "intercept": 0.0 }"#,
            r#"{ "format": 1, "weights": [1.0] }"#,
        ] {
            assert!(serde_json::from_str::<LogisticRegression>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn prompts_are_drawn_by_seed_class_by_class() {
        let desirable: Vec<bool> = (0..500).map(|row| row % 5 == 0).collect();
        let drawn = sample_prompts(&desirable, 300, 1).unwrap();
        // A hundred desirable rows give a hundred, with replacement.
        assert_eq!(drawn.len(), 100 + 300);
        assert!(drawn.iter().enumerate().all(|(place, &row)| desirable[row] == (place < 100)));
        let mut distinct = drawn[..100].to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        // 100·(1 − e⁻¹) = 63 of a hundred, give or take.
        assert!((45..80).contains(&distinct.len()), "{}", distinct.len());
        assert_eq!(drawn, sample_prompts(&desirable, 300, 1).unwrap());
        assert_ne!(drawn, sample_prompts(&desirable, 300, 2).unwrap());
        assert!(sample_prompts(&[true, true], 4, 0).is_err());
        assert!(sample_prompts(&desirable, 0, 0).is_err());
    }

    #[test]
    fn numbers_are_those_of_the_paper() {
        // The published C code started at 1234567.
        let mut random = SplitMix(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }
}
