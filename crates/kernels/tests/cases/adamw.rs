//! `adamw.cu`, whose bits are those of the CPU.
use candlewick_kernels::adamw::{self, Draws, Groups, Hyper};
use candlewick_kernels::{Cuda, CudaBuffer, Element, Float, Result, View, ViewMut, Workspace};
use half::bf16;

use super::{Case, Sample, Written, numbers};
use crate::harness::{check, sizes};

const HYPER: Hyper = Hyper { lr: 3e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
const SEED: u64 = 0x1234_5678_9abc_def0;

/// Two steps of `len` parameters, of which the first `from` have no part.
#[derive(Debug, Clone)]
struct Setting {
    len: usize,
    from: usize,
    /// Ends, counted from where the part begins, and factors of rate and decay.
    groups: Option<[Vec<f64>; 3]>,
    hyper: Hyper,
    clip: [f64; 3],
    with_copy: bool,
}

impl Setting {
    fn new(len: usize, from: usize) -> Self {
        Self { len, from, groups: None, hyper: HYPER, clip: [2.0, 0.37, 1.0], with_copy: true }
    }
}

/// Elements on the CPU, or on a device.
enum Operand<T> {
    Cpu(Vec<T>),
    Cuda(CudaBuffer<T>),
}

impl<T: Element> Operand<T> {
    fn new(device: Option<&Cuda>, elements: Vec<T>) -> Result<Self> {
        Ok(match device {
            Some(cuda) => Self::Cuda(cuda.upload(&elements)?),
            None => Self::Cpu(elements),
        })
    }
}

impl<T> Operand<T> {
    fn view(&self) -> View<'_, T> {
        match self {
            Self::Cpu(elements) => elements.into(),
            Self::Cuda(buffer) => buffer.view(),
        }
    }

    /// All elements from `from` on.
    fn part(&mut self, from: usize) -> Result<ViewMut<'_, T>> {
        let all: ViewMut<'_, T> = match self {
            Self::Cpu(elements) => elements.into(),
            Self::Cuda(buffer) => buffer.view_mut(),
        };
        let len = all.len();
        all.part(from..len)
    }
}

impl<T: Sample> Operand<T> {
    /// The elements, of which not a bit may differ.
    fn written(&self, name: &'static str) -> Result<Written> {
        let elements = match self {
            Self::Cpu(elements) => elements.clone(),
            Self::Cuda(buffer) => buffer.download()?,
        };
        Ok(Written { bound: 0.0, ..Written::new(name, &elements) })
    }
}

/// [`Groups`] where the operands are.
struct OwnedGroups {
    ends: Operand<u64>,
    lr: Operand<f64>,
    weight_decay: Operand<f64>,
}

impl OwnedGroups {
    fn new(device: Option<&Cuda>, [ends, lr, weight_decay]: [Vec<f64>; 3]) -> Result<Self> {
        let ends: Vec<u64> = ends.into_iter().map(|end| end as u64).collect();
        let ends = match device {
            Some(cuda) => Operand::Cuda(cuda.upload(&ends)?),
            None => Operand::Cpu(ends),
        };
        Ok(Self { ends, lr: Operand::new(device, lr)?, weight_decay: Operand::new(device, weight_decay)? })
    }

    fn views(&self) -> Groups<'_> {
        Groups { ends: self.ends.view(), lr: self.lr.view(), weight_decay: self.weight_decay.view() }
    }
}

fn squares<T: Sample>(len: usize) -> Vec<T> {
    numbers::<T>(3, len).into_iter().map(|v| T::of(v.value() * v.value())).collect()
}

fn with_masters<T: Sample + Float>(device: Option<&Cuda>, setting: Setting) -> Result<Vec<Written>> {
    let Setting { len, from, groups, hyper, clip, with_copy } = setting;
    let [mut params, mut m] = [Operand::new(device, numbers::<T>(1, len))?, Operand::new(device, numbers(2, len))?];
    let (mut v, mut copy) = (Operand::new(device, squares::<T>(len))?, Operand::new(device, numbers::<bf16>(6, len))?);
    let clip = Operand::new(device, clip.to_vec())?;
    let groups = groups.map(|groups| OwnedGroups::new(device, groups)).transpose()?;
    for step in 1..=2 {
        let grads = Operand::new(device, numbers::<T>(3 + step, len))?;
        let (p, g, m, v) = (params.part(from)?, grads.view().part(from..len)?, m.part(from)?, v.part(from)?);
        let (copy, groups) = (with_copy.then(|| copy.part(from)).transpose()?, groups.as_ref().map(OwnedGroups::views));
        adamw::step_clipped(p, g, m, v, copy, clip.view(), step, hyper, groups, &mut Workspace::new(1))?;
    }
    Ok(vec![params.written("params")?, m.written("m")?, v.written("v")?, copy.written("copy")?])
}

