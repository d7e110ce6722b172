//! `wick safety`: limits, multipliers and pairs from completions that were scored.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::{Result, bail};
use candlewick::data::{Existing, Origin, Reason, Record, Rejection, Row, Text};
use candlewick::losses::dual::{
    CostMeasure, DualSettings, Optimum, Order, PromptScores, ScoreTable, Solution, threshold_for_target_rate,
};
use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::data::words::DataRows;
use crate::data::{Dropped, create, name, refuse_input, source_with};
use crate::failure::{EXIT_CODES, Failure};

/// `wick safety`
#[derive(Debug, Subcommand)]
pub(crate) enum Safety {
    /// Turn a target rate of unsafe completions into a limit of the mean cost
    Threshold(Threshold),
    /// Find the multiplier of each limit from scored completions, 64 or more a prompt
    Solve(Solve),
    /// Make pairs with gaps of reward and cost from scored completions, for safe_rlhf_lagrangian
    Pairs(Pairs),
}

/// `wick safety threshold`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, allow_negative_numbers = true)]
pub(crate) struct Threshold {
    /// Rows with costs: a column `cost` of single completions, `cost_chosen` and `cost_rejected` of pairs, or `cost_1`, `cost_2`, … of several
    #[command(flatten)]
    pub(crate) rows: DataRows,
    /// Which share of completions may be unsafe
    #[arg(long, value_name = "SHARE")]
    pub(crate) target_rate: f64,
    /// The column of costs; of pairs, what its two columns begin with
    #[arg(long, value_name = "NAME", default_value = "cost")]
    pub(crate) cost: String,
    /// Tell safe from unsafe by the rows' own flags (`safe`; `safe_chosen` and `safe_rejected` of pairs), not by the sign of the cost
    #[arg(long)]
    pub(crate) flags: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Constraints that `safe_rlhf_lagrangian` reads.
const MOST_COSTS: usize = 4;

/// What of a cost is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MeasureWord {
    /// The mean cost; safe completions make up for unsafe ones
    Mean,
    /// The share of completions with a cost above 0
    Rate,
    /// The mean of costs above 0; nothing makes up for them
    Rectified,
}

/// Completions with scores.
#[derive(Debug, Args)]
pub(crate) struct Scored {
    /// Rows of single completions with the columns below, several a prompt: what `wick sample` and then `wick score` write; or rows of several completions with NAME_1, NAME_2, … for each column NAME
    #[command(flatten)]
    pub(crate) rows: DataRows,
    /// The column of rewards
    #[arg(long, value_name = "NAME", default_value = "reward")]
    pub(crate) reward: String,
    /// The column of costs; once for each constraint
    #[arg(long, value_name = "NAME", default_values_t = ["cost".to_owned()])]
    pub(crate) cost: Vec<String>,
    /// The column of log π − log q, for completions that q wrote and not the model that the policy is held to; without it they are that model's own, drawn at temperature 1
    #[arg(long, value_name = "NAME")]
    pub(crate) log_weight: Option<String>,
}

/// `wick safety solve`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, allow_negative_numbers = true)]
pub(crate) struct Solve {
    /// The completions.
    #[command(flatten)]
    pub(crate) scored: Scored,
    /// The limit of each cost, in the order of --cost
    #[arg(long, value_name = "D", required = true)]
    pub(crate) limit: Vec<f64>,
    /// The weight of the divergence from the model that wrote the completions: the beta to train with
    #[arg(long, value_name = "B", default_value_t = 0.1)]
    pub(crate) beta: f64,
    /// What of each cost is limited: once for all, or once each
    #[arg(long, value_name = "WHAT", value_enum, default_values_t = [MeasureWord::Mean])]
    pub(crate) measure: Vec<MeasureWord>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `wick safety pairs`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Pairs {
    /// The completions.
    #[command(flatten)]
    pub(crate) scored: Scored,
    /// The file to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// What of each cost counts in its gap, as for `solve`: once for all, or once each
    #[arg(long, value_name = "WHAT", value_enum, default_values_t = [MeasureWord::Mean])]
    pub(crate) measure: Vec<MeasureWord>,
    /// Pairs of each prompt, of neighbours in the file; no completion twice while there are others
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) pairs: usize,
    /// Replace the file if it is there already
    #[arg(long)]
    pub(crate) force: bool,
}

