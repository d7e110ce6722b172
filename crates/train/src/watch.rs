//! What a run looks at while it goes on, and when it stops before its end.
use std::fmt;

use candlewick_losses::Needs;
use candlewick_losses::dual::{Constraint, scalar_name};
use serde::{Deserialize, Serialize};

use crate::costs::CostReport;
use crate::error::{Error, Result};
use crate::metrics::{LOG_RATIOS, LOG_RATIOS_CHOSEN, Metrics};
use crate::trainer::{EvalReport, StepReport};

/// `[watch]`: alarms, and reasons to stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct WatchWords {
    /// A step whose loss or gradient is not finite changes nothing and is counted; so many in a row stop the run.
    pub not_finite_in_a_row: u64,
    /// An alarm where the norm of the gradients is so many times its mean over the steps before; 0 for none.
    pub grad_norm_factor: f64,
    /// An alarm where chosen completions have become less likely than under the reference by so many nats a token.
    pub chosen_drop: Option<f64>,
    /// The run stops where the log-ratios of completions to the reference are larger than this on average, in nats.
    pub kl_budget: Option<f64>,
    /// What is measured of an evaluation to call it the best so far: `"loss"`, or a metric as `"rewards/accuracies"`.
    pub metric: String,
    /// Whether the least or the greatest is best; by default the least of what is called a loss, and the greatest of others.
    pub goal: Option<Goal>,
    /// The run stops after so many evaluations in a row that were not better than the best before.
    pub patience: Option<u64>,
    /// By how much an evaluation must be better to count.
    pub min_delta: f64,
}

impl Default for WatchWords {
    fn default() -> Self {
        Self {
            not_finite_in_a_row: 3,
            grad_norm_factor: 10.0,
            chosen_drop: None,
            kl_budget: None,
            metric: "loss".to_owned(),
            goal: None,
            patience: None,
            min_delta: 0.0,
        }
    }
}

/// Which values of a metric are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Small ones.
    Least,
    /// Large ones.
    Greatest,
}

/// What [`WatchWords`] come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WatchPlan {
    /// Steps in a row that are not finite, at which the run stops.
    pub not_finite_in_a_row: u64,
    /// An alarm at so many times the mean norm of the gradients; 0 for none.
    pub grad_norm_factor: f64,
    /// An alarm at this fall of chosen completions, in nats a token.
    pub chosen_drop: Option<f64>,
    /// The mean absolute log-ratio of completions at which the run stops, in nats.
    pub kl_budget: Option<f64>,
    /// What of an evaluation decides which is best.
    pub metric: String,
    /// Which values of it are good.
    pub goal: Goal,
    /// Evaluations in a row without a better one, at which the run stops.
    pub patience: Option<u64>,
    /// By how much an evaluation must be better.
    pub min_delta: f64,
}

impl Default for WatchPlan {
    fn default() -> Self {
        let words = WatchWords::default();
        let WatchWords { not_finite_in_a_row, grad_norm_factor, metric, min_delta, .. } = words;
        Self {
            not_finite_in_a_row,
            grad_norm_factor,
            chosen_drop: None,
            kl_budget: None,
            metric,
            goal: Goal::Least,
            patience: None,
            min_delta,
        }
    }
}

