//! Rows of a table by id.
mod cpu;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, Workspace, check};

/// `y[i] = table[ids[i]]`.
///
/// `ids` `[N]`, `table` `[V, H]`, `y` `[N, H]`; `hidden` is H.
///
/// # Errors
/// A length that does not fit, an id that is not in the table, operands that are not on the CPU.
pub fn forward<T: Float>(
    ids: &[u32],
    table: View<'_, T>,
    y: ViewMut<'_, T>,
    hidden: usize,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "embedding::forward";
    check_operands(OP, ids, ("table", table.len()), ("y", y.len()), hidden)?;
    cpu::forward(ids, table.cpu(OP)?, y.cpu(OP)?, hidden, &ws.crew());
    Ok(())
}

/// The gradient of [`forward`]: `dtable[ids[i]] += dy[i]`, in the order of i.
///
/// `ids` `[N]`, `dy` `[N, H]`, `dtable` `[V, H]` accumulates; `hidden` is H. Rows of ids that do not occur are not
/// touched.
///
/// # Errors
/// A length that does not fit, an id that is not in the table, operands that are not on the CPU.
pub fn backward<T: Float>(
    ids: &[u32],
    dy: View<'_, T>,
    dtable: ViewMut<'_, T>,
    hidden: usize,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "embedding::backward";
    check_operands(OP, ids, ("dtable", dtable.len()), ("dy", dy.len()), hidden)?;
    cpu::backward(ids, dy.cpu(OP)?, dtable.cpu(OP)?, hidden, &ws.crew());
    Ok(())
}

fn check_operands(
    op: &'static str,
    ids: &[u32],
    (table_name, table): (&'static str, usize),
    (rows_name, rows): (&'static str, usize),
    hidden: usize,
) -> Result<()> {
    check::shape(op, hidden > 0, || "hidden is 0, expected at least 1".into())?;
    check::shape(op, table % hidden == 0, || {
        format!("{table_name} has {table} elements, expected whole rows of {hidden}")
    })?;
    check::length(op, rows_name, rows, &[ids.len(), hidden], "ids × hidden")?;
    check::indices(op, "ids", ids, table / hidden)
}