/// Does what is asked.
pub(crate) fn safety(command: &Safety) -> Result<()> {
    match command {
        Safety::Threshold(arguments) => threshold(arguments),
        Safety::Solve(arguments) => solve(arguments),
        Safety::Pairs(arguments) => pairs(arguments),
    }
}

fn threshold(arguments: &Threshold) -> Result<()> {
    if arguments.rows.path.as_os_str() == "-" {
        let reason =
            "rows are looked at before they are read, and standard input can be read once; write it to a file first";
        bail!(Failure::Usage(reason.to_owned()));
    }
    let cost = &arguments.cost;
    let columns: Vec<(String, &str)> = match first(&arguments.rows)? {
        Row::Pair { .. } => {
            vec![(format!("{cost}_chosen"), "safe_chosen"), (format!("{cost}_rejected"), "safe_rejected")]
        }
        Row::Ranked { .. } if arguments.flags => bail!(Failure::Usage(
            "--flags: rows of several completions have no flag of each; write one completion a row, or leave it out"
                .into()
        )),
        _ => vec![(cost.clone(), "safe")],
    };
    let flags = columns.iter().filter(|_| arguments.flags).map(|(_, flag)| (*flag).to_owned());
    let numbers: Vec<String> = columns.iter().map(|(cost, _)| cost.clone()).chain(flags).collect();
    let (mut costs, mut is_unsafe) = (Vec::new(), Vec::new());
    read(&arguments.rows, &numbers, None, |record| {
        for (cost, flag) in &columns {
            costs.push(record.numbers[cost]);
            is_unsafe.extend(record.numbers.get(*flag).filter(|_| arguments.flags).map(|safe| *safe < 0.5));
        }
    })?;
    let found =
        threshold_for_target_rate(&costs, arguments.flags.then_some(is_unsafe.as_slice()), arguments.target_rate)
            .map_err(|error| Failure::Data(error.to_string()))?;
    let at_zero = found.rate_at(0.0);
    if arguments.json {
        println!(
            "{}",
            json!({
                "threshold": found.threshold, "interval": [found.interval.0, found.interval.1],
                "safe_mean": found.safe_mean, "unsafe_mean": found.unsafe_mean, "rate_at_zero": at_zero, "costs": costs.len(),
            })
        );
        return Ok(());
    }
    println!("limit of the mean cost: {:.4}", found.threshold);
    println!("    95 % interval: {:.4} to {:.4}, from {} costs", found.interval.0, found.interval.1, costs.len());
    println!("    mean cost of safe completions {:.4}, of unsafe ones {:.4}", found.safe_mean, found.unsafe_mean);
    println!("    a limit of 0 would admit {:.1} % of unsafe completions", 100.0 * at_zero);
    Ok(())
}

fn solve(arguments: &Solve) -> Result<()> {
    let costs = arguments.scored.cost.len();
    if arguments.limit.len() != costs {
        bail!(Failure::Usage(format!(
            "--limit is given {} times and --cost {costs} times; give a limit for each cost",
            arguments.limit.len()
        )));
    }
    let measures = measures(&arguments.measure, costs)?;
    for (limit, measure) in arguments.limit.iter().zip(&measures) {
        let (admitted, expected) = match measure {
            CostMeasure::Mean => (limit.is_finite(), "a number"),
            CostMeasure::Rate => (*limit > 0.0 && *limit <= 1.0, "a rate above 0, and at most 1"),
            CostMeasure::Rectified => (limit.is_finite() && *limit > 0.0, "a number above 0"),
        };
        if !admitted {
            bail!(Failure::Usage(format!("--limit {limit}: expected {expected}")));
        }
    }
    let groups = groups(&arguments.scored, None)?;
    let prompts = groups.iter().map(|(_, of)| scores_of(of, &arguments.scored)).collect();
    let wrong = |error: candlewick::losses::Error| Failure::Data(error.to_string());
    let table = ScoreTable::of_samples(prompts).and_then(|table| table.measured(&measures)).map_err(wrong)?;
    if let Some(small) = table.small_sample() {
        eprintln!(
            "wick: warning: a prompt has only {} completions, of which about {:.0} % of a shift of the cost can be seen: λ comes out too \
             large where the policy is to become safer; sample 64 or more a prompt (wick sample -k 64)",
            small.completions,
            100.0 * small.shown
        );
    }
    match table.solve(arguments.beta, &arguments.limit).map_err(wrong)? {
        Solution::Active(found) => show(arguments, "active", &found),
        Solution::Slack(found) => show(arguments, "slack", &found),
        Solution::Infeasible(found) if found.excess <= 0.0 => bail!(Failure::Data(format!(
            "--limit: it is the least that any policy over these completions reaches ({}), and only as λ grows without bound; give a higher one",
            found.least_costs.iter().map(|cost| format!("{cost:.4}")).collect::<Vec<_>>().join(", ")
        ))),
        Solution::Infeasible(found) => bail!(Failure::Data(format!(
            "--limit: no policy over these completions keeps it: the least mean that can be reached is {} for {}, {} too much of them weighed by {}; raise the \
             limit, or sample more completions of the same model (wick sample -k)",
            found.least_costs.iter().map(|cost| format!("{cost:.4}")).collect::<Vec<_>>().join(", "),
            arguments.scored.cost.join(", "),
            format_args!("{:.4}", found.excess),
            found.weights.iter().map(|weight| format!("{weight:.3}")).collect::<Vec<_>>().join(", "),
        ))),
    }
    Ok(())
}

