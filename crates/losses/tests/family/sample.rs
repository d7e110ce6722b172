//! Samples on which every loss of the list can be evaluated.

use candle_core::{DType, Device, Tensor, Var};
use candlewick_losses::{
    Context, Groups, JudgedRows, LabelledRow, MismatchedScores, Objective, PairRows, Phase, RankedRows, Recipe, Scores,
    Solo, StepScores, TeacherScores, TokenScores, Totals,
};

/// Rows of a sample.
pub(crate) const ROWS: usize = 8;
/// Token slots of a row.
pub(crate) const SLOTS: usize = 5;
/// Tokens a slot whose log-probabilities a teacher gives.
const GIVEN: usize = 3;
/// Heads of a score model.
const HEADS: usize = 10;
/// Scored tokens of each row.
const LENGTHS: [usize; ROWS] = [5, 3, 4, 1, 2, 5, 3, 4];

/// A batch on the host: eight rows of up to five tokens.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) policy: Vec<Vec<f64>>,
    pub(crate) reference: Vec<Vec<f64>>,
    pub(crate) mask: Vec<Vec<f64>>,
    pub(crate) groups: Groups,
    /// Means over the vocabulary of the policy's log-probabilities.
    means: Vec<Vec<f64>>,
    /// `log Σ p²` of the policy.
    squares: Vec<Vec<f64>>,
    /// Log-probabilities of given tokens under the policy, `[N][T·K]`.
    given: Vec<Vec<f64>>,
    teacher: Vec<Vec<f64>>,
    teacher_reference: Vec<Vec<f64>>,
    /// What a score model says of the rows, `[N][K]`.
    values: Vec<Vec<f64>>,
    /// What its heads read of them, `[N][H]`.
    pooled: Vec<Vec<f64>>,
}

/// What a loss can be differentiated by.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) log_probs: Var,
    means: Var,
    given: Var,
    values: Var,
}

impl Sample {
    pub(crate) fn new(mut groups: Groups) -> Self {
        let mut numbers = numbers();
        let mut rows = |low: f64, high: f64, slots: usize| -> Vec<Vec<f64>> {
            (0..ROWS).map(|_| (0..slots).map(|_| low + (high - low) * numbers()).collect()).collect()
        };
        let (policy, reference) = (rows(-3.0, -0.1, SLOTS), rows(-3.0, -0.1, SLOTS));
        let (means, squares) = (rows(-6.0, -4.0, SLOTS), rows(-2.0, -0.5, SLOTS));
        // Log-probabilities of three tokens each add up to less than 1.
        let [given, teacher, teacher_reference] = [(); 3].map(|()| rows(-4.0, -1.2, SLOTS * GIVEN));
        let (values, pooled) = (rows(-2.0, 2.0, HEADS), rows(-1.0, 1.0, 3));
        let mask = LENGTHS.iter().map(|&length| (0..SLOTS).map(|slot| f64::from(u8::from(slot < length))).collect());
        for (place, name) in NUMBERS.into_iter().enumerate() {
            // Sides as much alike as this narrow the bands of differences to where losses see them.
            let size = if name == "similarity" { 8.0 } else { 0.9 };
            // No two numbers of an item are the same.
            let value = |item: usize| 0.05 + size * (item as f64 * 0.37 + place as f64 * 0.13).fract();
            let values = (0..groups.items()).map(value).collect();
            groups.numbers.entry(name.to_owned()).or_insert(values);
        }
        // Of four pairs one each of safe and safe, safe and not, not and safe, and neither.
        for (name, period) in LABELS {
            let values = (0..groups.items()).map(|item| f64::from(u8::from(item / period % 2 == 0))).collect();
            groups.numbers.entry(name.to_owned()).or_insert(values);
        }
        for (name, first, count) in WHOLE {
            let values = (0..groups.items()).map(|item| first + (item % count) as f64).collect();
            groups.numbers.entry(name.to_owned()).or_insert(values);
        }
        Self {
            policy,
            reference,
            mask: mask.collect(),
            groups,
            means,
            squares,
            given,
            teacher,
            teacher_reference,
            values,
            pooled,
        }
    }

