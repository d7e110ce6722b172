//! Policies by several objectives at once: which of them nothing beats, and how much they reach together.
//!
//! [`front`], [`dominates`] and [`hypervolume`] are of plain numbers of which more is better. [`ParetoReport`] is of what answers to
//! the same prompts scored, with the uncertainty of that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::stats;

/// Standard errors within which a difference may be chance.
const ERRORS: f64 = 2.0;
/// The reference point, where none is given, is so much of the range of an objective beyond its worst mean.
const BEYOND: f64 = 0.1;

/// Objectives of a report at most: the steps of [`hypervolume`] grow by a factor with each further one.
pub const MOST_OBJECTIVES: usize = 8;

/// Whether `a` is no worse than `b` in any objective and better in one; more is better. `[objectives]` each.
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a >= b) && a.iter().zip(b).any(|(a, b)| a > b)
}

/// Numbers of the points that no other one dominates, in order; more is better. Of equal points all are there, or none.
/// `points` is `[points][objectives]`.
///
/// ```
/// use candlewick_evaluate::pareto::front;
/// let points = [vec![1.0, 3.0], vec![2.0, 2.0], vec![1.0, 2.0], vec![3.0, 1.0]];
/// assert_eq!(front(&points), [0, 1, 3]);
/// ```
pub fn front(points: &[Vec<f64>]) -> Vec<usize> {
    let is_best = |number: &usize| !points.iter().any(|other| dominates(other, &points[*number]));
    (0..points.len()).filter(is_best).collect()
}

/// The volume of what is dominated by one of the points and dominates `reference` (Zitzler and Thiele 1999); more is better.
/// Points that are not better than `reference` in every objective add nothing. `points` is `[points][objectives]`.
///
/// Exact in any number of objectives, by slicing: with `P` points and `M` objectives it takes at most about `P^(M − 1)` steps, which
/// is little for the fronts of a few policies.
///
/// ```
/// use candlewick_evaluate::pareto::hypervolume;
/// // Three columns of width 1, of heights 3, 2 and 1.
/// let points = [vec![1.0, 3.0], vec![2.0, 2.0], vec![3.0, 1.0]];
/// assert_eq!(hypervolume(&points, &[0.0, 0.0]), 6.0);
/// ```
pub fn hypervolume(points: &[Vec<f64>], reference: &[f64]) -> f64 {
    let above = |point: &Vec<f64>| -> Option<Vec<f64>> {
        let sides: Vec<f64> = point.iter().zip(reference).map(|(value, worst)| value - worst).collect();
        sides.iter().all(|side| *side > 0.0).then_some(sides)
    };
    volume(points.iter().filter_map(above).collect())
}

/// The volume of the union of boxes from the origin to each corner.
fn volume(mut corners: Vec<Vec<f64>>) -> f64 {
    let last = corners.first().map_or(0, Vec::len).saturating_sub(1);
    if last == 0 {
        return corners.iter().flatten().fold(0.0, |most, side| most.max(*side));
    }
    // Between two heights in the last objective the cross-section is the union of the boxes that reach higher.
    corners.sort_by(|a, b| b[last].total_cmp(&a[last]));
    let heights: Vec<f64> = corners.iter().map(|corner| corner[last]).chain([0.0]).collect();
    let bases: Vec<Vec<f64>> = corners.into_iter().map(|corner| corner[..last].to_vec()).collect();
    let (mut sum, mut widest) = (0.0, 0.0f64);
    for count in 1..=bases.len() {
        let thickness = heights[count - 1] - heights[count];
        if last == 1 {
            widest = widest.max(bases[count - 1][0]);
            sum += thickness * widest;
        } else if thickness > 0.0 {
            let best = front(&bases[..count]).into_iter().map(|number| bases[number].clone());
            sum += thickness * volume(best.collect());
        }
    }
    sum
}

/// Which way an objective is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More is better, as of a reward.
    Maximise,
    /// Less is better, as of a cost.
    Minimise,
}

impl Direction {
    /// The value with the sign that makes more better.
    fn upwards(self, value: f64) -> f64 {
        match self {
            Self::Maximise => value,
            Self::Minimise => -value,
        }
    }
}

/// An objective: a column of what was measured, and which way it is better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aim {
    /// The column.
    pub name: String,
    /// Which way it is better.
    pub direction: Direction,
    /// What says so, in words.
    pub because: String,
}

/// What the answers of one policy came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// What the policy is called.
    pub name: String,
    /// Where it lies.
    pub place: String,
    /// By column, the mean over the answers to each prompt: `[prompts]`, the same prompts of every policy.
    pub columns: BTreeMap<String, Vec<f64>>,
}