impl WatchPlan {
    /// Resolves the section for an objective. `evaluates` tells whether there are evaluations between steps, `keeps_best` whether
    /// somebody wants to know the best one, `moves` whether the reference follows the policy.
    pub(crate) fn resolve(
        words: WatchWords,
        needs: &Needs,
        evaluates: bool,
        keeps_best: bool,
        moves: bool,
    ) -> Result<Self> {
        let key = |name: &str| format!("watch.{name}");
        let refuse = |name: &str, reason: String| Err(Error::config(key(name), reason));
        let WatchWords { not_finite_in_a_row, grad_norm_factor, chosen_drop, kl_budget, metric, goal, .. } = words;
        if not_finite_in_a_row == 0 {
            return refuse("not_finite_in_a_row", "0; expected at least 1, which stops at the first such step".into());
        }
        if !(grad_norm_factor == 0.0 || (grad_norm_factor > 1.0 && grad_norm_factor.is_finite())) {
            return refuse(
                "grad_norm_factor",
                format!("{grad_norm_factor}; expected a number above 1, or 0 for no alarm"),
            );
        }
        for (name, bound) in [("chosen_drop", chosen_drop), ("kl_budget", kl_budget)] {
            let Some(bound) = bound else { continue };
            if !(bound > 0.0 && bound.is_finite()) {
                return refuse(name, format!("{bound}; expected a positive number of nats"));
            }
            if !needs.reference {
                return refuse(
                    name,
                    "given, and the objective of [objective] compares with no reference; leave it out".into(),
                );
            }
        }
        if words.patience == Some(0) {
            return refuse("patience", "0; expected at least 1 evaluation".into());
        }
        if words.patience.is_some() && !evaluates {
            return refuse(
                "patience",
                "given, and nothing is evaluated between steps; give [evaluation] with evaluation.every".into(),
            );
        }
        if !(words.min_delta >= 0.0 && words.min_delta.is_finite()) {
            return refuse("min_delta", format!("{}; expected a number that is not negative", words.min_delta));
        }
        let said = [("metric", metric != "loss"), ("goal", goal.is_some()), ("min_delta", words.min_delta != 0.0)];
        if let (Some((name, _)), None, false) = (said.iter().find(|(_, said)| *said), words.patience, keeps_best) {
            let reason =
                "given, and nothing asks which evaluation is the best; give watch.patience or output.keep_best too";
            return refuse(name, reason.into());
        }
        if moves && (words.patience.is_some() || keeps_best) && is_relative(&metric) {
            let reason = format!(
                "{metric:?} compares with the reference, which moves: evaluations of different steps do not compare, and just after a copy \
                 there is nothing to measure; choose one of the policy alone, as \"logps/chosen\", \"mean_token_accuracy\" or \"entropy\", \
                 or leave watch.patience, output.keep_best and output.result out"
            );
            return refuse("metric", reason);
        }
        let goal = goal.unwrap_or(if metric.ends_with("loss") { Goal::Least } else { Goal::Greatest });
        let (patience, min_delta) = (words.patience, words.min_delta);
        Ok(Self { not_finite_in_a_row, grad_norm_factor, chosen_drop, kl_budget, metric, goal, patience, min_delta })
    }

    /// Whether nothing but the defaults was said; plans from before there was the section have these.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What an evaluation has of the metric.
    ///
    /// # Errors
    /// It has no such metric; those that it has are named.
    pub(crate) fn measured(&self, report: &EvalReport) -> Result<f64> {
        let mut values = report.metrics.values();
        values.insert("loss".to_owned(), report.loss);
        values.get(&self.metric).copied().ok_or_else(|| {
            let known: Vec<&str> = values.keys().map(String::as_str).collect();
            let reason = format!("{:?} is not measured here; expected one of {}", self.metric, known.join(", "));
            Error::config("watch.metric", reason)
        })
    }

    /// Whether `value` is better than `best` by more than `min_delta`.
    fn is_better(&self, value: f64, best: f64) -> bool {
        match self.goal {
            Goal::Least => value < best - self.min_delta,
            Goal::Greatest => value > best + self.min_delta,
        }
    }
}

/// Whether a metric of an objective with a reference depends on it.
fn is_relative(metric: &str) -> bool {
    !["logps/", "entropy", "mean_token_accuracy"].iter().any(|own| metric.starts_with(own))
}

/// What has been seen so far. It is part of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Watched {
    /// Steps that changed nothing, since their loss or gradient was not finite.
    pub not_finite: u64,
    /// How many of them came last, one after another.
    pub not_finite_in_a_row: u64,
    /// The mean norm of the gradients, which later steps move by a fiftieth.
    pub grad_norm: f64,
    /// Norms in it.
    pub grad_norms: u64,
    /// The best evaluation.
    pub best: Option<Best>,
    /// Evaluations since, or from the first one where there is no best.
    pub since_best: u64,
    /// Whether the last step had no gradient at all.
    pub flat: bool,
    /// Whether chosen completions were below `watch.chosen_drop` at the last step, and at the last evaluation.
    pub below: [bool; 2],
    /// Whether completions of either class were seen, where the objective tells two apart: safe or desirable ones, and the others.
    #[serde(default, skip_serializing_if = "is_none_seen")]
    pub classes: [bool; 2],
    /// Of each constraint whose multiplier moves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constrained>,
    /// Why the run stopped before its end.
    pub stopped: Option<Stop>,
}

