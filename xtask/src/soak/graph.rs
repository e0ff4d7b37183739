//! The graph of a soak: small charts above one another with one time axis, as an SVG that is legible on light and dark pages.

use std::fmt::Write as _;

use super::Sample;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 172.0;
const RIGHT: f64 = 100.0;
/// The least distance between two lines of text.
const LINE: f64 = 15.0;
const CHART: f64 = 74.0;
const GAP: f64 = 26.0;
const TOP: f64 = 56.0;

/// A chart: its title, its unit, and its lines with their names.
type Chart = (&'static str, &'static str, &'static [(&'static str, fn(&Sample) -> f64)]);

const CHARTS: &[Chart] = &[
    ("Calls", "per second", &[("", |s| s.rate)]),
    ("Latency", "ms", &[("p99", |s| s.p99_ms), ("p50", |s| s.p50_ms)]),
    ("Resident memory", "MB", &[("", |s| s.resident_mb)]),
    ("Processor", "% of one core", &[("", |s| s.cpu_percent)]),
    ("Descriptors, tasks", "number", &[("tasks", |s| s.tasks), ("files", |s| s.descriptors)]),
    ("Data on disk", "MB", &[("", |s| s.data_mb)]),
];

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.dim{fill:#57606a;font-size:11px}.grid{stroke:#d0d7de;stroke-width:1}\
.a{fill:none;stroke:#0969da;stroke-width:1.6}.b{fill:none;stroke:#bc4c00;stroke-width:1.6}.ta{fill:#0969da}.tb{fill:#bc4c00}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9198a1}.grid{stroke:#3d444d}\
.a{stroke:#4493f8}.b{stroke:#f0883e}.ta{fill:#4493f8}.tb{fill:#f0883e}}";

/// Draws all charts.
pub fn draw(samples: &[Sample], rate: f64, minutes: f64) -> String {
    let height = TOP + CHARTS.len() as f64 * (CHART + GAP) + 20.0;
    let end = samples.last().map_or(1.0, |sample| sample.seconds).max(1.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"A node under {rate:.0} calls a second for {minutes} minutes\">\n<style>{STYLE}</style>\n\
         <text x=\"16\" y=\"26\" font-weight=\"600\">A node under {rate:.0} governed calls a second, for {minutes} minutes</text>\n"
    );
    for (number, chart) in CHARTS.iter().enumerate() {
        let top = TOP + number as f64 * (CHART + GAP);
        one(&mut out, chart, samples, end, top);
    }
    axis(&mut out, end, height - 14.0);
    out.push_str("</svg>\n");
    out
}

fn one(out: &mut String, (title, unit, lines): &Chart, samples: &[Sample], end: f64, top: f64) {
    let values = || lines.iter().flat_map(|(_, value)| samples.iter().map(value));
    let most = round_up(values().fold(0.0, f64::max));
    let (x, y) =
        (|seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT), |value: f64| top + CHART - value / most * CHART);
    let right = WIDTH - RIGHT;
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<text x=\"16\" y=\"{:.1}\">{title}</text><text class=\"dim\" x=\"16\" y=\"{:.1}\">{unit}</text>",
        top + 14.0,
        top + 30.0
    );
    for share in [0.0, 0.5, 1.0] {
        let at = y(most * share);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"dim\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            short(most * share)
        );
    }
    let mut above = f64::NEG_INFINITY;
    for ((name, value), class) in lines.iter().zip(["a", "b"]) {
        let points: Vec<String> =
            samples.iter().map(|sample| format!("{:.1} {:.1}", x(sample.seconds), y(value(sample)))).collect();
        let last = samples.last().map_or(0.0, value);
        let _ = writeln!(out, "<path class=\"{class}\" d=\"M{}\"/>", points.join("L"));
        // The second line's last value stands below the first one's where the two would meet.
        let label = match (y(last) + 4.0 - above).abs() < LINE {
            true => above + LINE,
            false => y(last) + 4.0,
        };
        above = label;
        let _ = writeln!(
            out,
            "<text class=\"t{class}\" x=\"{:.1}\" y=\"{label:.1}\">{name} {}</text>",
            right + 8.0,
            short(last)
        );
    }
}

fn axis(out: &mut String, end: f64, y: f64) {
    for share in 0..=4 {
        let seconds = end * f64::from(share) / 4.0;
        let x = LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
        let label = if end >= 600.0 { format!("{:.0} min", seconds / 60.0) } else { format!("{seconds:.0} s") };
        let _ = writeln!(out, "<text class=\"dim\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y:.1}\">{label}</text>");
    }
}

/// The next of 1, 2, 5, 10, 20 … that is not below.
fn round_up(value: f64) -> f64 {
    let mut step = 1e-3;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            if step * factor >= value {
                return step * factor;
            }
        }
        step *= 10.0;
    }
}

fn short(value: f64) -> String {
    if value == 0.0 || value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}").trim_end_matches(".0").to_owned()
    } else {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, expected) in [(0.0, 0.001), (0.7, 1.0), (1.0, 1.0), (3.0, 5.0), (51.0, 100.0), (130.0, 200.0)] {
            assert!((round_up(value) - expected).abs() < 1e-9, "{value}");
        }
        assert_eq!(
            (short(0.0), short(12.0), short(0.25), short(1234.5)),
            ("0".into(), "12".into(), "0.25".into(), "1234".into())
        );
    }

    #[test]
    fn every_chart_is_drawn_within_the_picture() {
        let sample =
            |seconds| Sample { seconds, rate: 100.0, p50_ms: 1.0, p99_ms: 2.0, resident_mb: 50.0, ..Sample::default() };
        let svg = draw(&[sample(1.0), sample(60.0)], 100.0, 1.0);
        assert_eq!(svg.matches("<path class=\"a\"").count(), CHARTS.len());
        assert!(svg.contains("prefers-color-scheme:dark") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
