//! Distributions in bounded memory: exact counts, smallest, largest and mean; percentiles to within 2 %.

use std::collections::BTreeMap;

use serde::Serialize;

/// Lengths below this have a bin each; above, an octave has half as many bins.
const EXACT: u64 = 64;

/// Counts of whole numbers in bins that widen with the number: at most 1,920 of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    bins: Vec<u64>,
    count: u64,
    sum: u128,
    least: u64,
    most: u64,
}

impl Histogram {
    pub(crate) fn add(&mut self, value: u64) {
        let bin = bin_of(value);
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += 1;
        self.least = if self.count == 0 { value } else { self.least.min(value) };
        self.most = self.most.max(value);
        self.count += 1;
        self.sum += u128::from(value);
    }

    /// None where nothing was added.
    pub(crate) fn summary(&self) -> Option<LengthSummary> {
        (self.count > 0).then(|| LengthSummary {
            count: self.count,
            min: self.least,
            max: self.most,
            mean: self.sum as f64 / self.count as f64,
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p95: self.percentile(0.95),
            p99: self.percentile(0.99),
            histogram: self.octaves(),
        })
    }

    /// The smallest value that at least this share of the values does not exceed.
    fn percentile(&self, share: f64) -> u64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bin, count) in self.bins.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                let (from, to) = range_of(bin);
                return (from + (to - from) / 2).clamp(self.least, self.most);
            }
        }
        self.most
    }

    /// Counts by powers of two, without the empty bins at either end.
    fn octaves(&self) -> Vec<LengthBin> {
        let mut bins: Vec<LengthBin> = Vec::new();
        for (bin, count) in self.bins.iter().enumerate() {
            let octave = octave_of(range_of(bin).0);
            while bins.len() <= octave {
                let (from, to) = octave_range(bins.len());
                bins.push(LengthBin { from, to, count: 0 });
            }
            bins[octave].count += count;
        }
        let first = bins.iter().position(|bin| bin.count > 0).unwrap_or(0);
        bins.split_off(first)
    }
}

/// Of lengths: exact count, smallest, largest and mean; percentiles exact below 64 and to within 2 % above.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LengthSummary {
    /// How many lengths there are.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// The largest.
    pub max: u64,
    /// Their mean.
    pub mean: f64,
    /// Half of them are no longer.
    pub p50: u64,
    /// 90 % of them are no longer.
    pub p90: u64,
    /// 95 % of them are no longer.
    pub p95: u64,
    /// 99 % of them are no longer.
    pub p99: u64,
    /// Exact counts by powers of two: 0, 1, 2 to 3, 4 to 7, …; from the first bin that holds any to the last.
    pub histogram: Vec<LengthBin>,
}

/// How many lengths lie in a range, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LengthBin {
    /// The smallest length of the bin.
    pub from: u64,
    /// The largest.
    pub to: u64,
    /// How many there are.
    pub count: u64,
}

fn bin_of(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    // Six bits of the value: the leading one and five more.
    let shift = 63 - value.leading_zeros() - 5;
    (EXACT + u64::from(shift - 1) * (EXACT / 2) + (value >> shift) - EXACT / 2) as usize
}

fn range_of(bin: usize) -> (u64, u64) {
    let bin = bin as u64;
    if bin < EXACT {
        return (bin, bin);
    }
    let shift = (bin - EXACT) / (EXACT / 2) + 1;
    let head = (bin - EXACT) % (EXACT / 2) + EXACT / 2;
    (head << shift, (head << shift) + ((1 << shift) - 1))
}

/// 0 for 0, 1 for 1, 2 for 2 to 3, 3 for 4 to 7, ….
fn octave_of(value: u64) -> usize {
    (64 - value.leading_zeros()) as usize
}

fn octave_range(octave: usize) -> (u64, u64) {
    match octave {
        0 => (0, 0),
        _ => (1 << (octave - 1), (1 << (octave - 1)) + ((1 << (octave - 1)) - 1)),
    }
}