/// The measure of each cost.
fn measures(words: &[MeasureWord], costs: usize) -> Result<Vec<CostMeasure>> {
    let measure = |word: &MeasureWord| match word {
        MeasureWord::Mean => CostMeasure::Mean,
        MeasureWord::Rate => CostMeasure::Rate,
        MeasureWord::Rectified => CostMeasure::Rectified,
    };
    match words {
        [one] => Ok(vec![measure(one); costs]),
        several if several.len() == costs => Ok(several.iter().map(measure).collect()),
        several => bail!(Failure::Usage(format!(
            "--measure is given {} times and --cost {costs} times; give it once, or once for each cost",
            several.len()
        ))),
    }
}

fn show(arguments: &Solve, what: &str, found: &Optimum) {
    if arguments.json {
        println!(
            "{}",
            json!({
                "solution": what, "lambda": found.multipliers, "reward": found.reward, "costs": found.costs, "kl": found.kl,
                "unsafe_share": found.unsafe_share, "variances": found.variances, "primal": found.primal, "dual": found.dual,
                "gap": found.gap,
            })
        );
        return;
    }
    let costs = arguments.scored.cost.iter().enumerate();
    for (k, cost) in costs {
        println!("{cost}: λ = {:.6}{}", found.multipliers[k], if found.multipliers[k] > 0.0 { "" } else { " (slack)" });
        println!(
            "    mean {:.4} (limit {}), unsafe {:.2} %, variance {:.4}",
            found.costs[k],
            arguments.limit[k],
            100.0 * found.unsafe_share[k],
            found.variances[k]
        );
        // Of one that moves by the costs of the policy of the step before.
        let settings = DualSettings { order: Order::After, ..DualSettings::default() };
        let rate = settings.largest_rate(arguments.beta, found.variances[k], found.multipliers[k], 1);
        if rate.is_finite() {
            println!(
                "    a multiplier that moves after the policy settles at rates below {rate:.4} (β/variance); take a tenth"
            );
        }
    }
    println!("mean reward {:.4}, KL from the reference {:.4} nats, dual gap {:.1e}", found.reward, found.kl, found.gap);
}

fn pairs(arguments: &Pairs) -> Result<()> {
    let existing = if arguments.force { Existing::Replace } else { Existing::Keep };
    let mut out = create(&arguments.out, existing)?;
    let measures = measures(&arguments.measure, arguments.scored.cost.len())?;
    let (mut short, mut same) = (0, 0);
    for (prompt, of) in groups(&arguments.scored, Some(&arguments.out))? {
        if of.len() < 2 {
            short += 1;
            continue;
        }
        let mut made = 0;
        // Neighbours at distance 1 in steps of two use each completion once; longer distances come when those are used up.
        'distances: for distance in 1..of.len() {
            let starts: Vec<usize> = match distance {
                1 => (0..of.len() - 1).step_by(2).chain((1..of.len() - 1).step_by(2)).collect(),
                _ => (0..of.len() - distance).collect(),
            };
            for start in starts {
                if made == arguments.pairs {
                    break 'distances;
                }
                match pair(&prompt, &of[start], &of[start + distance], &arguments.scored, &measures) {
                    Some(record) => {
                        out.write(&record)?;
                        made += 1;
                    }
                    None => same += 1,
                }
            }
        }
    }
    if out.rows() == 0 {
        bail!(Failure::Data(format!(
            "{}: no prompt has two different completions; sample several each (wick sample -k 64)",
            name(&arguments.scored.rows.path)
        )));
    }
    println!("{} pairs written to {}", out.finish()?, name(&arguments.out));
    for (count, what) in [(short, "prompts have one completion"), (same, "pairs of equal completions were left out")] {
        if count > 0 {
            println!("{count} {what}");
        }
    }
    Ok(())
}

