use candle_core::Tensor;

use super::*;
use crate::Error;
use crate::testing::*;

const IDS: [u32; 6] = [2, 0, 2, 4, 2, 0];
const HIDDEN: usize = 3;

fn gathered<T: Float>(table: &[f64], threads: usize) -> Vec<T> {
    let mut y = vec![T::from_f64(f64::NAN); IDS.len() * HIDDEN];
    let table = cast::<T>(table);
    forward(&IDS, (&table).into(), (&mut y).into(), HIDDEN, &mut Workspace::new(threads)).unwrap();
    y
}

#[test]
fn the_gradient_is_that_of_autograd_and_of_differences() {
    let (table, c) = (numbers(1, 15), numbers(2, 18));
    let v = var(&table, &[5, 3]);
    let y = v.index_select(&Tensor::new(&IDS, v.device()).unwrap(), 0).unwrap();
    assert_eq!(gathered::<f64>(&table, 1), elements(&y));
    let mut d = vec![0.0; 15];
    backward(&IDS, (&c).into(), (&mut d).into(), HIDDEN, &mut Workspace::new(1)).unwrap();
    assert_near(&d, &autograd(&y, &c, &[&v])[0], 1e-15, "dtable");
    let loss = |table: &[f64]| weighted(&gathered::<f64>(table, 1), &c);
    assert_near(&d, &central_differences(&table, loss), 1e-8, "dtable by differences");
    backward(&IDS, (&c).into(), (&mut d).into(), HIDDEN, &mut Workspace::new(1)).unwrap();
    let doubled: Vec<f64> = autograd(&y, &c, &[&v])[0].iter().map(|v| 2.0 * v).collect();
    assert_near(&d, &doubled, 1e-15, "accumulated");
}

#[test]
fn threads_do_not_change_a_bit() {
    let (rows, hidden, vocab) = (3_000, 64, 17);
    let ids: Vec<u32> = (0..rows).map(|i| (i * i % vocab) as u32).collect();
    let dy = cast::<f32>(&numbers(1, rows * hidden));
    let sums = |threads| {
        let mut d = vec![0.0f32; vocab * hidden];
        backward(&ids, (&dy).into(), (&mut d).into(), hidden, &mut Workspace::new(threads)).unwrap();
        d
    };
    let mut exact = vec![0.0f64; vocab * hidden];
    for (row, &id) in ids.iter().enumerate() {
        for h in 0..hidden {
            exact[id as usize * hidden + h] += f64::from(dy[row * hidden + h]);
        }
    }
    assert_near(&sums(1), &exact, 1e-5, "dtable in f32");
    assert_eq!(sums(1), sums(2));
    assert_eq!(gathered::<f32>(&numbers(1, 15), 1), gathered::<f32>(&numbers(1, 15), 2));
}

#[test]
fn what_does_not_fit_is_refused_and_no_ids_are_fine() {
    let mut ws = Workspace::new(1);
    let table = vec![0.0f32; 12];
    let mut y = vec![0.0f32; 18];
    let beyond = forward(&IDS, (&table).into(), (&mut y).into(), HIDDEN, &mut ws).unwrap_err();
    assert_eq!(beyond, Error::Index { op: "embedding::forward", operand: "ids", position: 3, got: 4, limit: 4 });
    assert!(matches!(forward(&[0], (&table[1..]).into(), (&mut y[..3]).into(), 3, &mut ws), Err(Error::Shape { .. })));
    assert_length(forward(&[0], (&table).into(), (&mut y[..4]).into(), 3, &mut ws), "y");
    assert_length(backward(&[0], (&y).into(), (&mut vec![0.0f32; 12]).into(), 3, &mut ws), "dy");
    assert_no_kernel(backward(&IDS, (&y).into(), ViewMut::elsewhere(15), 3, &mut ws));
    forward(&[], (&table).into(), (&mut vec![]).into(), HIDDEN, &mut ws).unwrap();
}
