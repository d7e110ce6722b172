//! Every CUDA kernel's time on a device beside what its bytes and its arithmetic would take at the ceilings of the device.
//!
//! ```console
//! cargo bench -p candlewick-kernels --features cuda --bench gpu                           # all, of three models' layers
//! cargo bench -p candlewick-kernels --features cuda --bench gpu -- rms_norm swiglu        # those with one of these in their names
//! cargo bench -p candlewick-kernels --features cuda --bench gpu -- --output FILE          # the table too: .csv, else Markdown
//! ```
//!
//! Further words: `--rows N` (of each layer, 16384), `--repeats N` (times of which the median is taken, 30), `--bandwidth TB/S` and
//! `--flops TFLOP/S` (ceilings of an H200-class device, 4.3 and 790), `--note TEXT` (a line above the table), `--rehearse`
//! (sizes so small that a played device runs them: `tools/gpu/rehearse.sh`).
//!
//! * A time is that of the device, by events around many launches in a row; sets of operands take turns, so that together they are more
//!   than twice the second-level cache. Elements are bf16, sums f32.
//! * Bytes and operations follow from the sizes (`ops.rs`): each operand is read or written once, whatever the kernel does.
//! * The roof is the larger of the times that the bytes and the operations take at the ceilings, and an op's share is roof ÷ time. Two
//!   are shown: of the ceilings given, and of those measured here, by a copy and by a large product.
//!
//! Whether results are right is for the tests (`tests/gpu`). Without the feature `cuda` or a device nothing is measured, and a line says
//! so; with `CANDLEWICK_NEEDS_GPU` in the environment that is a failure.
#![expect(clippy::print_stdout, reason = "a benchmark shows what it measured")]

mod ops;
mod table;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use candlewick_kernels::{Cuda, Workspace};
use ops::{At, Model, Once, Op, Work};
use table::{Ceilings, Table};

const MODELS: [(&str, Model); 3] = [
    ("0.5B", Model { hidden: 896, intermediate: 4864, q_heads: 14, k_heads: 2, head_dim: 64, vocab: 151_936 }),
    ("1B", Model { hidden: 2048, intermediate: 8192, q_heads: 32, k_heads: 8, head_dim: 64, vocab: 128_256 }),
    ("8B", Model { hidden: 4096, intermediate: 14_336, q_heads: 32, k_heads: 8, head_dim: 128, vocab: 128_256 }),
];
/// For a rehearsal, where nothing is measured.
const SMALL: Model = Model { hidden: 24, intermediate: 40, q_heads: 3, k_heads: 1, head_dim: 8, vocab: 50 };
/// Elements that are copied, 1 GiB, and the side of the matrices that are multiplied, to measure the ceilings.
const COPIED: usize = 1 << 29;
const SIDE: usize = 8192;
/// Seconds that launches between two events take together, at least: events count half microseconds.
const TIMED: f64 = 2e-3;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            println!("gpu: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let words = Words::parse(std::env::args().skip(1))?;
    let cuda = match Cuda::new(0) {
        Ok(cuda) => cuda,
        Err(error) => {
            println!("nothing is measured: {error}");
            return Ok(if is_needed() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    };
    let device = cuda.properties()?;
    let bench = Bench { cuda, l2_bytes: device.l2_bytes, repeats: words.repeats };
    let mut failed = 0;
    let mut attempt = |op: &Op| match bench.measure(op) {
        Ok(measured) => Some(measured),
        Err(error) => {
            println!("{} of {}: {error}", op.work.name, op.work.size);
            failed += 1;
            None
        }
    };
    let (copied, side) = if words.rehearses { (1 << 12, 24) } else { (COPIED, SIDE) };
    let (copy, product) = (attempt(&ops::copy(copied)), attempt(&ops::product(side)));
    let measured = Ceilings {
        bytes_per_second: copy.as_ref().map_or(0.0, |copy| copy.work.bytes as f64 / copy.seconds),
        flops_per_second: product.as_ref().map_or(0.0, |product| product.work.flops as f64 / product.seconds),
    };
    let mut table = Table::new(device, words.given, measured, &words.note);
    print!("{}", table.heading());
    for ceiling in [copy, product].into_iter().flatten() {
        println!("{}", table.add("", ceiling));
    }
    let models = if words.rehearses { vec![("small", SMALL)] } else { MODELS.to_vec() };
    for (name, model) in models {
        for op in ops::of_model(At { rows: words.rows, model }).iter().filter(|op| words.want(op.work.name)) {
            if let Some(measured) = attempt(op) {
                println!("{}", table.add(name, measured));
            }
        }
    }
    for path in words.output {
        let is_csv = path.extension().is_some_and(|ending| ending == "csv");
        fs::write(&path, if is_csv { table.csv() } else { table.markdown() })
            .map_err(|error| format!("{}: {error}", path.display()))?;
        println!("written to {}", path.display());
    }
    if failed > 0 {
        return Err(format!("{failed} ops failed; see above").into());
    }
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::disallowed_methods, reason = "whoever runs it says in the environment that there is a device")]
fn is_needed() -> bool {
    std::env::var_os("CANDLEWICK_NEEDS_GPU").is_some_and(|value| !value.is_empty() && value != "0")
}

/// What the command line asks for.
struct Words {
    wanted: Vec<String>,
    rehearses: bool,
    rows: usize,
    repeats: usize,
    given: Ceilings,
    note: String,
    output: Vec<PathBuf>,
}

impl Words {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let given = Ceilings { bytes_per_second: 4.3e12, flops_per_second: 790e12 };
        let (wanted, note, output) = (Vec::new(), String::new(), Vec::new());
        let mut this = Self { wanted, rehearses: false, rows: 16_384, repeats: 30, given, note, output };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value after it"));
            match word.as_str() {
                "--rows" => this.rows = whole(&word, &value()?)?,
                "--repeats" => this.repeats = whole(&word, &value()?)?,
                "--bandwidth" => this.given.bytes_per_second = trillions(&word, &value()?)?,
                "--flops" => this.given.flops_per_second = trillions(&word, &value()?)?,
                "--note" => this.note = value()?,
                "--output" => this.output.push(value()?.into()),
                "--rehearse" => (this.rehearses, this.rows) = (true, 13),
                // Cargo's own.
                "--bench" => {}
                name if !name.starts_with('-') => this.wanted.push(name.to_owned()),
                _ => {
                    let known = "--rows, --repeats, --bandwidth, --flops, --note, --output, --rehearse, or a part of an op's name";
                    return Err(format!("{word} is not known; expected {known}").into());
                }
            }
        }
        Ok(this)
    }

    fn want(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|part| name.contains(part.as_str()))
    }
}

