//! Runs `rms_norm.cu` on the host through `emulation/cuda_emulation.h` and compares it with the CPU kernel.
//!
//! The test needs a C++ compiler (`c++` or `g++`) and no GPU; without a compiler it says so and passes.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use candlewick_kernels::{Float, Workspace, rms_norm};

/// A compiled emulation, or none where there is no compiler.
fn compile(name: &str, dropped_barrier: u32) -> Option<PathBuf> {
    let found = ["c++", "g++"].into_iter().find(|compiler| {
        Command::new(compiler)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    let Some(compiler) = found else {
        println!("skipped: neither c++ nor g++ is installed, so the CUDA kernels are not emulated");
        return None;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"])
        .arg(format!("-DDROPPED_BARRIER={dropped_barrier}"))
        .arg("-I")
        .arg(root.join("tests/emulation"))
        .arg("-I")
        .arg(root.join("src/rms_norm"))
        .arg("-o")
        .arg(&program)
        .arg(root.join("tests/emulation/rms_norm_main.cpp"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

trait Bytes: Float {
    fn to_bytes(self) -> Vec<u8>;
    fn of_bytes(bytes: &[u8]) -> Self;
}

macro_rules! bytes {
    ($($type:ty),*) => {$(
        impl Bytes for $type {
            fn to_bytes(self) -> Vec<u8> {
                self.to_ne_bytes().to_vec()
            }
            fn of_bytes(bytes: &[u8]) -> Self {
                Self::from_ne_bytes(bytes.try_into().unwrap())
            }
        }
    )*};
}
bytes!(f32, f64);

#[derive(Clone, Copy)]
struct Launch {
    grid: u64,
    threads: u64,
    accumulate: bool,
    with_dw: bool,
}

const LAUNCH: Launch = Launch { grid: 3, threads: 96, accumulate: true, with_dw: true };
const EPS: f64 = 1e-5;

#[derive(Debug, PartialEq)]
struct Results<T> {
    y: Vec<T>,
    rstd: Vec<T>,
    dx: Vec<T>,
    dw: Vec<T>,
}

struct Case<T> {
    shape: rms_norm::Shape,
    x: Vec<T>,
    weight: Vec<T>,
    dy: Vec<T>,
    dx: Vec<T>,
    dw: Vec<T>,
}

fn case<T: Float>(rows: usize, hidden: usize) -> Case<T> {
    let mut state = 12_345u64;
    let mut numbers = |n: usize| -> Vec<T> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            T::from_f64((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
        };
        (0..n).map(|_| next()).collect()
    };
    let n = rows * hidden;
    let shape = rms_norm::Shape { rows, hidden };
    Case { shape, x: numbers(n), weight: numbers(hidden), dy: numbers(n), dx: numbers(n), dw: numbers(hidden) }
}

fn emulate<T: Bytes>(program: &Path, case: &Case<T>, launch: Launch, descending: bool) -> Vec<u8> {
    let head = [
        size_of::<T>() as u64,
        u64::from(descending),
        case.shape.rows as u64,
        case.shape.hidden as u64,
        launch.grid,
        launch.threads,
        u64::from(launch.accumulate),
        u64::from(launch.with_dw),
    ];
    let mut input: Vec<u8> = head.iter().flat_map(|v| v.to_ne_bytes()).collect();
    input.extend(EPS.to_ne_bytes());
    for operand in [&case.x, &case.weight, &case.dy, &case.dx, &case.dw] {
        input.extend(operand.iter().flat_map(|v| v.to_bytes()));
    }
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the emulation ended with {}", output.status);
    output.stdout
}

fn results<T: Bytes>(bytes: &[u8], shape: rms_norm::Shape) -> Results<T> {
    let mut all = bytes.chunks_exact(size_of::<T>()).map(T::of_bytes);
    let n = shape.rows * shape.hidden;
    let mut take = |n: usize| all.by_ref().take(n).collect::<Vec<T>>();
    let results = Results { y: take(n), rstd: take(shape.rows), dx: take(n), dw: take(shape.hidden) };
    assert_eq!(results.dw.len(), shape.hidden, "the emulation wrote everything");
    results
}

fn on_cpu<T: Float>(case: &Case<T>, launch: Launch) -> Results<T> {
    let shape = case.shape;
    let mut ws = Workspace::new(1);
    let mut r = Results {
        y: vec![T::ZERO; case.x.len()],
        rstd: vec![T::ZERO; shape.rows],
        dx: case.dx.clone(),
        dw: case.dw.clone(),
    };
    let (x, w) = ((&case.x).into(), (&case.weight).into());
    rms_norm::forward(x, w, (&mut r.y).into(), (&mut r.rstd).into(), shape, EPS, &mut ws).unwrap();
    let dw = launch.with_dw.then(|| (&mut r.dw).into());
    let (rstd, dy) = ((&r.rstd).into(), (&case.dy).into());
    rms_norm::backward(x, w, rstd, dy, (&mut r.dx).into(), launch.accumulate, dw, shape, &mut ws).unwrap();
    r
}

#[track_caller]
fn assert_near<T: Float>(a: &[T], b: &[T], bound: f64, what: &str) {
    let norm = |sum: f64| sum.sqrt();
    let difference = norm(a.iter().zip(b).map(|(a, b)| (a.to_f64() - b.to_f64()).powi(2)).sum());
    let size = norm(b.iter().map(|b| b.to_f64().powi(2)).sum());
    println!("{what}: {:.1e}", difference / size);
    assert!(difference <= bound * size, "{what}: {difference:e} of {size:e}");
}

fn compare<T: Bytes>(program: &Path, rows: usize, hidden: usize, launch: Launch, bound: f64) {
    let case = case::<T>(rows, hidden);
    let ascending = emulate(program, &case, launch, false);
    assert!(ascending == emulate(program, &case, launch, true), "the order of threads changes a result: a race");
    let (emulated, expected) = (results::<T>(&ascending, case.shape), on_cpu(&case, launch));
    let what = |name: &str| format!("{name} of {rows} × {hidden} {}", T::NAME);
    assert_near(&emulated.y, &expected.y, bound, &what("y"));
    assert_near(&emulated.rstd, &expected.rstd, bound, &what("rstd"));
    assert_near(&emulated.dx, &expected.dx, bound, &what("dx"));
    assert_near(&emulated.dw, &expected.dw, bound, &what("dw"));
}

#[test]
fn the_cuda_kernels_agree_with_the_cpu() {
    let Some(program) = compile("rms_norm", 0) else {
        return;
    };
    let launches = [
        LAUNCH,
        Launch { accumulate: false, ..LAUNCH },
        Launch { with_dw: false, ..LAUNCH },
        Launch { grid: 1, threads: 32, ..LAUNCH },
        Launch { grid: 7, threads: 256, ..LAUNCH },
    ];
    for (rows, hidden) in [(7, 3), (7, 33), (10, 200), (4, 577)] {
        for launch in launches {
            compare::<f32>(&program, rows, hidden, launch, 1e-6);
            compare::<f64>(&program, rows, hidden, launch, 1e-14);
        }
    }
}

#[test]
fn a_barrier_that_is_missing_is_noticed() {
    for barrier in 1..=3 {
        let Some(program) = compile(&format!("rms_norm_without_{barrier}"), barrier) else {
            return;
        };
        let case = case::<f32>(10, 200);
        let ascending = emulate(&program, &case, LAUNCH, false);
        let descending = emulate(&program, &case, LAUNCH, true);
        assert!(ascending != descending, "without barrier {barrier} both orders of threads give the same results");
    }
}