/// Policies by several objectives: the format of `pareto.json`, version 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParetoReport {
    /// `candlewick-pareto`.
    pub format: String,
    /// 1.
    pub version: u32,
    /// Prompts that every policy answered; means and errors are over them.
    pub prompts: usize,
    /// The objectives.
    pub objectives: Vec<Aim>,
    /// What hypervolumes are measured from, one value an objective.
    pub reference_point: Vec<f64>,
    /// The volume of what the policies dominate together, from the reference point on, in the product of the objectives' units.
    pub hypervolume: f64,
    /// The policies, in their order.
    pub points: Vec<Point>,
}

/// A policy of a [`ParetoReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What it is called.
    pub name: String,
    /// Where it lies.
    pub place: String,
    /// By column; the objectives are among them.
    pub measures: BTreeMap<String, Measure>,
    /// Whether no other policy dominates it, by the means.
    pub on_front: bool,
    /// Whether two standard errors of paired differences leave that open: of one on the front, that another one might be no worse
    /// in any objective; of another one, that no policy is better beyond them in all that differ.
    pub within_error: bool,
    /// The policies that dominate it, by the means.
    pub dominated_by: Vec<String>,
    /// How much smaller the hypervolume would be without it.
    pub contribution: f64,
}

/// A mean over prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The mean of the prompts' means.
    pub mean: f64,
    /// Its standard error over prompts.
    pub standard_error: f64,
}

impl Measure {
    /// Of values, two or more.
    fn of(values: &[f64]) -> Option<Self> {
        let standard_error = stats::standard_deviation(values)? / (values.len() as f64).sqrt();
        Some(Self { mean: stats::mean(values)?, standard_error })
    }
}

impl ParetoReport {
    /// Compares policies by their answers to the same prompts. Of `reference_point`, values by the names of objectives, what is not
    /// given is a tenth of the objective's range beyond its worst mean; of a range of zero, 1 beyond it.
    ///
    /// # Errors
    /// Fewer than two objectives or more than [`MOST_OBJECTIVES`], fewer than two prompts or one policy; columns that are missing, of unequal length or hold a value that is not
    /// finite; two policies of one name; a reference point of something that is no objective.
    pub fn of(aims: Vec<Aim>, policies: &[Measured], reference_point: &BTreeMap<String, f64>) -> Result<Self> {
        let prompts = policies.first().and_then(|policy| policy.columns.values().next()).map_or(0, Vec::len);
        check(&aims, policies, prompts)?;
        let measures: Vec<BTreeMap<String, Measure>> = policies
            .iter()
            .map(|policy| {
                let measure = |(name, values): (&String, &Vec<f64>)| Some((name.clone(), Measure::of(values)?));
                policy.columns.iter().filter_map(measure).collect()
            })
            .collect();
        let upwards = |policy: usize| -> Vec<f64> {
            aims.iter().map(|aim| aim.direction.upwards(measures[policy][&aim.name].mean)).collect()
        };
        let points: Vec<Vec<f64>> = (0..policies.len()).map(upwards).collect();
        let worst = worst(&aims, &points, reference_point)?;
        let best = front(&points);
        let whole = hypervolume(&points, &worst);
        let of_point = |number: usize| {
            let dominating: Vec<usize> =
                (0..points.len()).filter(|other| dominates(&points[*other], &points[number])).collect();
            let others: Vec<Vec<f64>> =
                points.iter().enumerate().filter(|(i, _)| *i != number).map(|(_, p)| p.clone()).collect();
            let on_front = best.contains(&number);
            let within_error = match on_front {
                true => {
                    let might_be_beaten =
                        |other: usize| !leads(&aims, &policies[number], &policies[other]).contains(&Lead::Better);
                    (0..points.len()).any(|other| other != number && might_be_beaten(other))
                }
                false => !dominating.iter().any(|other| {
                    leads(&aims, &policies[*other], &policies[number]).iter().all(|lead| *lead != Lead::Open)
                }),
            };
            Point {
                name: policies[number].name.clone(),
                place: policies[number].place.clone(),
                measures: measures[number].clone(),
                on_front,
                within_error,
                dominated_by: dominating.iter().map(|other| policies[*other].name.clone()).collect(),
                // Of one that is dominated it is nothing, without the rounding of two sums.
                contribution: if on_front { (whole - hypervolume(&others, &worst)).max(0.0) } else { 0.0 },
            }
        };
        Ok(Self {
            format: "candlewick-pareto".to_owned(),
            version: 1,
            prompts,
            reference_point: aims.iter().zip(&worst).map(|(aim, value)| aim.direction.upwards(*value)).collect(),
            hypervolume: whole,
            points: (0..points.len()).map(of_point).collect(),
            objectives: aims,
        })
    }
}

