//! What can go wrong between log-probabilities and a loss.

/// Errors of this crate.
///
/// Every message says where it happened, what was got, what was expected, and
/// what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has the wrong shape.
    #[error("{what}: got shape {got:?}, expected {expected}")]
    Shape {
        /// The argument.
        what: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape it must have.
        expected: String,
    },
    /// A tensor has the wrong element type.
    #[error("{what}: got dtype {got}, expected {expected}")]
    DType {
        /// The argument.
        what: &'static str,
        /// Its element type.
        got: String,
        /// The element types it may have.
        expected: String,
    },
    /// A mask holds something else than 0 and 1.
    #[error("mask, row {row}, slot {slot}: got {got}, expected 0 (not scored) or 1 (scored)")]
    Mask {
        /// Row of the entry.
        row: usize,
        /// Slot of the entry.
        slot: usize,
        /// The entry.
        got: f64,
    },
    /// A group names a row that the scores do not have.
    #[error("{group}: row {row} is named, but the scores hold {rows} rows (0..{rows})")]
    RowOutOfRange {
        /// The group, for example `pair 3`.
        group: String,
        /// The row it names.
        row: usize,
        /// How many rows there are.
        rows: usize,
    },
    /// Rows of several kinds stand in one micro-batch.
    #[error(
        "one micro-batch holds {found}, and a loss is divided by the rows of one kind: give each kind batches of its own"
    )]
    SeveralKinds {
        /// The kinds of rows that are there.
        found: String,
    },
    /// A loss needs a reference and none was given.
    #[error(
        "{loss} compares the policy with a reference, and the scores hold none: score the rows with a reference policy too"
    )]
    MissingReference {
        /// The loss.
        loss: String,
    },
    /// A loss cannot use the rows that were given.
    #[error("{loss} reads {wanted}, and the scores hold {found}: use data of that form or another loss")]
    WrongRows {
        /// The loss.
        loss: String,
        /// The kinds of rows that it reads.
        wanted: String,
        /// The kinds of rows that are there.
        found: String,
    },
    /// A loss needs a statistic of the output distribution and it was not computed.
    #[error("{loss} reads {wanted} of every token, and the scores do not hold it: ask the model for it")]
    MissingOutput {
        /// The loss.
        loss: String,
        /// The statistics.
        wanted: String,
    },
    /// An item lacks a number that the loss reads.
    #[error(
        "{loss} reads `{name}` ({meaning}) of every item: got {found} of them for {items} items; give the data a column of that name"
    )]
    MissingNumber {
        /// The loss.
        loss: String,
        /// The number.
        name: &'static str,
        /// What it says.
        meaning: &'static str,
        /// How many items there are.
        items: usize,
        /// How many numbers there are.
        found: usize,
    },
    /// A number of an item is out of its range.
    #[error("{name}, item {item}: got {got}, expected {expected}")]
    NumberOutOfRange {
        /// The number.
        name: &'static str,
        /// The item, counted from 0.
        item: usize,
        /// Its value.
        got: f64,
        /// Its range.
        expected: String,
    },
    /// A ranked group cannot be ranked.
    #[error(
        "ranked completions {index}: got {rows} completions and {ratings} ratings, expected at least 2 completions and a finite rating each"
    )]
    Ranking {
        /// The group, counted from 0.
        index: usize,
        /// Its completions.
        rows: usize,
        /// Its ratings.
        ratings: usize,
    },
    /// A loss needs a teacher and none was given.
    #[error(
        "{loss} reads a teacher's log-probabilities{}, and the scores hold none: use data that bring them",
        if *.with_reference { " and those of its reference" } else { "" }
    )]
    MissingTeacher {
        /// The loss.
        loss: String,
        /// Whether it needs those of the teacher's reference too.
        with_reference: bool,
    },
    /// A loss reads a head that the score model does not have.
    #[error(
        "head {head} is read, and the score model has {heads} heads, counted from 0; in a run, model.heads names as many as the objective reads"
    )]
    Head {
        /// The head.
        head: usize,
        /// How many there are.
        heads: usize,
    },
    /// A view of the scores gave nothing although all that it says it needs is there.
    #[error("{loss}: its view refused scores that hold all that its needs name; the needs of the view are incomplete")]
    View {
        /// The loss.
        loss: String,
    },
    /// A hyperparameter is out of its range.
    #[error("{loss}.{parameter}: got {got}, expected {expected}")]
    Parameter {
        /// The loss, by its configuration name.
        loss: String,
        /// The hyperparameter.
        parameter: &'static str,
        /// Its value.
        got: f64,
        /// Its range.
        expected: &'static str,
    },
    /// A step-wide number is missing from the context.
    #[error(
        "context: `{name}` is missing: call `prepare` with the scores of the whole step and pass on what it returns"
    )]
    MissingScalar {
        /// Name of the number.
        name: String,
    },
    /// The step-wide scores lack what a statistic is made of.
    #[error("{loss}: the step holds no {what}, so `{scalar}` cannot be computed")]
    EmptyStep {
        /// The loss.
        loss: String,
        /// What is missing.
        what: &'static str,
        /// The statistic.
        scalar: &'static str,
    },
    /// A mixture that cannot be evaluated.
    #[error("mix: {0}")]
    Mix(String),
    /// An objective that wraps another cannot wrap this one.
    #[error("{outer} cannot wrap {inner}: {reason}")]
    Wrapped {
        /// The objective that wraps.
        outer: &'static str,
        /// The objective that is wrapped.
        inner: &'static str,
        /// Why not, and what to do.
        reason: String,
    },
    /// A loss name that is in no list.
    #[error("unknown loss `{name}`{hint}; the losses are {names}", hint = hint(nearest.as_deref()))]
    UnknownLoss {
        /// The name as given.
        name: String,
        /// The most similar known name, if one is similar.
        nearest: Option<String>,
        /// All known names.
        names: String,
    },
    /// An option of another trainer that nothing here computes yet.
    #[error("{0} not built")]
    NotBuilt(String),
    /// A configuration that does not describe a loss.
    #[error("objective: {0}")]
    Config(String),
    /// Saved state that does not belong to the objective.
    #[error("objective state: {0}")]
    State(String),
    /// Prompts from which no density ratio can be estimated.
    #[error("density ratio: {0}")]
    DensityRatio(String),
    /// Costs, multipliers or scores that no multiplier can be found for.
    #[error("multiplier: {0}")]
    Dual(String),
    /// Costs of fresh completions were given to an objective that reads none.
    #[error(
        "{objective} reads no costs of fresh completions; give them to one with a multiplier that moves (`dual` of \
         safe_rlhf_lagrangian)"
    )]
    ReadsNoCosts {
        /// The objective.
        objective: &'static str,
    },
    /// A loss returned no terms.
    #[error("a loss returned no terms: return one with an empty numerator where a micro-batch holds nothing to score")]
    NoTerms,
    /// A collective operation failed.
    #[error("collective sum over ranks: {0}")]
    Collective(String),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}