/// What was seen of a constraint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constrained {
    /// The least expected cost so far; none before the first.
    pub least: Option<f64>,
    /// Rounds of costs in a row that found the multiplier at its cap and the limit violated.
    pub capped: u64,
}

fn is_none_seen(classes: &[bool; 2]) -> bool {
    *classes == [false; 2]
}

/// Metrics that are measured of one class alone, by objectives that need both; the first that are there count.
const CLASSES: [[&str; 2]; 2] = [["costs/safe", "costs/unsafe"], ["rewards/chosen", "rewards/rejected"]];
/// Steps after which one class alone is an alarm.
const FIRST_CLASSES: u64 = 32;
/// Rounds of costs after which a multiplier at its cap is an alarm: long enough for a policy to have answered it.
const LONG_CAPPED: u64 = 10;

/// The best evaluation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// After so many steps.
    pub step: u64,
    /// What was measured.
    pub value: f64,
}

/// Why a run stopped before its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stop {
    /// The policy went further from its reference than `watch.kl_budget`.
    KlBudget {
        /// The mean absolute log-ratio, in nats.
        log_ratio: f64,
        /// The budget.
        budget: f64,
    },
    /// No evaluation was better for as many as `watch.patience` says.
    Patience {
        /// The best one; none where no evaluation measured a finite number.
        best: Option<Best>,
        /// Evaluations since.
        evaluations: u64,
    },
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KlBudget { log_ratio, budget } => write!(
                f,
                "completions are {log_ratio:.4} nats from the reference on average, and watch.kl_budget is {budget}"
            ),
            Self::Patience { best: Some(Best { step, value }), evaluations } => write!(
                f,
                "none of the last {evaluations} evaluations was better than that of step {step} ({value:.6}), and watch.patience \
                 allows no more"
            ),
            Self::Patience { best: None, evaluations } => write!(
                f,
                "none of {evaluations} evaluations measured a finite number, and watch.patience allows no more"
            ),
        }
    }
}

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Alarm {
    /// The norm of the gradients is many times what it was.
    GradNorm {
        /// The norm.
        norm: f64,
        /// The mean over the steps before.
        usual: f64,
    },
    /// No score pulls on the loss any more: the rows of the step teach nothing.
    NoGradient,
    /// The reference follows the policy, but not before the run ends.
    NeverMoves {
        /// The first step with which it would move.
        first: u64,
        /// Steps of the run.
        steps: u64,
    },
    /// All completions so far were of one class, and the objective learns to tell two apart.
    OneClass {
        /// Whether they were safe, or desirable.
        good: bool,
        /// Steps so far.
        steps: u64,
    },
    /// Chosen completions have become less likely than the reference finds them.
    ChosenDrop {
        /// By so many nats a token.
        drop: f64,
        /// The bound.
        bound: f64,
    },
    /// A multiplier moves faster than it and the policy can settle.
    FastMultiplier {
        /// The constraint, counted from 0.
        constraint: usize,
        /// Its rate.
        rate: f64,
        /// The rate below which they settle.
        largest: f64,
    },
    /// No choice among the first answers has a mean cost within the limit.
    OutOfReach {
        /// The constraint, counted from 0.
        constraint: usize,
        /// The limit.
        limit: f64,
        /// The least mean cost of one of the answers to each prompt.
        least: f64,
    },
    /// Fewer than half of the answers of a round could be scored.
    FewAnswers {
        /// Answers that were scored.
        answers: usize,
        /// Answers that were drawn.
        drawn: usize,
        /// Those that were empty.
        empty: usize,
        /// Why one of the others could not be scored.
        reason: Option<String>,
    },
    /// A multiplier is as large as it may be, and the limit is still violated.
    AtCap {
        /// The constraint, counted from 0.
        constraint: usize,
        /// The cap.
        cap: f64,
        /// For so many rounds of costs.
        rounds: u64,
        /// The expected cost now.
        cost: f64,
        /// The limit.
        limit: f64,
        /// The least expected cost so far.
        least: f64,
    },
}