/// What the answers tell of two policies in one objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// The first one is better, by more than so many standard errors.
    Better,
    /// Both said the same to every prompt.
    Equal,
    /// The errors leave it open, or it is worse.
    Open,
}

/// The lead of one policy over another in every objective, by differences prompt by prompt.
fn leads(aims: &[Aim], one: &Measured, other: &Measured) -> Vec<Lead> {
    let lead = |aim: &Aim| {
        let pairs = one.columns[&aim.name].iter().zip(&other.columns[&aim.name]);
        let differences: Vec<f64> = pairs.map(|(one, other)| aim.direction.upwards(one - other)).collect();
        match Measure::of(&differences) {
            Some(Measure { mean, standard_error }) if mean > ERRORS * standard_error => Lead::Better,
            _ if differences.iter().all(|difference| *difference == 0.0) => Lead::Equal,
            _ => Lead::Open,
        }
    };
    aims.iter().map(lead).collect()
}

/// The reference point, with the sign that makes more better.
fn worst(aims: &[Aim], points: &[Vec<f64>], given: &BTreeMap<String, f64>) -> Result<Vec<f64>> {
    if let Some(name) = given.keys().find(|name| aims.iter().all(|aim| aim.name != **name)) {
        let names: Vec<&str> = aims.iter().map(|aim| aim.name.as_str()).collect();
        let reason = format!("no objective has that name; expected one of {}", names.join(", "));
        return Err(Error::config(format!("reference_point.{name}"), reason));
    }
    if let Some((name, value)) = given.iter().find(|(_, value)| !value.is_finite()) {
        return Err(Error::config(format!("reference_point.{name}"), format!("{value}; expected a finite number")));
    }
    let value = |(number, aim): (usize, &Aim)| match given.get(&aim.name) {
        Some(value) => aim.direction.upwards(*value),
        None => {
            let values = || points.iter().map(|point| point[number]);
            let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
            low - if high > low { BEYOND * (high - low) } else { 1.0 }
        }
    };
    Ok(aims.iter().enumerate().map(value).collect())
}