fn whole(word: &str, value: &str) -> Result<usize, String> {
    value
        .parse()
        .ok()
        .filter(|&number| number > 0)
        .ok_or_else(|| format!("{word} is {value}, expected a number above 0"))
}

fn trillions(word: &str, value: &str) -> Result<f64, String> {
    let number = value.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.map(|number| number * 1e12).ok_or_else(|| format!("{word} is {value}, expected a number above 0, in 10¹²"))
}

/// Times ops on one device.
struct Bench {
    cuda: Cuda,
    l2_bytes: usize,
    repeats: usize,
}

impl Bench {
    fn measure(&self, op: &Op) -> candlewick_kernels::Result<Measured> {
        // A set is no smaller than half of what is moved: an operand in place is read and written.
        let sets = (4 * self.l2_bytes).div_ceil(op.work.bytes);
        let mut sets = (0..sets).map(|_| op.once(&self.cuda)).collect::<Result<Vec<Once>, _>>()?;
        let ws = &mut Workspace::new(1);
        // Scratch and algorithms are chosen in a first round; a second tells how many make a time that events can tell.
        self.round(&mut sets, 1, ws)?;
        let rounds = (TIMED / self.round(&mut sets, 1, ws)?).ceil().clamp(1.0, 1000.0) as usize;
        self.round(&mut sets, rounds, ws)?;
        let launches = (rounds * sets.len()) as f64;
        let mut times = Vec::with_capacity(self.repeats);
        for _ in 0..self.repeats {
            times.push(self.round(&mut sets, rounds, ws)? / launches);
        }
        times.sort_by(f64::total_cmp);
        let quantile = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
        let seconds = quantile(0.5);
        Ok(Measured { work: op.work.clone(), seconds, spread: (quantile(0.9) - quantile(0.1)) / seconds })
    }

    /// Seconds of so many rounds through all sets of operands.
    fn round(&self, sets: &mut [Once], rounds: usize, ws: &mut Workspace) -> candlewick_kernels::Result<f64> {
        self.cuda.time(|| (0..rounds).try_for_each(|_| sets.iter_mut().try_for_each(|once| once(ws))))
    }
}

/// How long an op took.
struct Measured {
    work: Work,
    /// The median.
    seconds: f64,
    /// From the tenth to the ninetieth of a hundred, as a part of the median.
    spread: f64,
}