    /// Samples of every kind of rows that an objective can use.
    pub(crate) fn all_for(recipe: &Recipe) -> Vec<Self> {
        let rows = recipe.needs().rows;
        let ranked = |rows: &[usize], ratings: &[f64]| RankedRows { rows: rows.to_vec(), ratings: ratings.to_vec() };
        let judged = |plain, judged, positive| JudgedRows { plain, judged, positive };
        let kinds = [
            (rows.pairs, Groups::of_pairs(4)),
            (rows.labelled, Groups::of_labelled(&[true, false, false, true, true, true, true, false])),
            (rows.demonstrations, Groups::of_demonstrations(8)),
            (
                rows.ranked,
                Groups {
                    ranked: vec![
                        ranked(&[0, 1, 2], &[3.0, 7.0, 4.0]),
                        ranked(&[3, 4, 5, 6, 7], &[1.0, 5.0, 2.0, 6.0, 4.0]),
                    ],
                    ..Groups::default()
                },
            ),
            (
                rows.judged,
                Groups {
                    judged: vec![judged(0, 5, false), judged(2, 7, false), judged(1, 6, true)],
                    ..Groups::default()
                },
            ),
        ];
        kinds.into_iter().filter(|(usable, _)| *usable).map(|(_, groups)| Self::new(groups)).collect()
    }

    pub(crate) fn scores(&self, dtype: DType) -> (Inputs, Scores) {
        let variable = |rows: &[Vec<f64>]| Var::from_tensor(&tensor(rows, dtype)).unwrap();
        let inputs = Inputs {
            log_probs: variable(&self.policy),
            means: variable(&self.means),
            given: variable(&self.given),
            values: variable(&self.values),
        };
        let mask = tensor(&self.mask, dtype);
        let by_token = |values: &Tensor| values.reshape((ROWS, SLOTS, GIVEN)).unwrap();
        let policy = TokenScores::new(inputs.log_probs.as_tensor().clone(), mask.clone())
            .and_then(|policy| policy.with_mean_log_probs(inputs.means.as_tensor().clone()))
            .and_then(|policy| policy.with_log_sum_sq_probs(tensor(&self.squares, dtype)))
            .and_then(|policy| policy.with_given(by_token(inputs.given.as_tensor())))
            .and_then(|policy| policy.with_values(inputs.values.as_tensor().clone()))
            .and_then(|policy| policy.with_pooled(tensor(&self.pooled, dtype)))
            .unwrap();
        let reference = TokenScores::new(tensor(&self.reference, dtype), mask).unwrap();
        let teacher = TeacherScores {
            log_probs: by_token(&tensor(&self.teacher, dtype)),
            reference: Some(by_token(&tensor(&self.teacher_reference, dtype))),
        };
        let scores = Scores {
            teacher: Some(teacher),
            mismatched: Some(mismatched(dtype)),
            ..Scores::new(policy, Some(reference), self.groups.clone())
        };
        (inputs, scores)
    }

    /// The loss of the step that this sample is.
    pub(crate) fn loss(&self, recipe: &Recipe) -> f64 {
        self.loss_in(recipe, &self.context(recipe))
    }

    pub(crate) fn loss_in(&self, recipe: &Recipe, context: &Context) -> f64 {
        self.evaluate(recipe, context, DType::F64).0
    }

    /// What the objective prepares from the step that this sample is.
    pub(crate) fn context(&self, recipe: &Recipe) -> Context {
        let micro = [self.scores(DType::F64).1];
        prepare(recipe, &micro).micro(0)
    }

    /// Loss and gradient with respect to every input, in the order of [`inputs`](Self::inputs).
    pub(crate) fn evaluate(&self, recipe: &Recipe, context: &Context, dtype: DType) -> (f64, Vec<f64>) {
        let (inputs, scores) = self.scores(dtype);
        self.differentiate(recipe, context, &inputs, &scores, &scores.totals())
    }

