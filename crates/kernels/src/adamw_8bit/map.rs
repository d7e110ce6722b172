//! The values that codes of eight bits stand for, and the way back.
use std::sync::LazyLock;

/// Steps of a magnitude in the table of first guesses: 64 an octave from 2⁻²⁴ to 1.
const GUESSES: usize = 24 * 64 + 1;
/// The bits of 2⁻²⁴ in `f32`, without those that a guess does not look at.
const FIRST: u32 = 0x3380_0000 >> 17;

/// 256 sorted numbers.
pub(super) struct Map {
    pub(super) values: [f64; 256],
    /// Half way between neighbours: a number above `bounds[i]` is nearer to what follows value i.
    bounds: [f64; 255],
    /// A code near that of a magnitude, for either sign.
    guesses: [Box<[u8]>; 2],
}

/// The map of means.
pub(super) fn signed() -> &'static Map {
    static MAP: LazyLock<Map> = LazyLock::new(|| Map::dynamic(true));
    &MAP
}

/// The map of mean squares.
pub(super) fn unsigned() -> &'static Map {
    static MAP: LazyLock<Map> = LazyLock::new(|| Map::dynamic(false));
    &MAP
}

impl Map {
    fn dynamic(signed: bool) -> Self {
        let mut values = vec![0.0, 1.0];
        for power in 0..7 {
            let parts = 1 << if signed { power } else { power + 1 };
            for part in 0..parts {
                let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
                let value = middle * 10f64.powi(power - 6);
                values.push(value);
                if signed {
                    values.push(-value);
                }
            }
        }
        values.sort_by(f64::total_cmp);
        let values: [f64; 256] = values.try_into().expect("both maps have 256 values");
        let bounds = std::array::from_fn(|i| (values[i] + values[i + 1]) / 2.0);
        let guess = |sign: f64, step: usize| {
            let magnitude = f32::from_bits((step as u32 + FIRST) << 17);
            bounds.partition_point(|bound| *bound < sign * f64::from(magnitude)) as u8
        };
        let guesses = [1.0, -1.0].map(|sign| (0..GUESSES).map(|step| guess(sign, step)).collect());
        Self { values, bounds, guesses }
    }

    /// The code of the value nearest to a number in [−1, 1]; of two as near, the lesser.
    #[inline]
    pub(super) fn code(&self, number: f64) -> u8 {
        let bits = (number as f32).to_bits();
        let step = (((bits & 0x7fff_ffff) >> 17).max(FIRST) - FIRST).min(GUESSES as u32 - 1);
        let mut code = usize::from(self.guesses[(bits >> 31) as usize][step as usize]);
        while code < 255 && number > self.bounds[code] {
            code += 1;
        }
        while code > 0 && number <= self.bounds[code - 1] {
            code -= 1;
        }
        code as u8
    }
}
