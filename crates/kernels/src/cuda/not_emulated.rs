//! Stands for the emulated device on systems where kernels are not emulated: there is none.
use std::path::Path;

use super::product::Product;
use super::{Grid, Order, Properties};
use crate::{Error, Result};

#[derive(Debug)]
pub(super) enum Driver {}

impl Driver {
    pub(super) fn new(library: &Path, order: Order) -> Result<Self> {
        let reason = format!("{} ({order:?}): kernels are emulated on Unix alone", library.display());
        Err(Error::NoDevice { reason })
    }

    pub(super) fn alloc(&self, _op: &'static str, _bytes: usize) -> Result<Option<u64>> {
        match *self {}
    }

    pub(super) fn free(&self, _address: u64) {
        match *self {}
    }

    pub(super) fn write(&self, _op: &'static str, _address: u64, _bytes: &[u8]) -> Result<()> {
        match *self {}
    }

    pub(super) fn read(&self, _op: &'static str, _address: u64, _bytes: &mut [u8]) -> Result<()> {
        match *self {}
    }

    pub(super) fn zero(&self, _op: &'static str, _address: u64, _bytes: usize) -> Result<()> {
        match *self {}
    }

    pub(super) fn copy(&self, _op: &'static str, _from: u64, _to: u64, _bytes: usize) -> Result<()> {
        match *self {}
    }

    pub(super) fn multiply(&self, _op: &'static str, _product: &Product) -> Result<bool> {
        match *self {}
    }

    pub(super) fn time(&self, _op: &'static str, _work: impl FnOnce() -> Result<()>) -> Result<f64> {
        match *self {}
    }

    pub(super) fn properties(&self, _op: &'static str) -> Result<Properties> {
        match *self {}
    }

    pub(super) fn memory(&self, _op: &'static str) -> Result<(usize, usize)> {
        match *self {}
    }

    pub(super) fn synchronize(&self, _op: &'static str) -> Result<()> {
        match *self {}
    }

    pub(super) fn launch(
        &self,
        _op: &'static str,
        _kernel: &str,
        _grid: Grid,
        _words: &mut [*mut std::ffi::c_void],
    ) -> Result<()> {
        match *self {}
    }
}