    pub(crate) fn differentiate(
        &self,
        recipe: &Recipe,
        context: &Context,
        inputs: &Inputs,
        scores: &Scores,
        totals: &Totals,
    ) -> (f64, Vec<f64>) {
        let loss = recipe.evaluate(scores, context).unwrap().loss(totals).unwrap();
        let mut gradients = loss.backward().unwrap();
        let outputs = recipe.needs().outputs;
        let inputs = [
            (&inputs.log_probs, true),
            (&inputs.means, outputs.mean_log_probs),
            (&inputs.given, outputs.given),
            (&inputs.values, outputs.values),
        ];
        let mut gradient: Vec<f64> = Vec::new();
        for (input, is_read) in inputs {
            let slopes = gradients.remove(input);
            assert!(is_read || slopes.is_none(), "{recipe:?} reads what it does not name in its needs");
            if is_read {
                let slopes = slopes.unwrap_or_else(|| input.zeros_like().unwrap()).to_dtype(DType::F64).unwrap();
                gradient.extend(slopes.flatten_all().unwrap().to_vec1::<f64>().unwrap());
            }
        }
        (loss.to_dtype(DType::F64).unwrap().to_scalar().unwrap(), gradient)
    }

    /// Everything that the loss can be differentiated by, flat: the log-probabilities, and what else the objective reads.
    pub(crate) fn inputs(&self, recipe: &Recipe) -> Vec<f64> {
        let outputs = recipe.needs().outputs;
        let mut flat = self.policy.concat();
        flat.extend(if outputs.mean_log_probs { self.means.concat() } else { Vec::new() });
        flat.extend(if outputs.given { self.given.concat() } else { Vec::new() });
        flat.extend(if outputs.values { self.values.concat() } else { Vec::new() });
        flat
    }

    /// The same sample with other inputs.
    pub(crate) fn with_inputs(&self, recipe: &Recipe, flat: &[f64]) -> Self {
        let outputs = recipe.needs().outputs;
        let mut flat = flat.iter().copied();
        let mut take =
            |rows: &mut Vec<Vec<f64>>| rows.iter_mut().flatten().zip(&mut flat).for_each(|(x, new)| *x = new);
        let mut moved = self.clone();
        take(&mut moved.policy);
        if outputs.mean_log_probs {
            take(&mut moved.means);
        }
        if outputs.given {
            take(&mut moved.given);
        }
        if outputs.values {
            take(&mut moved.values);
        }
        moved
    }

    /// Lets the heads of the score model say 0 of every row, as fresh ones do.
    pub(crate) fn silence(&mut self) {
        self.values.iter_mut().flatten().for_each(|value| *value = 0.0);
    }

    /// Puts a value in the place of everything that is known of one slot.
    pub(crate) fn spoil(&mut self, row: usize, slot: usize, garbage: f64) {
        for values in [&mut self.policy, &mut self.reference, &mut self.means, &mut self.squares] {
            values[row][slot] = garbage;
        }
        for values in [&mut self.given, &mut self.teacher, &mut self.teacher_reference] {
            values[row][slot * GIVEN..(slot + 1) * GIVEN].fill(garbage);
        }
    }

    /// The rows in another order, and the items in reverse; row `i` of the result is row `order[i]` of this sample.
    pub(crate) fn permuted(&self, order: &[usize; ROWS]) -> Self {
        let rows = |rows: &[Vec<f64>]| order.iter().map(|&row| rows[row].clone()).collect();
        let place = |row: usize| order.iter().position(|&from| from == row).unwrap();
        let groups = &self.groups;
        let pair = |pair: &PairRows| PairRows { chosen: place(pair.chosen), rejected: place(pair.rejected) };
        let ranked = |group: &RankedRows| RankedRows {
            rows: group.rows.iter().rev().map(|&row| place(row)).collect(),
            ratings: group.ratings.iter().rev().copied().collect(),
        };
        let judged = |item: &JudgedRows| JudgedRows { plain: place(item.plain), judged: place(item.judged), ..*item };
        Self {
            policy: rows(&self.policy),
            reference: rows(&self.reference),
            mask: rows(&self.mask),
            means: rows(&self.means),
            squares: rows(&self.squares),
            given: rows(&self.given),
            teacher: rows(&self.teacher),
            teacher_reference: rows(&self.teacher_reference),
            values: rows(&self.values),
            pooled: rows(&self.pooled),
            groups: Groups {
                pairs: groups.pairs.iter().rev().map(pair).collect(),
                labelled: groups.labelled.iter().rev().map(|l| LabelledRow { row: place(l.row), ..*l }).collect(),
                demonstrations: groups.demonstrations.iter().rev().map(|&row| place(row)).collect(),
                ranked: groups.ranked.iter().rev().map(ranked).collect(),
                judged: groups.judged.iter().rev().map(judged).collect(),
                numbers: groups
                    .numbers
                    .iter()
                    .map(|(name, values)| (name.clone(), values.iter().rev().copied().collect()))
                    .collect(),
            },
        }
    }

