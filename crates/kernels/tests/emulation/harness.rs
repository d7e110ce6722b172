//! The library of emulated kernels, which runs the cases in both orders of threads.
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock};

use candlewick_kernels::{Cuda, Order};
use candlewick_testkit::emulated_kernels;

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
    let probes = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulation")).unwrap();
    let probes = probes.map(|entry| entry.unwrap().path());
    let probes: Vec<_> = probes.filter(|path| path.extension().is_some_and(|ending| ending == "cu")).collect();
    let Some(path) = emulated_kernels(Path::new(env!("CARGO_TARGET_TMPDIR")), &probes)? else { return Ok(None) };
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the library's initialisers put kernels into a list.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "{}", path.display());
    Ok(Some(Library { path, handle: handle as usize }))
}
