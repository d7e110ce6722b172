//! `lion.cu`, `rmsprop.cu` and `schedule_free.cu`, whose bits are those of the CPU.
use candlewick_kernels::{Buffer, Cuda, Float, Groups, Result, Workspace, lion, rmsprop, schedule_free};

use super::{Case, Sample, Written, numbers};
use crate::harness::{check, sizes};

/// Two steps of `len` parameters, of which the first `from` have no part.
#[derive(Debug, Clone)]
struct Setting {
    len: usize,
    from: usize,
    /// Ends, counted from where the part begins, and factors of rate and decay.
    groups: Option<[Vec<f64>; 3]>,
}

/// What an optimizer works on, on the host or on a device.
struct Operands<'a> {
    device: Option<&'a Cuda>,
    setting: &'a Setting,
    ends: Buffer<u64>,
    factors: [Buffer<f64>; 2],
}

impl<'a> Operands<'a> {
    fn new(device: Option<&'a Cuda>, setting: &'a Setting) -> Result<Self> {
        let [ends, lr, weight_decay] = setting.groups.clone().unwrap_or_default();
        let ends: Vec<u64> = ends.into_iter().map(|end| end as u64).collect();
        let ends = device.map_or_else(|| Ok(ends.clone().into()), |device| Buffer::upload(&ends, device))?;
        let factors = [Self::place(device, lr)?, Self::place(device, weight_decay)?];
        Ok(Self { device, setting, ends, factors })
    }

    fn place<T: Sample>(device: Option<&Cuda>, elements: Vec<T>) -> Result<Buffer<T>> {
        device.map_or_else(|| Ok(elements.clone().into()), |device| Buffer::upload(&elements, device))
    }

    fn numbers<T: Sample>(&self, seed: u64) -> Result<Buffer<T>> {
        Self::place(self.device, numbers(seed, self.setting.len))
    }

    /// What a mean of squares can be.
    fn squares<T: Sample>(&self, seed: u64) -> Result<Buffer<T>> {
        let squared = |x: T| T::of(x.value() * x.value());
        Self::place(self.device, numbers::<T>(seed, self.setting.len).into_iter().map(squared).collect())
    }

    fn groups(&self) -> Option<Groups<'_>> {
        let [lr, weight_decay] = self.factors.each_ref().map(Buffer::view);
        self.setting.groups.as_ref().map(|_| Groups { ends: self.ends.view(), lr, weight_decay })
    }
}

/// The elements, of which not a bit may differ.
fn written<T: Sample>(name: &'static str, buffer: &Buffer<T>) -> Result<Written> {
    Ok(Written { bound: 0.0, ..Written::new(name, &buffer.to_host()?) })
}

fn lion<T: Sample + Float>(device: Option<&Cuda>, setting: &Setting) -> Result<Vec<Written>> {
    let (of, part) = (Operands::new(device, setting)?, setting.from..setting.len);
    let (mut params, mut m) = (of.numbers::<T>(1)?, of.numbers(2)?);
    let hyper = lion::Hyper { lr: 3e-2, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };
    for seed in [3, 4] {
        let grads = of.numbers(seed)?;
        let (p, g) = (params.view_mut().part(part.clone())?, grads.view().part(part.clone())?);
        let m = m.view_mut().part(part.clone())?;
        lion::step(p, g, m, 0.37, hyper, of.groups(), &mut Workspace::new(1))?;
    }
    Ok(vec![written("params", &params)?, written("m", &m)?])
}

fn rmsprop<T: Sample + Float, const CENTRED: bool, const MOMENTUM: bool>(
    device: Option<&Cuda>,
    setting: &Setting,
) -> Result<Vec<Written>> {
    let (of, part) = (Operands::new(device, setting)?, setting.from..setting.len);
    let (mut params, mut mean_square) = (of.numbers::<T>(1)?, of.squares(2)?);
    let (mut mean, mut velocity) = (of.numbers::<T>(5)?, of.numbers::<T>(6)?);
    let hyper = rmsprop::Hyper { lr: 3e-2, alpha: 0.9, eps: 1e-8, weight_decay: 0.1, momentum: 0.8 };
    for seed in [3, 4] {
        let grads = of.numbers(seed)?;
        let (p, g) = (params.view_mut().part(part.clone())?, grads.view().part(part.clone())?);
        let state = rmsprop::State {
            mean_square: mean_square.view_mut().part(part.clone())?,
            mean: CENTRED.then(|| mean.view_mut().part(part.clone())).transpose()?,
            velocity: MOMENTUM.then(|| velocity.view_mut().part(part.clone())).transpose()?,
        };
        rmsprop::step(p, g, state, 0.37, hyper, of.groups(), &mut Workspace::new(1))?;
    }
    Ok(vec![
        written("params", &params)?,
        written("mean_square", &mean_square)?,
        written("mean", &mean)?,
        written("velocity", &velocity)?,
    ])
}