fn in_bf16(device: Option<&Cuda>, setting: Setting) -> Result<Vec<Written>> {
    let Setting { len, from, groups, hyper, clip, .. } = setting;
    let [mut m, mut v] = [Operand::new(device, numbers::<f32>(2, len))?, Operand::new(device, squares(len))?];
    let (mut params, clip) = (Operand::new(device, numbers::<bf16>(1, len))?, Operand::new(device, clip.to_vec())?);
    let groups = groups.map(|groups| OwnedGroups::new(device, groups)).transpose()?;
    for step in 1..=2 {
        let grads = Operand::new(device, numbers::<f32>(3 + step, len))?;
        let (p, g, m, v) = (params.part(from)?, grads.view().part(from..len)?, m.part(from)?, v.part(from)?);
        let groups = groups.as_ref().map(OwnedGroups::views);
        adamw::step_bf16(p, g, m, v, clip.view(), Draws { seed: SEED, step }, hyper, groups, &mut Workspace::new(1))?;
    }
    Ok(vec![params.written("params")?, m.written("m")?, v.written("v")?])
}

type Steps = fn(Option<&Cuda>, Setting) -> Result<Vec<Written>>;

fn check_all(setting: &Setting) {
    let kinds: [(&str, Steps); 3] = [("f32", with_masters::<f32>), ("f64", with_masters::<f64>), ("bf16", in_bf16)];
    check(&kinds.map(|(name, steps)| {
        let on_cpu = steps(None, setting.clone()).unwrap();
        let setting = setting.clone();
        Case {
            name: format!("adamw {name} {setting:?}"),
            expected: on_cpu.into_iter().map(|written| written.values).collect(),
            run: Box::new(move |cuda| steps(Some(cuda), setting.clone())),
        }
    }));
}

#[test]
fn steps_have_the_bits_of_the_cpu() {
    for len in sizes(&[1, 3, 4, 1031, 5000], &[1 << 20, 3_000_001]) {
        for from in [0, 1] {
            check_all(&Setting::new(len, from.min(len - 1)));
        }
    }
    // The other end to interpolate from, no copy, no clip.
    let hyper = Hyper { beta1: 0.3, weight_decay: 0.0, ..HYPER };
    check_all(&Setting { hyper, with_copy: false, clip: [1.0; 3], ..Setting::new(1031, 0) });
    check_all(&Setting::new(0, 0));
}

#[test]
fn groups_have_the_bits_of_the_cpu() {
    // Ends within a thread's four elements, empty groups, and one that has most.
    let ends = vec![1.0, 3.0, 3.0, 8.0, 2000.0, 2000.0, 2050.0];
    let groups = Some([ends, vec![1.0, 16.0, 1.0, 0.5, 1.0, 9.0, 2.0], vec![0.0, 1.0, 0.0, 1.0, 1.0, 9.0, 0.0]]);
    check_all(&Setting { groups: groups.clone(), ..Setting::new(2050, 0) });
    check_all(&Setting { groups, ..Setting::new(2053, 3) });
    check_all(&Setting { groups: Some([vec![77.0], vec![3.0], vec![0.0]]), ..Setting::new(77, 0) });
}

/// A step of parameters in bf16 that are infinite, no numbers, or grow beyond the largest: their bits.
fn at_the_end_of_bf16(device: Option<&Cuda>) -> Result<Vec<Written>> {
    let params = [bf16::INFINITY, bf16::NEG_INFINITY, bf16::NAN, bf16::MAX, bf16::MIN, bf16::ZERO];
    let mut params = Operand::new(device, params.to_vec())?;
    let [grads, mut m, mut v] = [
        Operand::new(device, vec![0.0f32; 6])?,
        Operand::new(device, vec![0.0; 6])?,
        Operand::new(device, vec![0.0; 6])?,
    ];
    let (clip, hyper) = (Operand::new(device, vec![1.0; 3])?, Hyper { weight_decay: -0.1, ..HYPER });
    let (p, m, v, draws) = (params.part(0)?, m.part(0)?, v.part(0)?, Draws { seed: SEED, step: 1 });
    adamw::step_bf16(p, grads.view(), m, v, clip.view(), draws, hyper, None, &mut Workspace::new(1))?;
    let params = match params {
        Operand::Cpu(params) => params,
        Operand::Cuda(params) => params.download()?,
    };
    let values = params.into_iter().map(|p| f64::from(p.to_bits())).collect();
    Ok(vec![Written { name: "params", values, bound: 0.0 }])
}

#[test]
fn what_is_not_finite_stays_so_and_nothing_else_becomes_so() {
    let on_cpu = at_the_end_of_bf16(None).unwrap().remove(0).values;
    assert_eq!(on_cpu, [0x7f80, 0xff80, 0x7fff, 0x7f7f, 0xff7f, 0].map(f64::from));
    let run = Box::new(|cuda: &Cuda| at_the_end_of_bf16(Some(cuda)));
    check(&[Case { name: "adamw at the end of bf16".to_owned(), run, expected: vec![on_cpu] }]);
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing() {
    let setting = Setting { clip: [f64::NAN, 0.0, 0.0], ..Setting::new(1031, 0) };
    check_all(&setting);
    // And what it is compared with is what there was.
    let kept = with_masters::<f32>(None, setting).unwrap();
    assert_eq!(kept[0], Operand::Cpu(numbers::<f32>(1, 1031)).written("params").unwrap());
    assert_eq!(kept[3], Operand::Cpu(numbers::<bf16>(6, 1031)).written("copy").unwrap());
}
