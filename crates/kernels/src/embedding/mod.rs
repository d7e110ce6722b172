//! Rows of a table by id.
mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
mod tests;

use crate::{Element, Float, Result, View, ViewMut, Workspace, check};

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
    check_table(op, table_name, table, hidden)?;
    check::length(op, rows_name, rows, &[ids.len(), hidden], "ids × hidden")?;
    check::indices(op, "ids", ids, table / hidden)
}

fn check_table(op: &'static str, name: &'static str, table: usize, hidden: usize) -> Result<()> {
    check::shape(op, hidden > 0, || "hidden is 0, expected at least 1".into())?;
    check::shape(op, table.is_multiple_of(hidden), || {
        format!("{name} has {table} elements, expected whole rows of {hidden}")
    })
}

/// As [`forward`], with ids where the table is.
///
/// On a device ids are not looked at before they are used: a row of an id that is not below V becomes NaN.
///
/// # Errors
/// A length that is not its shape's, an id beyond the table on the CPU, or operands on different devices.
pub fn gather<T: Element>(
    ids: View<'_, u32>,
    table: View<'_, T>,
    y: ViewMut<'_, T>,
    hidden: usize,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "embedding::gather";
    check_table(OP, "table", table.len(), hidden)?;
    check::length(OP, "y", y.len(), &[ids.len(), hidden], "ids × hidden")?;
    if let Some(device) = table.device() {
        return cuda::gather(OP, device, ids, table, y, hidden);
    }
    let ids = ids.host(OP)?;
    check_operands(OP, ids, ("table", table.len()), ("y", y.len()), hidden)?;
    cpu::forward(ids, table.cpu(OP)?, y.cpu(OP)?, hidden, &ws.crew());
    Ok(())
}

/// Rows in buckets of equal ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    /// The ids that there are, ascending, `[B]`.
    pub ids: Vec<u32>,
    /// Where the members of each begin, and the number of all, `[B + 1]`.
    pub starts: Vec<u32>,
    /// The rows of each, in their order, `[N]`.
    pub members: Vec<u32>,
}

/// [`Buckets`] where the operands are.
#[derive(Debug, Clone, Copy)]
pub struct BucketViews<'a> {
    /// See [`Buckets::ids`].
    pub ids: View<'a, u32>,
    /// See [`Buckets::starts`].
    pub starts: View<'a, u32>,
    /// See [`Buckets::members`].
    pub members: View<'a, u32>,
}

impl Buckets {
    /// The buckets of the ids of rows.
    pub fn of(ids: &[u32]) -> Self {
        let mut members: Vec<u32> = (0..ids.len() as u32).collect();
        members.sort_by_key(|&row| ids[row as usize]);
        let id = |place: usize| ids[members[place] as usize];
        let begins = |place: &usize| *place == 0 || id(*place) != id(place - 1);
        let mut starts: Vec<usize> = (0..ids.len()).filter(begins).collect();
        let found = starts.iter().map(|&start| id(start)).collect();
        starts.push(ids.len());
        Self { ids: found, starts: starts.into_iter().map(|start| start as u32).collect(), members }
    }

    /// As operands on the CPU.
    pub fn views(&self) -> BucketViews<'_> {
        BucketViews { ids: (&self.ids).into(), starts: (&self.starts).into(), members: (&self.members).into() }
    }
}

/// The gradient of [`gather`]: `dtable[ids[b]]` += Σ `dy[m]` over the members m of bucket b, in their order.
///
/// `dy` `[N, H]`; `dtable` `[V, H]` accumulates, and rows that no id names are not touched. On a device buckets are not looked at
/// before they are used: ids that are not below V are skipped, and so is what points beyond the members or the rows of `dy`.
///
/// # Errors
/// A length that is not its shape's, buckets that point beyond what there is on the CPU, or operands on different devices.
pub fn scatter<T: Element>(
    buckets: BucketViews<'_>,
    dy: View<'_, T>,
    dtable: ViewMut<'_, T::Wide>,
    hidden: usize,
) -> Result<()> {
    const OP: &str = "embedding::scatter";
    check_table(OP, "dtable", dtable.len(), hidden)?;
    check::length(OP, "dy", dy.len(), &[buckets.members.len(), hidden], "rows × hidden")?;
    check::length(OP, "starts", buckets.starts.len(), &[buckets.ids.len() + 1], "buckets + 1")?;
    if let Some(device) = dy.device() {
        return cuda::scatter(OP, device, buckets, dy, dtable, hidden);
    }
    let (ids, starts, members) = (buckets.ids.host(OP)?, buckets.starts.host(OP)?, buckets.members.host(OP)?);
    let (dy, dtable) = (dy.cpu(OP)?, dtable.cpu(OP)?);
    check::indices(OP, "ids", ids, dtable.len() / hidden)?;
    check::indices(OP, "starts", starts, members.len() + 1)?;
    check::indices(OP, "members", members, dy.len() / hidden)?;
    for (&id, range) in ids.iter().zip(starts.windows(2)) {
        check::shape(OP, range[0] <= range[1], || format!("starts fall from {} to {}", range[0], range[1]))?;
        let to = &mut dtable[id as usize * hidden..][..hidden];
        for &row in &members[range[0] as usize..range[1] as usize] {
            to.iter_mut().zip(&dy[row as usize * hidden..]).for_each(|(to, &dy)| *to += dy);
        }
    }
    Ok(())
}
