//! Whether a figure grows.

use std::fmt;

use serde::Serialize;

/// A rise of less than this share of the mean is none.
const SHARE: f64 = 0.03;
/// How much of the figure's movement a straight line must explain before it counts as growth.
const EXPLAINED: f64 = 0.5;
const FEWEST: usize = 4;

/// What became of a figure over the second half of its samples.
#[derive(Debug, PartialEq, Serialize)]
pub struct Trend {
    measure: String,
    mean: f64,
    /// From the first to the last sample, along the straight line that fits best.
    rise: f64,
    /// The share of the figure's variance that this line explains.
    explained: f64,
    grows: bool,
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.grows { "GROWS" } else { "steady" };
        write!(
            f,
            "{}: {verdict} in the second half (mean {:.1}, {:+.1} over it, of which a line explains {:.0} %)",
            self.measure,
            self.mean,
            self.rise,
            self.explained * 100.0
        )
    }
}

/// The trend of evenly spaced samples, of which a rise below `none` is none; nothing if there are too few.
pub fn trend(measure: &str, samples: &[f64], none: f64) -> Option<Trend> {
    let half = &samples[samples.len() / 2..];
    if half.len() < FEWEST {
        return None;
    }
    let numbered = || (0_u32..).map(f64::from).zip(half.iter().copied());
    let count = f64::from(u32::try_from(half.len()).ok()?);
    let middle = (count - 1.0) / 2.0;
    let mean = half.iter().sum::<f64>() / count;
    let sum = |term: fn(f64, f64) -> f64| -> f64 {
        numbered().map(|(x, y)| term(x - middle, y - mean)).sum()
    };
    let (xx, xy, yy) = (sum(|x, _| x * x), sum(|x, y| x * y), sum(|_, y| y * y));
    let rise = xy / xx * (count - 1.0);
    let explained = if yy > 0.0 { xy * xy / (xx * yy) } else { 0.0 };
    Some(Trend {
        measure: measure.to_owned(),
        mean,
        rise,
        explained,
        grows: rise > none.max(mean * SHARE) && explained > EXPLAINED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grows(samples: &[f64]) -> Option<bool> {
        trend("it", samples, 1.0).map(|trend| trend.grows)
    }

    #[test]
    fn only_a_steady_rise_of_the_second_half_is_growth() {
        let steady = [10.0, 80.0, 99.0, 100.0, 100.5, 99.5, 100.2, 100.0];
        let rising = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0];
        let jumping = [0.0, 0.0, 0.0, 0.0, 100.0, 180.0, 90.0, 140.0];
        let falling = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0];

        assert_eq!(grows(&steady), Some(false));
        assert_eq!(grows(&rising), Some(true));
        assert_eq!(grows(&jumping), Some(false));
        assert_eq!(grows(&falling), Some(false));
        assert_eq!(grows(&[5.0; 8]), Some(false));
        assert_eq!(grows(&[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn a_trend_is_told_in_a_sentence() {
        let samples = [0.0, 0.0, 0.0, 0.0, 10.0, 12.0, 14.0, 16.0];
        let trend = trend("threads", &samples, 2.0).unwrap();

        assert_eq!(
            trend.to_string(),
            "threads: GROWS in the second half (mean 13.0, +6.0 over it, of which a line explains 100 %)"
        );
    }
}
