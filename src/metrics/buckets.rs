//! Where histograms draw their lines. A line more is a series more for each value of each label.

use prometheus_client::metrics::histogram::Histogram;

/// Work of ours: from a tenth of a millisecond to ten seconds.
pub(super) fn work() -> Histogram {
    Histogram::new([
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

/// Answers of receivers: from a few milliseconds to the longest timeout.
pub(super) fn answers() -> Histogram {
    Histogram::new([0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0])
}

/// From acceptance on: from a millisecond to three days of retries.
pub(super) fn waits() -> Histogram {
    Histogram::new([
        0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0,
        259_200.0,
    ])
}

/// Events that are committed together.
pub(super) fn groups() -> Histogram {
    Histogram::new([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1000.0])
}
