//! The CUDA kernels as a library that runs on the host, for tests where there is no GPU.
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether a test that finds no GPU fails instead of emulating one: `CANDLEWICK_NEEDS_GPU` is set.
#[expect(clippy::disallowed_methods, reason = "tests are told through the environment")]
pub fn needs_gpu() -> bool {
    std::env::var_os("CANDLEWICK_NEEDS_GPU").is_some()
}

/// Makes a library of all kernels and of `probes` with a host compiler, in `folder`, where it is made once for the same sources. None
/// where there is no compiler, which it says.
///
/// # Errors
/// What the compiler says of sources that it refuses.
#[expect(clippy::print_stdout, reason = "tests say what they skip")]
pub fn emulated_kernels(folder: &Path, probes: &[PathBuf]) -> Result<Option<PathBuf>, String> {
    let found = ["c++", "g++"].into_iter().find(|compiler| {
        let silent = Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        silent.is_ok_and(|status| status.success())
    });
    let Some(compiler) = found else {
        println!("skipped: neither c++ nor g++ is installed, so the CUDA kernels are not emulated");
        return Ok(None);
    };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/src");
    let mut kernels = [files(&sources, "cu"), probes.to_vec()].concat();
    kernels.sort();
    let mut all = DefaultHasher::new();
    for file in [&kernels[..], &files(&sources, "cuh"), &files(&sources, "h"), &files(&sources, "cpp")].concat() {
        fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?.hash(&mut all);
    }
    // Named by what it is made of, so that it is made once.
    let path = folder.join(format!("kernels_{:016x}.so", all.finish()));
    if path.exists() {
        return Ok(Some(path));
    }
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    let number = BEGUN.fetch_add(1, Ordering::Relaxed);
    let begun = path.with_extension(format!("{}-{number}", std::process::id()));
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC", "-shared", "-o"])
        .arg(&begun)
        .arg(sources.join("cuda/emulation.cpp"))
        .args(["-x", "c++"])
        .args(&kernels)
        .output()
        .map_err(|error| format!("{compiler}: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    fs::rename(&begun, &path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(path))
}

/// The files below a folder whose names have this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|found| found == ending));
    here.chain(folders.iter().flat_map(|folder| self::files(folder, ending))).collect()
}