impl Alarm {
    /// The key that sets it off.
    pub fn key(&self) -> &'static str {
        match self {
            Self::GradNorm { .. } | Self::NoGradient => "grad_norm_factor",
            Self::NeverMoves { .. } => "update",
            Self::OneClass { .. } => "classes",
            Self::ChosenDrop { .. } => "chosen_drop",
            Self::FastMultiplier { .. } => "dual.rate",
            Self::OutOfReach { .. } => "dual.limit",
            Self::FewAnswers { .. } => "safety.answers",
            Self::AtCap { .. } => "dual.cap",
        }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GradNorm { norm, usual } => {
                write!(f, "the norm of the gradients is {norm:.4}, {:.0} times its mean so far", norm / usual)
            }
            Self::NoGradient => f.write_str("the gradient is 0: the rows of this step teach the policy nothing"),
            Self::NeverMoves { first, steps } => write!(
                f,
                "the reference would move with step {first} for the first time, and the run has {steps}: it stands still; lower `every` of \
                 objective.update"
            ),
            Self::OneClass { good, steps } => {
                let seen = if *good { "safe, or desirable" } else { "unsafe, or undesirable" };
                write!(
                    f,
                    "every completion of the first {steps} steps was labelled {seen}: there are two classes to tell apart, and the other is not there; look at the labels of the data (wick data stats)"
                )
            }
            Self::ChosenDrop { drop, bound } => write!(
                f,
                "chosen completions are {drop:.4} nats a token less likely than under the reference (watch.chosen_drop is {bound})"
            ),
            Self::FastMultiplier { constraint, rate, largest } => write!(
                f,
                "the rate of objective.dual[{constraint}] is {rate}, and multiplier and policy settle below {largest:.3e}: both would swing ever \
                 wider; take a tenth of that"
            ),
            Self::OutOfReach { constraint, limit, least } => write!(
                f,
                "the limit of objective.dual[{constraint}] is {limit}, and the best of the first answers to each prompt have a mean cost of \
                 {least:.4}: the policy may not reach it, and its multiplier would only grow; raise the limit, or draw more answers \
                 (safety.completions) to see further"
            ),
            Self::FewAnswers { answers, drawn, empty, reason } => {
                write!(
                    f,
                    "of {drawn} answers of the policy {answers} could be scored, {empty} were empty: multipliers follow few answers, or none; \
                     lower optimizer.learning_rate, or raise objective.beta, where a policy has lost its words"
                )?;
                reason.as_ref().map_or(Ok(()), |reason| write!(f, "; one of the others: {reason}"))
            }
            Self::AtCap { constraint, cap, rounds, cost, limit, least } => write!(
                f,
                "the multiplier of objective.dual[{constraint}] has been at its cap of {cap} for {rounds} rounds of answers, whose cost of \
                 {cost:.4} is above the limit of {limit}; the least so far is {least:.4}: raise the cap or the limit, or give pairs of answers \
                 that the policy writes now"
            ),
        }
    }
}

impl Watched {
    /// Goes on under another plan than the one that it was seen under: what was too far, or too long without a better one, may go on, and
    /// what was best by another measure is none.
    pub(crate) fn go_on_under(&mut self, plan: &WatchPlan, before: &WatchPlan) {
        if plan == before {
            return;
        }
        self.stopped = None;
        if (&plan.metric, plan.goal) != (&before.metric, before.goal) {
            (self.best, self.since_best) = (None, 0);
        }
    }