fn schedule_free<T: Sample + Float>(device: Option<&Cuda>, setting: &Setting) -> Result<Vec<Written>> {
    let (of, part) = (Operands::new(device, setting)?, setting.from..setting.len);
    let (mut params, mut kept, mut z) = (of.numbers::<T>(1)?, of.numbers(2)?, of.numbers(5)?);
    let (mut v, mut ws) = (of.squares(6)?, Workspace::new(1));
    let mut taken = Vec::new();
    for step in 1..=2 {
        let grads = of.numbers(6 + step)?;
        let (p, x) = (params.view_mut().part(part.clone())?, kept.view_mut().part(part.clone())?);
        schedule_free::begin(p, x, z.view().part(part.clone())?, 0.9, &mut ws)?;
        taken.push(written("y", &params)?);
        let (p, g) = (params.view_mut().part(part.clone())?, grads.view().part(part.clone())?);
        let (x, z) = (kept.view().part(part.clone())?, z.view_mut().part(part.clone())?);
        let (v, share) = (v.view_mut().part(part.clone())?, 1.0 / step as f64);
        let hyper = schedule_free::Hyper { lr: 3e-2, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, share };
        schedule_free::step(p, g, x, z, v, step, 0.37, hyper, of.groups(), &mut ws)?;
    }
    taken.extend([written("params", &params)?, written("kept", &kept)?, written("z", &z)?, written("v", &v)?]);
    Ok(taken)
}

type Steps = fn(Option<&Cuda>, &Setting) -> Result<Vec<Written>>;

const KINDS: [(&str, Steps); 8] = [
    ("lion, f32", lion::<f32>),
    ("lion, f64", lion::<f64>),
    ("rmsprop, f32", rmsprop::<f32, false, false>),
    ("rmsprop, f64", rmsprop::<f64, true, false>),
    ("rmsprop with momentum, f32", rmsprop::<f32, true, true>),
    ("rmsprop with momentum, f64", rmsprop::<f64, false, true>),
    ("schedule-free, f32", schedule_free::<f32>),
    ("schedule-free, f64", schedule_free::<f64>),
];

fn check_all(setting: &Setting) {
    check(&KINDS.map(|(name, steps)| {
        let (on_cpu, setting) = (steps(None, setting).unwrap(), setting.clone());
        Case {
            name: format!("{name}: {setting:?}"),
            expected: on_cpu.into_iter().map(|written| written.values).collect(),
            run: Box::new(move |cuda| steps(Some(cuda), &setting)),
        }
    }));
}

#[test]
fn other_optimizers_have_the_bits_of_the_cpu() {
    for len in sizes(&[1, 3, 4, 1031, 2000], &[1 << 20, 3_000_001]) {
        for from in [0, 1] {
            check_all(&Setting { len, from: from.min(len - 1), groups: None });
        }
    }
    check_all(&Setting { len: 0, from: 0, groups: None });
}

#[test]
fn groups_of_other_optimizers_have_the_bits_of_the_cpu() {
    // Ends within a thread's four elements, empty groups, and one that has most.
    let ends = vec![1.0, 3.0, 3.0, 8.0, 2000.0, 2000.0, 2050.0];
    let groups = Some([ends, vec![1.0, 16.0, 1.0, 0.5, 1.0, 9.0, 2.0], vec![0.0, 1.0, 0.0, 1.0, 1.0, 9.0, 0.0]]);
    check_all(&Setting { len: 2050, from: 0, groups: groups.clone() });
    check_all(&Setting { len: 2053, from: 3, groups });
}