fn check(aims: &[Aim], policies: &[Measured], prompts: usize) -> Result<()> {
    if aims.len() < 2 {
        let names: Vec<&str> = aims.iter().map(|aim| aim.name.as_str()).collect();
        let reason = format!(
            "{} given ({}); a front is of two objectives or more",
            aims.len(),
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        );
        return Err(Error::config("objectives", reason));
    }
    if aims.len() > MOST_OBJECTIVES {
        let reason = format!("{} given; the exact hypervolume is of {MOST_OBJECTIVES} at most", aims.len());
        return Err(Error::config("objectives", reason));
    }
    if let Some((number, aim)) =
        aims.iter().enumerate().find(|(number, aim)| aims[..*number].iter().any(|other| other.name == aim.name))
    {
        return Err(Error::config(format!("objectives[{number}]"), format!("{:?} is there already", aim.name)));
    }
    if policies.is_empty() {
        return Err(Error::config("policies", "none; expected one or more"));
    }
    for (number, policy) in policies.iter().enumerate() {
        let refuse = |reason: String| Err(Error::Rows { place: policy.name.clone(), reason });
        if policies[..number].iter().any(|other| other.name == policy.name) {
            return refuse("another policy has this name; give each its own".to_owned());
        }
        for aim in aims {
            if !policy.columns.contains_key(&aim.name) {
                return refuse(format!("nothing was measured under the name {:?}", aim.name));
            }
        }
        for (name, values) in &policy.columns {
            if values.len() != prompts {
                return refuse(format!("{name}: {} prompts, others have {prompts}", values.len()));
            }
            if let Some((prompt, value)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
                return refuse(format!("{name}: {value} of prompt {prompt}, counted from 0; expected a finite number"));
            }
        }
    }
    if prompts < 2 {
        let reason = format!("{prompts} prompts; an error of a mean wants two or more");
        return Err(Error::Rows { place: policies[0].name.clone(), reason });
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;

    /// Numbers in [0, 1), by a linear congruential generator (Knuth's MMIX constants).
    fn draws(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    fn cloud(seed: u64, points: usize, objectives: usize, steps: f64) -> Vec<Vec<f64>> {
        let mut draw = draws(seed);
        // Coarse steps make ties.
        (0..points).map(|_| (0..objectives).map(|_| (draw() * steps).floor() / steps).collect()).collect()
    }

    /// The volume of a union by inclusion and exclusion over all subsets of the boxes.
    fn by_subsets(points: &[Vec<f64>], reference: &[f64]) -> f64 {
        let mut sum = 0.0;
        for subset in 1u32..1 << points.len() {
            let chosen = points.iter().enumerate().filter(|(i, _)| subset >> i & 1 == 1).map(|(_, point)| point);
            let corner = chosen.fold(vec![f64::INFINITY; reference.len()], |corner, point| {
                corner.iter().zip(point).map(|(a, b)| a.min(*b)).collect()
            });
            let inside: f64 = corner.iter().zip(reference).map(|(value, worst)| (value - worst).max(0.0)).product();
            sum += if subset.count_ones() % 2 == 1 { inside } else { -inside };
        }
        sum
    }

    #[test]
    fn volumes_are_those_of_inclusion_and_exclusion() {
        for objectives in 1..=5 {
            for seed in 0..40 {
                let points = cloud(seed, 8, objectives, if seed % 2 == 0 { 4.0 } else { 1e6 });
                let reference = vec![0.2; objectives];
                let (found, expected) = (hypervolume(&points, &reference), by_subsets(&points, &reference));
                assert!((found - expected).abs() < 1e-12, "{objectives} objectives, seed {seed}: {found} {expected}");
            }
        }
    }

    #[test]
    fn volumes_worked_by_hand() {
        assert_eq!(hypervolume(&[], &[0.0, 0.0]), 0.0);
        // On the edge of the reference point nothing is added.
        assert_eq!(hypervolume(&[vec![2.0, 0.0], vec![-1.0, 5.0]], &[0.0, 0.0]), 0.0);
        // 2·1 + 1·2 − 1·1.
        assert_eq!(hypervolume(&[vec![3.0, 0.0], vec![2.0, 1.0]], &[1.0, -1.0]), 3.0);
        // Two bars 2×1×1 that cross in a unit cube, and a third one through it.
        let bars = [vec![2.0, 1.0, 1.0], vec![1.0, 2.0, 1.0], vec![1.0, 1.0, 2.0]];
        assert_eq!(hypervolume(&bars[..2], &[0.0; 3]), 3.0);
        assert_eq!(hypervolume(&bars, &[0.0; 3]), 4.0);
    }

    #[test]
    fn the_front_is_what_a_sweep_from_the_right_keeps() {
        for seed in 0..60 {
            let points = cloud(seed, 30, 2, if seed % 2 == 0 { 5.0 } else { 1e6 });
            // Another way: from the largest first objective on, what is higher than all before, and its equals.
            let mut order: Vec<usize> = (0..points.len()).collect();
            order.sort_by(|a, b| points[*b].partial_cmp(&points[*a]).expect("finite"));
            let mut expected: Vec<usize> = Vec::new();
            for number in order {
                let last = expected.last().map(|last: &usize| &points[*last]);
                if last.is_none_or(|last| points[number][1] > last[1] || points[number] == *last) {
                    expected.push(number);
                }
            }
            expected.sort_unstable();
            assert_eq!(front(&points), expected, "seed {seed}");
        }
    }

    #[test]
    fn a_front_of_many_objectives_beats_all_others_and_not_itself() {
        for objectives in 3..=5 {
            for seed in 0..20 {
                let points = cloud(seed, 40, objectives, 6.0);
                let best = front(&points);
                for number in 0..points.len() {
                    let beaten = best.iter().any(|other| dominates(&points[*other], &points[number]));
                    assert_eq!(best.contains(&number), !beaten);
                }
            }
        }
    }

    fn aim(name: &str, direction: Direction) -> Aim {
        Aim { name: name.into(), direction, because: "by hand".into() }
    }

    fn aims() -> Vec<Aim> {
        vec![aim("reward", Direction::Maximise), aim("cost", Direction::Minimise)]
    }

    fn policy(name: &str, reward: &[f64], cost: &[f64]) -> Measured {
        let columns = [("reward", reward), ("cost", cost)].map(|(name, values)| (name.to_owned(), values.to_vec()));
        Measured { name: name.into(), place: format!("runs/{name}"), columns: columns.into() }
    }

    #[test]
    fn policies_stand_on_the_front_or_behind_it() {
        let policies = [
            policy("helpful", &[4.0, 6.0, 5.0], &[3.0, 3.0, 3.0]),
            policy("safe", &[1.0, 3.0, 2.0], &[-1.0, -1.0, -1.0]),
            // Worse than the helpful one by 1 in each prompt, and as costly to the bit.
            policy("behind", &[3.0, 5.0, 4.0], &[3.0, 3.0, 3.0]),
            // Behind the safe one by 0.1 ± 1.
            policy("near", &[3.0, 1.0, 1.7], &[-1.0, -1.0, -1.0]),
        ];
        let report = ParetoReport::of(aims(), &policies, &BTreeMap::new()).expect("a report");
        let standing: Vec<(bool, bool)> =
            report.points.iter().map(|point| (point.on_front, point.within_error)).collect();
        assert_eq!(standing, [(true, false), (true, true), (false, false), (false, true)]);
        assert_eq!(report.points[2].dominated_by, ["helpful"]);
        assert_eq!(report.points[3].dominated_by, ["safe"]);
        // Deviation 1 over the root of three prompts.
        let reward = report.points[0].measures["reward"];
        assert!((reward.mean - 5.0).abs() < 1e-15 && (reward.standard_error - 3f64.sqrt().recip()).abs() < 1e-15);
        // Rewards from 1.9 to 5, costs from −1 to 3, and a tenth of that beyond the worst.
        let expected = [1.9 - 0.31, 3.4];
        for (found, expected) in report.reference_point.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{:?}", report.reference_point);
        }
        // Heights 0.4 and 4.4 over 3.41 and 0.41 of reward.
        let expected = 0.4 * 3.41 + 4.0 * 0.41;
        assert!((report.hypervolume - expected).abs() < 1e-12, "{}", report.hypervolume);
        let contributions: Vec<f64> = report.points.iter().map(|point| point.contribution).collect();
        // Without the helpful one the one behind it stands in its place, of a reward lower by 1.
        for (found, expected) in contributions.iter().zip([0.4, 4.0 * 0.1, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-12, "{contributions:?}");
        }
    }

    #[test]
    fn a_reference_point_may_be_given_in_part() {
        let policies = [policy("a", &[1.0, 1.0], &[0.0, 0.0]), policy("b", &[2.0, 2.0], &[1.0, 1.0])];
        let given = BTreeMap::from([("cost".to_owned(), 5.0)]);
        let report = ParetoReport::of(aims(), &policies, &given).expect("a report");
        assert!((report.reference_point[0] - 0.9).abs() < 1e-12 && report.reference_point[1] == 5.0);
        // 0.1 × 5 of the one, 1.1 × 4 of the other, 0.1 × 4 of both.
        assert!((report.hypervolume - (0.5 + 4.4 - 0.4)).abs() < 1e-12, "{}", report.hypervolume);
        // Equal policies are on the front together, and neither is needed.
        let twice = [policy("a", &[1.0, 2.0], &[0.0, 1.0]), policy("b", &[1.0, 2.0], &[0.0, 1.0])];
        let report = ParetoReport::of(aims(), &twice, &BTreeMap::new()).expect("a report");
        assert!(report.points.iter().all(|point| point.on_front && point.within_error && point.contribution == 0.0));
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let both = [policy("a", &[1.0, 1.0], &[0.0, 0.0]), policy("b", &[2.0, 2.0], &[1.0, 1.0])];
        let refused = |aims: Vec<Aim>, policies: &[Measured], given: &[(&str, f64)], said: &str| {
            let given = given.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            let error = ParetoReport::of(aims, policies, &given).expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
        };
        refused(aims()[..1].to_vec(), &both, &[], "1 given (reward)");
        refused([aims(), aims()].concat(), &both, &[], "\"reward\" is there already");
        let many = |count: usize| (0..count).map(|i| aim(&i.to_string(), Direction::Maximise)).collect::<Vec<_>>();
        refused(many(9), &both, &[], "9 given; the exact hypervolume is of 8 at most");
        refused(many(8), &both, &[], "nothing was measured under the name \"0\"");
        refused(aims(), &[], &[], "policies: none");
        refused(aims(), &[both[0].clone(), both[0].clone()], &[], "another policy has this name");
        refused(vec![aims()[0].clone(), aim("harm", Direction::Minimise)], &both, &[], "\"harm\"");
        refused(aims(), &[policy("a", &[1.0], &[0.0])], &[], "1 prompts");
        refused(aims(), &[both[0].clone(), policy("b", &[1.0], &[1.0])], &[], "others have 2");
        refused(aims(), &[policy("a", &[1.0, f64::NAN], &[0.0, 0.0])], &[], "reward: NaN of prompt 1");
        refused(aims(), &both, &[("harm", 1.0)], "reference_point.harm");
        refused(aims(), &[policy("a", &[1.0, 1.0], &[0.0, 0.0])], &[("reward", f64::INFINITY)], "finite");
    }
}