/// The range and the distribution of a column of numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    /// By the number's sign, exponent and first five bits of its fraction, in the order of the numbers.
    bins: BTreeMap<i32, u64>,
    count: u64,
    mean: f64,
    least: f64,
    most: f64,
}

impl Numbers {
    pub(crate) fn add(&mut self, value: f64) {
        *self.bins.entry(number_bin(value)).or_default() += 1;
        self.least = if self.count == 0 { value } else { self.least.min(value) };
        self.most = if self.count == 0 { value } else { self.most.max(value) };
        self.count += 1;
        self.mean += (value - self.mean) / self.count as f64;
    }

    pub(crate) fn summary(&self) -> NumberSummary {
        NumberSummary {
            count: self.count,
            min: self.least,
            max: self.most,
            mean: self.mean,
            p5: self.percentile(0.05),
            p50: self.percentile(0.5),
            p95: self.percentile(0.95),
        }
    }

    fn percentile(&self, share: f64) -> f64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bin, count) in &self.bins {
            seen += count;
            if seen >= wanted {
                return number_of(*bin).clamp(self.least, self.most);
            }
        }
        self.most
    }
}

/// Of a column of numbers: exact count, smallest and largest; percentiles to within 4 %.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NumberSummary {
    /// Rows that bring it.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// 5 % of them are no larger.
    pub p5: f64,
    /// Half of them are no larger.
    pub p50: f64,
    /// 95 % of them are no larger.
    pub p95: f64,
}

/// Sign, exponent and five bits of fraction, so that the order of bins is that of numbers.
fn number_bin(value: f64) -> i32 {
    // 17 bits of 64 with the sign bit cleared: they fit.
    let head = ((value.abs().to_bits()) >> 47) as i32;
    if value < 0.0 { -head } else { head }
}

/// The beginning of a bin: a number of few digits is its own.
fn number_of(bin: i32) -> f64 {
    let value = f64::from_bits((bin.unsigned_abs() as u64) << 47);
    if bin < 0 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_lies_in_its_bin_and_bins_follow_one_another() {
        let mut end = None;
        for bin in 0..1920 {
            let (from, to) = range_of(bin);
            assert_eq!(from, end.map_or(0, |end: u64| end + 1), "{bin}");
            assert_eq!((bin_of(from), bin_of(to)), (bin, bin));
            end = Some(to);
        }
        assert_eq!(end, Some(u64::MAX));
    }

    #[test]
    fn percentiles_of_a_thousand_lengths() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|value| histogram.add(value));
        let summary = histogram.summary().unwrap();
        assert_eq!((summary.count, summary.min, summary.max), (1000, 1, 1000));
        assert!((summary.mean - 500.5).abs() < 1e-9);
        for (got, exact) in [(summary.p50, 500.0), (summary.p90, 900.0), (summary.p95, 950.0), (summary.p99, 990.0)] {
            assert!((got as f64 - exact).abs() <= 0.02 * exact, "{got} for {exact}");
        }
        let counts: Vec<u64> = summary.histogram.iter().map(|bin| bin.count).collect();
        assert_eq!(counts, [1, 2, 4, 8, 16, 32, 64, 128, 256, 489]);
        assert_eq!((summary.histogram[0].from, summary.histogram[9].from, summary.histogram[9].to), (1, 512, 1023));
        assert!(Histogram::default().summary().is_none());
    }

    #[test]
    fn numbers_of_both_signs_keep_their_order() {
        let mut numbers = Numbers::default();
        for value in [-2.0, -1.0, 0.0, 0.5, 4.0] {
            numbers.add(value);
        }
        let summary = numbers.summary();
        assert_eq!((summary.min, summary.p5, summary.p50, summary.p95, summary.max), (-2.0, -2.0, 0.0, 4.0, 4.0));
        assert!((summary.mean - 0.3).abs() < 1e-12);
        let mut bins = [-3.5, -1.0, -0.0, 1e-300, 0.1, 2.0, 1e300].map(number_bin).to_vec();
        let given = bins.clone();
        bins.sort_unstable();
        assert_eq!(bins, given);
    }
}