    /// The items, one a micro-batch; every micro-batch holds all rows.
    pub(crate) fn split(&self) -> Vec<Self> {
        let groups = &self.groups;
        let pairs = groups.pairs.iter().map(|&pair| Groups { pairs: vec![pair], ..Groups::default() });
        let labelled = groups.labelled.iter().map(|&row| Groups { labelled: vec![row], ..Groups::default() });
        let demonstrations =
            groups.demonstrations.iter().map(|&row| Groups { demonstrations: vec![row], ..Groups::default() });
        let ranked = groups.ranked.iter().map(|group| Groups { ranked: vec![group.clone()], ..Groups::default() });
        let judged = groups.judged.iter().map(|&item| Groups { judged: vec![item], ..Groups::default() });
        let items = pairs.chain(labelled).chain(demonstrations).chain(ranked).chain(judged);
        items
            .enumerate()
            .map(|(item, single)| {
                let numbers = groups.numbers.iter().map(|(name, values)| (name.clone(), vec![values[item]])).collect();
                Self { groups: Groups { numbers, ..single }, ..self.clone() }
            })
            .collect()
    }
}

/// What an objective prepares from a step.
pub(crate) fn prepare(recipe: &Recipe, micro: &[Scores]) -> Context {
    recipe.clone().prepare(&StepScores { micro, collective: &Solo }, Phase::Train).unwrap()
}

/// The numbers that some loss of the list reads.
const NUMBERS: [&str; 19] = [
    "margin",
    "preference",
    "score",
    "uncertainty",
    "desirable_prompt",
    "helpfulness",
    "strength",
    "similarity",
    "votes_1",
    "votes_2",
    "votes_3",
    "votes_4",
    "votes_5",
    "votes_6",
    "reward_gap",
    "cost_gap",
    "cost_gap_2",
    "cost_gap_3",
    "cost_gap_4",
];
/// The labels that some loss reads, and after how many items they change.
const LABELS: [(&str, usize); 2] = [("safe_chosen", 2), ("safe_rejected", 1)];
/// Whole numbers that some loss reads: the first, and how many there are.
const WHOLE: [(&str, f64, usize); 3] = [("source", 0.0, 2), ("annotator", 0.0, 3), ("safer", -1.0, 3)];

/// Four mismatched completions with a positive mean log-ratio.
fn mismatched(dtype: DType) -> MismatchedScores {
    let scores = |rows: [[f64; 2]; 4]| TokenScores::unmasked(tensor(&rows.map(Vec::from), dtype)).unwrap();
    MismatchedScores {
        policy: scores([[-1.0, -2.0], [-0.5, -1.0], [-3.0, -2.0], [-0.5, -1.0]]),
        reference: scores([[-1.5, -2.5], [-1.0, -1.0], [-2.5, -2.0], [-1.0, -1.5]]),
    }
}

fn tensor(rows: &[Vec<f64>], dtype: DType) -> Tensor {
    Tensor::new(rows.to_vec(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Numbers in [0, 1) by a multiplicative congruence: the same on every machine.
fn numbers() -> impl FnMut() -> f64 {
    let mut state: u64 = 20_231_218;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}
