//! The frontier of alignment as a table, a plot in characters, and an SVG.
//!
//! Both plots have the bytes that a switch is expected to load on a logarithmic axis, so that the
//! few that matter most are not pressed into a corner; all alike tasks load none and stand at its
//! left end.

use super::output::{Table, bytes, percent};
use crate::compile::{Frontier, FrontierPoint};
use std::fmt::Write as _;

/// Columns and rows of the plot in characters.
const COLUMNS: usize = 64;
const ROWS: usize = 16;
/// Size of the drawing, and of its margins, in pixels.
const SIZE: (f64, f64) = (720.0, 440.0);
const MARGIN: (f64, f64) = (90.0, 56.0);

/// The table and the plot in characters.
pub(super) fn text(frontier: &Frontier) -> String {
    let mut table =
        Table::new(&["λ", "expected switch", "of a task", "mean quality", "least", "gap"]);
    for point in &frontier.points {
        table.row(vec![
            if point.lambda > 0.0 { format!("{:.5}", point.lambda) } else { "independent".into() },
            bytes(switch_bytes(frontier, point) as u64),
            percent(point.switch_share),
            quality(point.mean_quality),
            quality(point.least_quality),
            format!("{:.1e}", point.gap),
        ]);
    }
    format!(
        "model {}: quality is what tasks retain of what their own best masks do\n\n{}\n{}",
        frontier.model,
        table.render(),
        plot(frontier)
    )
}

fn quality(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}

fn switch_bytes(frontier: &Frontier, point: &FrontierPoint) -> f64 {
    point.switch_blocks * frontier.block_bytes as f64
}

/// Where values lie between the ends of both axes, 0 to 1.
struct Axes {
    bytes: (f64, f64),
    least_quality: f64,
}

impl Axes {
    fn of(frontier: &Frontier) -> Self {
        let all = frontier.points.iter().map(|point| switch_bytes(frontier, point));
        let positive: Vec<_> = all.filter(|bytes| *bytes > 0.0).collect();
        let most = positive.iter().copied().fold(1.0, f64::max);
        let least = positive.iter().copied().fold(most, f64::min);
        let qualities = frontier.points.iter().map(|point| point.least_quality);
        // Half of the least that is not nothing stands for nothing.
        Self { bytes: (least / 2.0, most), least_quality: qualities.fold(1.0, f64::min) }
    }

    fn x(&self, bytes: f64) -> f64 {
        let (least, most) = self.bytes;
        (bytes.max(least) / least).ln() / (most / least).ln().max(f64::MIN_POSITIVE)
    }

    fn y(&self, quality: f64) -> f64 {
        (quality - self.least_quality) / (1.0 - self.least_quality).max(f64::MIN_POSITIVE)
    }
}

fn plot(frontier: &Frontier) -> String {
    let axes = Axes::of(frontier);
    let mut cells = vec![vec![' '; COLUMNS]; ROWS];
    let mut set = |x: f64, y: f64, mark| {
        let column = (x.clamp(0.0, 1.0) * (COLUMNS - 1) as f64).round() as usize;
        let row = ((1.0 - y.clamp(0.0, 1.0)) * (ROWS - 1) as f64).round() as usize;
        cells[row][column] = mark;
    };
    for point in &frontier.points {
        let x = axes.x(switch_bytes(frontier, point));
        set(x, axes.y(point.least_quality), '.');
        set(x, axes.y(point.mean_quality), if point.lambda > 0.0 { 'o' } else { 'I' });
    }
    let mut text = String::new();
    for (row, cells) in cells.iter().enumerate() {
        let label = match row {
            0 => quality(1.0),
            _ if row == ROWS - 1 => quality(axes.least_quality),
            _ => String::new(),
        };
        let line: String = cells.iter().collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:>10} |{}", line.trim_end());
    }
    let [left, right] = ["none", &bytes(axes.bytes.1 as u64)].map(str::to_owned);
    let width = COLUMNS - left.len();
    let _ = writeln!(text, "{:>10} +{}\n{:>12}{left}{right:>width$}", "", "-".repeat(COLUMNS), "");
    text + "o mean quality, . that of the task that loses most, I independent masks; to the right: \
            expected bytes of a switch (logarithmic)\n"
}

