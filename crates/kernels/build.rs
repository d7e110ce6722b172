//! Compiles the CUDA kernels where the feature `cuda` is on; does nothing otherwise.
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kernels by the path of their source, without its ending.
const SOURCES: &[&str] = &[
    "src/adamw/adamw",
    "src/attention/attention",
    "src/attention/flash",
    "src/clip/clip",
    "src/cuda/product",
    "src/elementwise/elementwise",
    "src/embedding/embedding",
    "src/gated/gated",
    "src/lion/lion",
    "src/rms_norm/rms_norm",
    "src/rmsprop/rmsprop",
    "src/rope/rope",
    "src/running_mean/running_mean",
    "src/schedule_free/schedule_free",
    "src/segment_sum/segment_sum",
    "src/survey/survey",
    "src/token_log_probs/token_log_probs",
];

/// Sources whose every operation rounds as the CPU's does: the bits of an optimizer and of mixed parameters are the same on both.
const UNFUSED: &[&str] = &[
    "src/adamw/adamw",
    "src/elementwise/elementwise",
    "src/lion/lion",
    "src/rmsprop/rmsprop",
    "src/running_mean/running_mean",
    "src/schedule_free/schedule_free",
];

/// Code for any device since 8.0, which the driver translates, and for 9.0 as it is.
const CODE: [&str; 4] = ["-gencode", "arch=compute_80,code=compute_80", "-gencode", "arch=compute_90a,code=sm_90a"];

fn main() {
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    println!("cargo::rerun-if-changed=src/attention/tiles.cuh");
    for header in ["device", "groups", "quad", "stochastic", "tensor_cores"] {
        println!("cargo::rerun-if-changed=src/cuda/{header}.cuh");
    }
    if variable("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(variable("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut modules = String::new();
    for source in SOURCES {
        let fused = format!("-fmad={}", !UNFUSED.contains(source));
        let source = PathBuf::from(format!("{source}.cu"));
        println!("cargo::rerun-if-changed={}", source.display());
        let name = Path::new(source.file_name().expect("a source has a name"));
        let (image, ptx) = (out.join(name.with_extension("fatbin")), out.join(name.with_extension("ptx")));
        compile(&source, &[&["-fatbin", &fused], &CODE[..]].concat(), &image);
        // Text, for the names of kernels that macros have made.
        compile(&source, &["-ptx", "-arch=compute_80"], &ptx);
        let text = fs::read_to_string(&ptx).expect("nvcc has written it");
        let names: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix(".visible .entry ")?.strip_suffix('(')).collect();
        assert!(!names.is_empty(), "{} has kernels", source.display());
        writeln!(modules, "    (&Aligned(*include_bytes!({:?})), &{names:?}),", image.display().to_string())
            .expect("a string grows");
    }
    let text = format!("const MODULES: &[(&Aligned<[u8]>, &[&str])] = &[\n{modules}];\n");
    fs::write(out.join("kernels.rs"), text).expect("OUT_DIR can be written to");
}

fn compile(source: &Path, how: &[&str], to: &Path) {
    let nvcc = match variable("CUDA_HOME") {
        Some(home) => Path::new(&home).join("bin").join("nvcc"),
        None => "nvcc".into(),
    };
    let status =
        Command::new(&nvcc).args(how).args(["-O3", "-std=c++17", "-o"]).arg(to).arg(source).status().unwrap_or_else(|error| {
            panic!(
                "feature `cuda`: cannot run {}: {error}; install the CUDA toolkit (tools/cuda_home.sh makes one) and set CUDA_HOME or PATH to it",
                nvcc.display()
            )
        });
    assert!(status.success(), "feature `cuda`: nvcc does not compile {}", source.display());
}

#[expect(clippy::disallowed_methods, reason = "a build script is told everything through the environment")]
fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}