    /// Takes note of a step.
    pub(crate) fn step(&mut self, plan: &WatchPlan, report: &StepReport) -> Noticed {
        self.not_finite_in_a_row = 0;
        let mut noticed = self.look(plan, &report.metrics, false);
        let usual = self.grad_norm;
        if self.grad_norms >= FIRST_NORMS
            && plan.grad_norm_factor > 0.0
            && report.grad_norm > plan.grad_norm_factor * usual
        {
            noticed.alarms.push(Alarm::GradNorm { norm: report.grad_norm, usual });
        }
        // Exactly 0 is what a policy has whose scores depend on nothing any more.
        let was_flat = std::mem::replace(&mut self.flat, report.grad_norm <= 0.0);
        if plan.grad_norm_factor > 0.0 && self.flat && !was_flat {
            noticed.alarms.push(Alarm::NoGradient);
        }
        if let Some(names) = CLASSES.iter().find(|names| names.iter().any(|name| report.metrics.value(name).is_some()))
        {
            let seen = names.map(|name| report.metrics.value(name).is_some());
            self.classes = [self.classes[0] | seen[0], self.classes[1] | seen[1]];
        }
        self.grad_norms += 1;
        if self.grad_norms == FIRST_CLASSES && self.classes[0] != self.classes[1] {
            noticed.alarms.push(Alarm::OneClass { good: self.classes[0], steps: self.grad_norms });
        }
        self.grad_norm += (report.grad_norm - usual) / self.grad_norms.min(LAST_NORMS) as f64;
        noticed
    }

    /// Takes note of what a step says of constraints whose multipliers have just followed new costs.
    pub(crate) fn constrained(&mut self, constraints: &[Constraint], metrics: &Metrics) -> Vec<Alarm> {
        self.constraints.resize(constraints.len(), Constrained::default());
        let mut alarms = Vec::new();
        for (k, (constraint, seen)) in constraints.iter().zip(&mut self.constraints).enumerate() {
            let value = |name: &str| metrics.value(&scalar_name(name, k));
            let (Some(multiplier), Some(cost)) = (value("lambda"), value("expected_cost")) else { continue };
            let least = seen.least.map_or(cost, |least| least.min(cost));
            let (limit, cap) = (constraint.settings.limit, constraint.settings.bounds().1);
            let is_capped = multiplier >= cap * (1.0 - 1e-9) && cost > limit;
            *seen = Constrained { least: Some(least), capped: if is_capped { seen.capped + 1 } else { 0 } };
            if seen.capped == LONG_CAPPED {
                alarms.push(Alarm::AtCap { constraint: k, cap, rounds: LONG_CAPPED, cost, limit, least });
            }
        }
        alarms
    }

    /// Takes note of a step that was not finite; whether it was one too many in a row.
    pub(crate) fn not_finite(&mut self, plan: &WatchPlan) -> bool {
        self.not_finite += 1;
        self.not_finite_in_a_row += 1;
        self.not_finite_in_a_row >= plan.not_finite_in_a_row
    }

    /// Takes note of an evaluation.
    pub(crate) fn evaluation(&mut self, plan: &WatchPlan, report: &EvalReport) -> Result<Noticed> {
        let value = plan.measured(report)?;
        let mut noticed = self.look(plan, &report.metrics, true);
        if value.is_finite() && self.best.is_none_or(|best| plan.is_better(value, best.value)) {
            (self.best, self.since_best) = (Some(Best { step: report.step, value }), 0);
            return Ok(noticed);
        }
        self.since_best += 1;
        if plan.patience.is_some_and(|patience| self.since_best >= patience) {
            let stop = Stop::Patience { best: self.best, evaluations: self.since_best };
            noticed.stop = noticed.stop.or(self.stop(stop));
        }
        Ok(noticed)
    }

    /// Stops the run, unless it stops already.
    fn stop(&mut self, stop: Stop) -> Option<Stop> {
        match self.stopped {
            Some(_) => None,
            None => self.stopped.insert(stop).clone().into(),
        }
    }

    /// What steps and evaluations are both looked at for.
    fn look(&mut self, plan: &WatchPlan, metrics: &Metrics, evaluated: bool) -> Noticed {
        let measured = |name| metrics.mean(name).and_then(|mean| mean.value());
        let mut noticed = Noticed::default();
        if let (Some(budget), Some(log_ratio)) = (plan.kl_budget, measured(LOG_RATIOS))
            && log_ratio > budget
        {
            noticed.stop = self.stop(Stop::KlBudget { log_ratio: log_ratio.min(f64::MAX), budget });
        }
        if let (Some(bound), Some(ratio)) = (plan.chosen_drop, measured(LOG_RATIOS_CHOSEN)) {
            let was_below = std::mem::replace(&mut self.below[usize::from(evaluated)], -ratio > bound);
            if -ratio > bound && !was_below {
                noticed.alarms.push(Alarm::ChosenDrop { drop: -ratio, bound });
            }
        }
        noticed
    }
}