/// A completion and its scores.
type Completion = (Text, Record);

/// The pair with the larger reward chosen; none of equal completions.
fn pair(
    prompt: &Text,
    one: &Completion,
    other: &Completion,
    scored: &Scored,
    measures: &[CostMeasure],
) -> Option<Record> {
    if one.0 == other.0 {
        return None;
    }
    let reward = |of: &Completion| of.1.numbers[&scored.reward];
    let (chosen, rejected) = if reward(one) >= reward(other) { (one, other) } else { (other, one) };
    let row = Row::Pair { prompt: prompt.clone(), chosen: chosen.0.clone(), rejected: rejected.0.clone() };
    // Tools and arguments of the template stay; numbers of single completions do not.
    let kept = Record { row, numbers: BTreeMap::new(), ..chosen.1.clone() };
    let mut record = kept.with_number("reward_gap", reward(chosen) - reward(rejected));
    for (k, cost) in scored.cost.iter().enumerate() {
        let gap = if k == 0 { "cost_gap".to_owned() } else { format!("cost_gap_{}", k + 1) };
        let (chosen, rejected) = (chosen.1.numbers[cost], rejected.1.numbers[cost]);
        record = record.with_number(gap, measures[k].of(chosen) - measures[k].of(rejected));
        if k == 0 {
            // By the sign of the first cost, for objectives of flags.
            let safe = |cost: f64| f64::from(u8::from(cost <= 0.0));
            record = record.with_number("safe_chosen", safe(chosen)).with_number("safe_rejected", safe(rejected));
        }
    }
    Some(record)
}

fn scores_of(completions: &[Completion], scored: &Scored) -> PromptScores {
    let column = |name: &String| completions.iter().map(|(_, record)| record.numbers[name]).collect::<Vec<f64>>();
    let log_weights = scored.log_weight.as_ref().map(column);
    PromptScores { rewards: column(&scored.reward), costs: scored.cost.iter().map(column).collect(), log_weights }
}

/// The completions of each prompt, in the order of the file.
fn groups(scored: &Scored, out: Option<&PathBuf>) -> Result<Vec<(Text, Vec<Completion>)>> {
    if scored.cost.len() > MOST_COSTS {
        bail!(Failure::Usage(format!(
            "--cost is given {} times; at most {MOST_COSTS} constraints are trained with",
            scored.cost.len()
        )));
    }
    if let Some(twice) = scored.cost.iter().enumerate().find(|(i, cost)| scored.cost[..*i].contains(cost)) {
        bail!(Failure::Usage(format!("--cost {}: given twice", twice.1)));
    }
    let numbers: Vec<String> =
        std::iter::once(&scored.reward).chain(&scored.cost).chain(&scored.log_weight).cloned().collect();
    let (mut groups, mut places): (Vec<(Text, Vec<Completion>)>, _) = (Vec::new(), HashMap::new());
    let mut other = 0;
    read(&scored.rows, &numbers, out, |record| {
        let (Row::Demonstration { prompt, completion } | Row::Labelled { prompt, completion, .. }) = record.row.clone()
        else {
            other += 1;
            return;
        };
        let place = *places
            .entry(format!("{prompt:?}{:?}{:?}", record.tools, record.template_arguments))
            .or_insert_with(|| {
                groups.push((prompt, Vec::new()));
                groups.len() - 1
            });
        groups[place].1.push((completion, record));
    })?;
    if other > 0 {
        bail!(Failure::Data(format!(
            "{}: {other} rows are neither single completions nor several of one prompt; write one completion a row, as wick sample does",
            name(&scored.rows.path)
        )));
    }
    Ok(groups)
}