/// The drawing.
pub(super) fn svg(frontier: &Frontier) -> String {
    let axes = Axes::of(frontier);
    let ((width, height), (left, bottom)) = (SIZE, MARGIN);
    let place = |point: &FrontierPoint, quality: f64| {
        let x =
            left + axes.x(switch_bytes(frontier, point)).clamp(0.0, 1.0) * (width - left - 30.0);
        let y = 40.0 + (1.0 - axes.y(quality).clamp(0.0, 1.0)) * (height - bottom - 40.0);
        (x, y)
    };
    let line = |quality: fn(&FrontierPoint) -> f64| {
        let points = frontier.points.iter().map(|point| place(point, quality(point)));
        points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
    };
    let mut marks = String::new();
    for point in &frontier.points {
        let ((x, mean), (_, least)) =
            (place(point, point.mean_quality), place(point, point.least_quality));
        let about = format!(
            "λ = {:.5}: {} a switch, mean {}, least {}",
            point.lambda,
            bytes(switch_bytes(frontier, point) as u64),
            quality(point.mean_quality),
            quality(point.least_quality)
        );
        let class = if point.lambda > 0.0 { "mean" } else { "own" };
        let _ = writeln!(
            marks,
            "<circle class=\"least\" cx=\"{x:.1}\" cy=\"{least:.1}\" r=\"3\"><title>{about}</title></circle>\n\
             <circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{mean:.1}\" r=\"4\"><title>{about}</title></circle>"
        );
    }
    let (floor, right, middle) =
        (height - bottom, width - 30.0, left + (width - left - 30.0) / 2.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n\
         <text x=\"{left}\" y=\"22\">model {}: what tasks retain of what their own best masks do</text>\n\
         <path class=\"axis\" d=\"M{left} 40V{floor}H{right}\"/>\n\
         <text x=\"{label}\" y=\"45\" text-anchor=\"end\">{}</text>\n\
         <text x=\"{label}\" y=\"{floor}\" text-anchor=\"end\">{}</text>\n\
         <text x=\"{left}\" y=\"{below}\">none</text>\n\
         <text x=\"{right}\" y=\"{below}\" text-anchor=\"end\">{}</text>\n\
         <text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">expected bytes of a switch (logarithmic)</text>\n\
         <polyline class=\"least\" points=\"{}\"/>\n<polyline class=\"mean\" points=\"{}\"/>\n{marks}\
         <text class=\"mean\" x=\"{right}\" y=\"{legend}\" text-anchor=\"end\">mean of the tasks</text>\n\
         <text class=\"least\" x=\"{right}\" y=\"{legend_2}\" text-anchor=\"end\">the task that loses most</text>\n\
         <text class=\"own\" x=\"{right}\" y=\"{legend_3}\" text-anchor=\"end\">independent masks</text>\n</svg>\n",
        frontier.model,
        quality(1.0),
        quality(axes.least_quality),
        bytes(axes.bytes.1 as u64),
        line(|point| point.least_quality),
        line(|point| point.mean_quality),
        label = left - 8.0,
        below = floor + 22.0,
        legend = floor - 52.0,
        legend_2 = floor - 34.0,
        legend_3 = floor - 16.0,
    )
}

const STYLE: &str = "\
.ground { fill: #fff; }
text { fill: #222; }
.axis { fill: none; stroke: #888; }
polyline { fill: none; stroke-width: 1.5; }
polyline.mean { stroke: #1f6feb; } circle.mean, text.mean { fill: #1f6feb; }
polyline.least { stroke: #b36b00; } circle.least, text.least { fill: #b36b00; }
circle.own, text.own { fill: #c2255c; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #111; } text { fill: #ddd; }
}
";