/// What a round of answers says against going on, and the first one against the settings of multipliers.
pub(crate) fn of_costs(report: &CostReport) -> Vec<Alarm> {
    let CostReport { answers, empty, left_out, .. } = *report;
    let drawn = answers + empty + left_out;
    let mut alarms = Vec::new();
    if 2 * answers < drawn {
        alarms.push(Alarm::FewAnswers { answers, drawn, empty, reason: report.reason.clone() });
    }
    if report.step > 0 {
        return alarms;
    }
    for (constraint, found) in report.costs.iter().enumerate() {
        if found.rate > found.largest_rate {
            alarms.push(Alarm::FastMultiplier { constraint, rate: found.rate, largest: found.largest_rate });
        }
        // One answer alone shows nothing of what could be chosen.
        if found.limit < found.least && answers > report.prompts {
            alarms.push(Alarm::OutOfReach { constraint, limit: found.limit, least: found.least });
        }
    }
    alarms
}

/// What is to be said of a step or an evaluation.
#[derive(Debug, Default)]
pub(crate) struct Noticed {
    pub(crate) alarms: Vec<Alarm>,
    /// Why the run stops here.
    pub(crate) stop: Option<Stop>,
}

/// Norms that are needed to know what is usual: where a rate is too high, the second is the one to tell.
const FIRST_NORMS: u64 = 1;
/// Norms that the mean goes back over.
const LAST_NORMS: u64 = 50;

#[cfg(test)]
mod tests {
    use candlewick_losses::dual::{Ascent, DualSettings};

    use super::*;

    fn evaluation(step: u64, loss: f64) -> EvalReport {
        EvalReport { step, loss, metrics: Metrics::default(), tokens: 1, rows: 1 }
    }

    fn step(grad_norm: f64) -> StepReport {
        StepReport {
            step: 1,
            loss: 0.5,
            micro_losses: vec![0.5],
            grad_norm,
            learning_rate: 0.1,
            metrics: Metrics::default(),
            tokens: 1,
            computed_tokens: 1,
            rows: 1,
        }
    }

