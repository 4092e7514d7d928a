//! Whether a figure stays flat.

use mcpm_bench::table::median;

/// How much the last third may lie above the one in the middle, in percent.
pub(super) const MOST_PERCENT: f64 = 5.0;
/// How many samples it takes to tell.
const FEWEST: usize = 6;

/// What a figure does over time, once all is warm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Trend {
    /// The median of the third in the middle.
    pub(super) middle: f64,
    /// The median of the last third.
    pub(super) last: f64,
    /// The most that it ever was.
    pub(super) most: f64,
    /// By how much it grows in an hour, judged by the second half.
    pub(super) per_hour: f64,
}

impl Trend {
    /// Judges samples: seconds and value, in order. `None` when there are too few.
    pub(super) fn of(samples: &[(f64, f64)]) -> Option<Self> {
        if samples.len() < FEWEST {
            return None;
        }
        let third = samples.len() / 3;
        let (rest, last) = samples.split_at(samples.len() - third);
        let middle = &rest[rest.len() - third..];
        let values = |part: &[(f64, f64)]| part.iter().map(|(_, value)| *value).collect();
        Some(Self {
            middle: median(values(middle)),
            last: median(values(last)),
            most: samples.iter().map(|(_, value)| *value).fold(0.0, f64::max),
            per_hour: slope(&samples[samples.len() / 2..]) * 3600.0,
        })
    }

    /// By how many percent the last third lies above the one in the middle.
    pub(super) fn percent(&self) -> f64 {
        if self.last > self.middle { (self.last / self.middle - 1.0) * 100.0 } else { 0.0 }
    }
}

/// The slope of the line that lies nearest to all points: least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let mean = |of: fn(&(f64, f64)) -> f64| {
        points.iter().map(of).sum::<f64>() / mcpm_bench::outcome::count(points.len())
    };
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut together, mut apart) = (0.0, 0.0);
    for point in points {
        together += (point.0 - x) * (point.1 - y);
        apart += (point.0 - x).powi(2);
    }
    if apart > 0.0 { together / apart } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample each five seconds.
    fn sampled(value: impl Fn(f64) -> f64) -> Trend {
        let seconds = (0..48_u32).map(|at| f64::from(at) * 5.0);
        Trend::of(&seconds.map(|at| (at, value(at))).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_goes_up_and_down_is_flat() {
        let trend = sampled(|at| if (at / 5.0) % 2.0 < 1.0 { 30.0 } else { 34.0 });
        assert!(trend.percent() < MOST_PERCENT, "{trend:?}");
        // Where the last swing ends leaves a little.
        assert!(trend.per_hour.abs() < 20.0, "{trend:?}");
        assert!((trend.most - 34.0).abs() < 1e-9, "{trend:?}");
    }

    #[test]
    fn what_grows_all_the_time_is_not() {
        let trend = sampled(|at| 30.0 + at * 0.05);
        assert!(trend.percent() > MOST_PERCENT, "{trend:?}");
        assert!((trend.per_hour - 180.0).abs() < 1e-6, "{trend:?}");
    }

    #[test]
    fn what_grew_before_the_middle_is_flat_since() {
        let trend = sampled(|at| if at < 75.0 { 10.0 } else { 30.0 });
        assert!(trend.percent().abs() < 1e-9 && trend.per_hour.abs() < 1e-9, "{trend:?}");
    }

    #[test]
    fn what_falls_does_not_grow() {
        let trend = sampled(|at| 30.0 - at * 0.05);
        assert!(trend.percent().abs() < 1e-9 && trend.per_hour < -179.0, "{trend:?}");
    }

    #[test]
    fn a_spike_is_not_a_trend() {
        let trend = sampled(|at| if (at - 230.0).abs() < 0.1 { 90.0 } else { 30.0 });
        assert!(trend.percent().abs() < 1e-9, "{trend:?}");
    }

    #[test]
    fn a_few_samples_tell_nothing() {
        assert_eq!(Trend::of(&[(0.0, 1.0); 5]), None);
    }
}
