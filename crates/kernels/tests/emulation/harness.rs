//! The library of emulated kernels, which runs the cases in both orders of threads.
use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, PoisonError, RwLock};

use candlewick_kernels::{Cuda, Order};

use crate::cases::Case;

/// The sizes that a case runs at: here the small ones.
pub(crate) fn sizes<S: Copy>(small: &[S], _large: &[S]) -> Vec<S> {
    small.to_vec()
}

/// A device of either order of threads, or none where there is no compiler.
pub(crate) fn devices() -> Option<[Cuda; 2]> {
    Some(library()?.devices())
}

/// Kernels run as they are while it is read; while it is written, with a barrier less, or without an op.
pub(crate) static AS_THEY_ARE: RwLock<()> = RwLock::new(());

/// Every case gives the right numbers, the same bits in both orders of threads.
pub(crate) fn check(cases: &[Case]) {
    let Some(library) = library() else { return };
    let _read = AS_THEY_ARE.read().unwrap_or_else(PoisonError::into_inner);
    for case in cases {
        if let Some(fault) = case.fault(&library.devices()) {
            panic!("{}: {fault}", case.name);
        }
    }
}

/// Leaving out any barrier, or any wait for copies, that a case comes to is noticed by one of the cases.
pub(crate) fn check_barriers(source: &str, cases: &[Case]) {
    let Some(library) = library() else { return };
    let _write = AS_THEY_ARE.write().unwrap_or_else(PoisonError::into_inner);
    let devices = library.devices();
    for case in cases {
        assert_eq!(case.fault(&devices), None, "{}", case.name);
    }
    let barriers: Vec<_> = library.barriers().into_iter().filter(|(file, _)| file.contains(source)).collect();
    assert!(!barriers.is_empty(), "{source} has barriers");
    for (file, line) in barriers {
        library.leave_out(&file, line);
        let is_noticed = cases.iter().any(|case| case.fault(&devices).is_some());
        library.leave_out("", 0);
        assert!(is_noticed, "{file}:{line}: nobody misses this barrier");
        println!("{file}:{line}: missed");
    }
}

/// A device for what is no case.
pub(crate) fn device() -> Option<Cuda> {
    let [device, _] = devices()?;
    Some(device)
}

/// A device whose buffers are counted apart.
pub(crate) fn opened() -> Option<Cuda> {
    device()
}

/// The kernels' sources, made into a library by a host compiler.
pub(crate) struct Library {
    path: PathBuf,
    handle: usize,
}

impl Library {
    fn devices(&self) -> [Cuda; 2] {
        // SAFETY: made of the kernels' sources.
        [Order::Ascending, Order::Descending].map(|order| unsafe { Cuda::emulated(&self.path, order) }.unwrap())
    }

    pub(crate) fn symbol(&self, name: &CStr) -> *mut c_void {
        // SAFETY: the handle is open and stays so.
        let symbol = unsafe { libc::dlsym(self.handle as *mut c_void, name.as_ptr()) };
        assert!(!symbol.is_null(), "{name:?}");
        symbol
    }

    /// Every barrier and wait that threads have come to in this process.
    fn barriers(&self) -> Vec<(String, i32)> {
        type Barrier = unsafe extern "C" fn(usize, *mut *const c_char) -> c_int;
        // SAFETY: the function of this name.
        let barrier = unsafe { std::mem::transmute::<*mut c_void, Barrier>(self.symbol(c"emulated_barrier")) };
        let mut file = std::ptr::null();
        (0..)
            // SAFETY: as above; the name is valid until the next launch.
            .map(|at| unsafe { (barrier(at, &raw mut file), file) })
            .take_while(|&(line, _)| line > 0)
            // SAFETY: as above.
            .map(|(line, file)| (unsafe { CStr::from_ptr(file) }.to_str().unwrap().to_owned(), line))
            .collect()
    }

    fn leave_out(&self, file: &str, line: i32) {
        type Drop = unsafe extern "C" fn(*const c_char, c_int);
        let file = CString::new(file).unwrap();
        // SAFETY: the function of this name, which copies the string.
        unsafe { std::mem::transmute::<*mut c_void, Drop>(self.symbol(c"emulated_drop"))(file.as_ptr(), line) };
    }
}

/// The library, or none where there is no compiler.
pub(crate) fn library() -> Option<&'static Library> {
    // A source that does not compile is tried once, not by every test.
    static LIBRARY: OnceLock<Result<Option<Library>, String>> = OnceLock::new();
    match LIBRARY.get_or_init(compile) {
        Ok(library) => library.as_ref(),
        Err(error) => panic!("{error}"),
    }
}

fn compile() -> Result<Option<Library>, String> {
    let found = ["c++", "g++"].into_iter().find(|compiler| {
        let silent = Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        silent.is_ok_and(|status| status.success())
    });
    let Some(compiler) = found else {
        println!("skipped: neither c++ nor g++ is installed, so the CUDA kernels are not emulated");
        return Ok(None);
    };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let probes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulation");
    let mut kernels = [files(&sources, "cu"), files(&probes, "cu")].concat();
    kernels.sort();
    let mut all = DefaultHasher::new();
    for file in [&kernels[..], &files(&sources, "cuh"), &files(&sources, "h"), &files(&sources, "cpp")].concat() {
        fs::read(file).unwrap().hash(&mut all);
    }
    // Named by what it is made of, so that it is made once.
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels_{:016x}.so", all.finish()));
    if !path.exists() {
        let begun = path.with_extension(std::process::id().to_string());
        let output = Command::new(compiler)
            .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC", "-shared", "-o"])
            .arg(&begun)
            .arg(sources.join("cuda/emulation.cpp"))
            .args(["-x", "c++"])
            .args(&kernels)
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        fs::rename(&begun, &path).unwrap();
    }
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the library's initialisers put kernels into a list.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "{}", path.display());
    Ok(Some(Library { path, handle: handle as usize }))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|found| found == ending));
    here.chain(folders.iter().flat_map(|folder| self::files(folder, ending))).collect()
}