    #[test]
    fn a_run_stops_when_patience_ends_and_knows_its_best() {
        let plan = WatchPlan { patience: Some(2), min_delta: 0.1, ..WatchPlan::default() };
        let mut seen = Watched::default();
        let mut best = |at, loss| {
            seen.evaluation(&plan, &evaluation(at, loss)).unwrap();
            seen.best.is_some_and(|best| best.step == at)
        };
        assert!(best(1, 1.0) && best(2, 0.8));
        assert!(!best(3, 0.75), "not by enough");
        assert!(best(4, 0.5) && !best(5, f64::NAN));
        assert_eq!((seen.best, seen.stopped.clone()), (Some(Best { step: 4, value: 0.5 }), None));
        let stop = seen.evaluation(&plan, &evaluation(6, 0.6)).unwrap().stop;
        assert_eq!(stop, seen.stopped);
        assert!(seen.evaluation(&plan, &evaluation(7, 0.6)).unwrap().stop.is_none(), "it is said once");
        assert_eq!(seen.stopped, Some(Stop::Patience { best: Some(Best { step: 4, value: 0.5 }), evaluations: 2 }));
        let text = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Watched>(&text).unwrap(), seen);
    }

    #[test]
    fn a_metric_that_is_not_measured_names_those_that_are() {
        let plan = WatchPlan { metric: "rewards/accuracy".to_owned(), ..WatchPlan::default() };
        let error = Watched::default().evaluation(&plan, &evaluation(1, 1.0)).unwrap_err().to_string();
        assert!(error.starts_with("watch.metric: \"rewards/accuracy\"") && error.ends_with("one of loss"), "{error}");
    }

    #[test]
    fn a_gradient_many_times_the_usual_is_an_alarm() {
        let plan = WatchPlan::default();
        let mut seen = Watched::default();
        // The first one tells what is usual, whatever it is.
        for norm in [50.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0] {
            assert!(seen.step(&plan, &step(norm)).alarms.is_empty());
        }
        assert!((seen.grad_norm - 5.9).abs() < 1e-12, "{}", seen.grad_norm);
        assert!(seen.step(&plan, &step(59.0)).alarms.is_empty());
        let alarms = seen.step(&plan, &step(200.0)).alarms;
        assert!(matches!(alarms[..], [Alarm::GradNorm { norm: 200.0, .. }]), "{alarms:?}");
        assert!(matches!(seen.step(&plan, &step(0.0)).alarms[..], [Alarm::NoGradient]));
        assert!(seen.step(&plan, &step(0.0)).alarms.is_empty(), "it is said once");
        let never = WatchPlan { grad_norm_factor: 0.0, ..WatchPlan::default() };
        assert!(seen.step(&never, &step(1e9)).alarms.is_empty());
    }

    #[test]
    fn labels_of_one_class_are_an_alarm_once() {
        let plan = WatchPlan::default();
        let alarms = |names: &[&str]| {
            let mut seen = Watched::default();
            let mut report = step(1.0);
            names.iter().for_each(|name| report.metrics.add(name, 0.5, 1.0));
            (0..2 * FIRST_CLASSES).flat_map(|_| seen.step(&plan, &report).alarms).collect::<Vec<_>>()
        };
        assert_eq!(alarms(&["costs/safe"]), [Alarm::OneClass { good: true, steps: FIRST_CLASSES }]);
        assert_eq!(alarms(&["rewards/rejected"]), [Alarm::OneClass { good: false, steps: FIRST_CLASSES }]);
        // Of pairs both sides have rewards, and the costs tell.
        assert_eq!(alarms(&["costs/unsafe", "rewards/chosen", "rewards/rejected"]).len(), 1);
        assert!(alarms(&["costs/safe", "costs/unsafe"]).is_empty() && alarms(&[]).is_empty());
    }

    #[test]
    fn a_multiplier_that_stays_at_its_cap_is_an_alarm_once() {
        let settings = DualSettings { limit: 0.1, ascent: Ascent::beaver(), ..DualSettings::default() };
        let constraints = [Constraint { settings, start: 1.0, beta: 0.1 }];
        let mut seen = Watched::default();
        let mut alarms = |lambda: f64, cost: f64| {
            let mut metrics = Metrics::default();
            metrics.add("lambda", lambda, 1.0);
            metrics.add("expected_cost", cost, 1.0);
            seen.constrained(&constraints, &metrics)
        };
        assert!(alarms(4.9, 0.2).is_empty());
        // Below the limit it may be as large as it likes.
        assert!((0..2 * LONG_CAPPED).all(|_| alarms(5.0, 0.05).is_empty()));
        let said: Vec<Alarm> = (0..3 * LONG_CAPPED).flat_map(|_| alarms(5.0, 0.3)).collect();
        let expected =
            Alarm::AtCap { constraint: 0, cap: 5.0, rounds: LONG_CAPPED, cost: 0.3, limit: 0.1, least: 0.05 };
        assert_eq!(said, [expected]);
        assert!(
            said[0].to_string().contains("at its cap of 5 for 10 rounds") && said[0].to_string().contains("0.0500")
        );
        // It is said again where it came down in between.
        assert!(alarms(4.0, 0.3).is_empty());
        assert_eq!((0..LONG_CAPPED).flat_map(|_| alarms(5.0, 0.3)).count(), 1);
        let text = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Watched>(&text).unwrap(), seen);
    }

    #[test]
    fn steps_that_are_not_finite_are_counted_until_one_is() {
        let plan = WatchPlan { not_finite_in_a_row: 2, ..WatchPlan::default() };
        let mut seen = Watched::default();
        assert!(!seen.not_finite(&plan));
        seen.step(&plan, &step(1.0));
        assert!(!seen.not_finite(&plan));
        assert!(seen.not_finite(&plan));
        assert_eq!((seen.not_finite, seen.not_finite_in_a_row), (3, 2));
    }
}
