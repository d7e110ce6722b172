//! Rotary frequencies of a configuration.
use std::f64::consts::PI;
use std::sync::{Arc, Mutex, PoisonError};

use candlewick_kernels::rope::Tables;
use candlewick_kernels::{Cuda, CudaBuffer, Float, View};

use crate::error::Result;

use crate::config::{Config, RopeScaling};

/// Inverse frequencies `[head_dim / 2]` and the scale of their cosines and sines.
pub(crate) fn frequencies(config: &Config) -> (Vec<f64>, f64) {
    let half = config.head_dim / 2;
    let base: Vec<f64> =
        (0..half).map(|i| config.rope_theta.powf(-(2.0 * i as f64) / config.head_dim as f64)).collect();
    match config.rope_scaling {
        RopeScaling::Default => (base, 1.0),
        RopeScaling::Linear { factor } => (base.iter().map(|f| f / factor).collect(), 1.0),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let original = original_max_position_embeddings as f64;
            let stretch = |f: f64| {
                let turns = original * f / (2.0 * PI);
                // 0 for a low frequency, 1 for a high one, a ramp in between.
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                f * (kept + (1.0 - kept) / factor)
            };
            (base.into_iter().map(stretch).collect(), 1.0)
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_max_position_embeddings,
            attention_factor,
            truncate,
        } => {
            let original = original_max_position_embeddings as f64;
            // The dimension whose frequency makes that many turns over the original context.
            let dimension = |turns: f64| {
                config.head_dim as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * config.rope_theta.ln())
            };
            let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, high) = (low.max(0.0), high.min((config.head_dim - 1) as f64));
            let width = (high - low).max(1e-3);
            let stretch = |(i, f): (usize, f64)| {
                let interpolated = ((i as f64 - low) / width).clamp(0.0, 1.0);
                f * (interpolated / factor + (1.0 - interpolated))
            };
            (base.into_iter().enumerate().map(stretch).collect(), attention_factor)
        }
    }
}

/// Cosines and sines, made when first needed and grown when a longer text comes.
pub(crate) struct RopeCache<T> {
    inverse: Vec<f64>,
    scale: f64,
    tables: Mutex<Rotations<T>>,
}

/// Cosines and sines `[positions, head_dim / 2]`, on the host and perhaps on a device.
pub(crate) struct Rotations<T> {
    host: Arc<Tables<T>>,
    copies: Option<Arc<[CudaBuffer<T>; 2]>>,
}

impl<T> Clone for Rotations<T> {
    fn clone(&self) -> Self {
        Self { host: Arc::clone(&self.host), copies: self.copies.clone() }
    }
}

impl<T> Rotations<T> {
    /// Cosines and sines where they were asked for.
    pub(crate) fn views(&self) -> [View<'_, T>; 2] {
        match &self.copies {
            Some(copies) => [copies[0].view(), copies[1].view()],
            None => [(&self.host.cos).into(), (&self.host.sin).into()],
        }
    }
}

impl<T: Float> RopeCache<T> {
    pub(crate) fn new(config: &Config) -> Self {
        let (inverse, scale) = frequencies(config);
        let tables = Mutex::new(Rotations { host: Arc::new(Tables::new(&inverse, 0)), copies: None });
        Self { inverse, scale, tables }
    }

    /// Tables of at least `positions` rows, on `device` or on the host.
    pub(crate) fn tables(&self, positions: usize, device: Option<&Cuda>) -> Result<Rotations<T>> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let half = self.inverse.len();
        if tables.host.cos.len() < positions * half {
            let mut grown = Tables::new(&self.inverse, positions.next_power_of_two());
            if self.scale.to_bits() != 1f64.to_bits() {
                let scale = T::from_f64(self.scale);
                grown.cos.iter_mut().chain(&mut grown.sin).for_each(|x| *x *= scale);
            }
            *tables = Rotations { host: Arc::new(grown), copies: None };
        }
        let Some(device) = device else { return Ok(Rotations { host: Arc::clone(&tables.host), copies: None }) };
        if tables.copies.is_none() {
            let Tables { cos, sin, .. } = &*tables.host;
            tables.copies = Some(Arc::new([device.upload(cos)?, device.upload(sin)?]));
        }
        Ok(tables.clone())
    }
}

impl<T> std::fmt::Debug for RopeCache<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RopeCache").field("frequencies", &self.inverse.len()).finish_non_exhaustive()
    }
}

impl<T> Clone for RopeCache<T> {
    fn clone(&self) -> Self {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        Self { inverse: self.inverse.clone(), scale: self.scale, tables: Mutex::new(tables.clone()) }
    }
}
