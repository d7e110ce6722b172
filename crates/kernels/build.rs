//! Compiles the CUDA kernels to PTX where the feature `cuda` is on; does nothing otherwise.
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kernels by the path of their source, without its ending.
const SOURCES: [&str; 1] = ["src/rms_norm/rms_norm"];

fn main() {
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    if variable("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(variable("OUT_DIR").expect("cargo sets OUT_DIR"));
    for source in SOURCES {
        compile(Path::new(&format!("{source}.cu")), &out);
    }
}

/// PTX for compute capability 8.0, which the driver turns into code for any later device.
fn compile(source: &Path, out: &Path) {
    println!("cargo::rerun-if-changed={}", source.display());
    let nvcc = match variable("CUDA_HOME") {
        Some(home) => Path::new(&home).join("bin").join("nvcc"),
        None => "nvcc".into(),
    };
    let ptx = out.join(source.file_name().expect("a source has a name")).with_extension("ptx");
    let status = Command::new(&nvcc)
        .args(["-ptx", "-arch=compute_80", "-O3", "-std=c++17", "-o"])
        .arg(&ptx)
        .arg(source)
        .status()
        .unwrap_or_else(|error| {
            panic!(
                "feature `cuda`: cannot run {}: {error}; install the CUDA toolkit and set CUDA_HOME or PATH to it",
                nvcc.display()
            )
        });
    assert!(status.success(), "feature `cuda`: nvcc does not compile {}", source.display());
}

#[expect(clippy::disallowed_methods, reason = "a build script is told everything through the environment")]
fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}