/// The first row that can be read.
fn first(rows: &DataRows) -> Result<Row> {
    let first = source_with(rows, &[])?.records()?.find_map(|row| row.map(Result::ok).transpose());
    match first {
        None => bail!(Failure::Data(format!("{}: no row could be read", name(&rows.path)))),
        Some(first) => Ok(first?.1.row),
    }
}

/// Hands over every row that has the numbers, and every completion of a row of several, which has them as `NAME_1`, `NAME_2`, ….
fn read(rows: &DataRows, numbers: &[String], out: Option<&PathBuf>, mut each: impl FnMut(Record)) -> Result<()> {
    // Standard input can be read once, and then as rows of one completion only.
    let most = if rows.path.as_os_str() == "-" { 0 } else { most_completions(rows)? };
    let source = match most {
        0 => source_with(rows, numbers)?,
        most => {
            // As words, since one row may have more completions than another.
            let columns = numbers.iter().flat_map(|name| (1..=most).map(move |place| format!("{name}_{place}")));
            source_with(rows, &[])?.with_labels(columns.collect::<Vec<_>>())
        }
    };
    if let Some(out) = out {
        refuse_input(out, &source.paths())?;
    }
    let others: Vec<PathBuf> = source.paths().into_iter().chain(out.cloned()).collect();
    let mut dropped = Dropped::new(rows.dropped.as_deref(), rows.strict, &others)?;
    let (mut read, mut first) = (0_u64, None);
    for row in source.records()? {
        let rejection = match row? {
            Ok((_, record)) if most == 0 => {
                read += 1;
                each(record);
                continue;
            }
            Ok((origin, record)) => match apart(record, &origin, numbers) {
                Ok(records) => {
                    read += 1;
                    records.into_iter().for_each(&mut each);
                    continue;
                }
                Err(rejection) => rejection,
            },
            Err(rejection) => rejection,
        };
        first.get_or_insert_with(|| rejection.to_string());
        dropped.add(rejection, None)?;
    }
    dropped.finish()?;
    if dropped.any() {
        eprintln!("{}", dropped.summary());
    }
    if read == 0 {
        let first = first.unwrap_or_else(|| "the file is empty".to_owned());
        bail!(Failure::Data(format!("{}: no row could be used; the first: {first}", name(&rows.path))));
    }
    Ok(())
}

/// The most completions that a row has, where rows have several; 0 for rows of other forms.
fn most_completions(rows: &DataRows) -> Result<usize> {
    let source = source_with(rows, &[])?;
    let mut most = 0;
    for row in source.records()? {
        match row? {
            Ok((_, Record { row: Row::Ranked { completions, .. }, .. })) => most = most.max(completions.len()),
            // A file has rows of one form.
            Ok(_) => return Ok(0),
            Err(_) => {}
        }
    }
    Ok(most)
}

/// The completions of a row of several, each with its numbers.
fn apart(record: Record, origin: &Origin, numbers: &[String]) -> std::result::Result<Vec<Record>, Rejection> {
    let Record { row, labels, tools, template_arguments, .. } = record;
    let rejected = |detail: String| Rejection { origin: origin.clone(), reason: Reason::MissingColumn, detail };
    let Row::Ranked { prompt, completions } = row else {
        return Err(rejected("no row of several completions, as others of the file are".to_owned()));
    };
    let of = |(place, (completion, _)): (usize, (Text, f64))| {
        let row = Row::Demonstration { prompt: prompt.clone(), completion };
        let mut record = Record { tools: tools.clone(), template_arguments: template_arguments.clone(), ..row.into() };
        for name in numbers {
            let column = format!("{name}_{}", place + 1);
            let value = labels.get(&column).and_then(|word| word.parse::<f64>().ok()).filter(|value| value.is_finite());
            let value = value.ok_or_else(|| {
                let found = labels.get(&column).map_or("nothing", String::as_str);
                rejected(format!("`{column}` is {found}, expected a finite number for completion {}", place + 1))
            })?;
            record = record.with_number(name, value);
        }
        Ok(record)
    };
    completions.into_iter().enumerate().map(of).collect()
}
