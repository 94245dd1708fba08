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
    let (floor, right) = (height - bottom, width - 30.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n\
         <path class=\"axis\" d=\"M{left} 40V{floor}H{right}\"/>\n"
    );
    let title =
        format!("model {}: what tasks retain of what their own best masks do", frontier.model);
    label(&mut text, "", (left, 22.0), "start", &title);
    label(&mut text, "", (left - 8.0, 45.0), "end", &quality(1.0));
    label(&mut text, "", (left - 8.0, floor), "end", &quality(axes.least_quality));
    let below = floor + 22.0;
    label(&mut text, "", (left, below), "start", "none");
    label(&mut text, "", (right, below), "end", &bytes(axes.bytes.1 as u64));
    let middle = f64::midpoint(left, right);
    label(&mut text, "", (middle, below), "middle", "expected bytes of a switch (logarithmic)");
    draw_points(&mut text, frontier, &axes);
    label(&mut text, "mean", (right, floor - 52.0), "end", "mean of the tasks");
    label(&mut text, "least", (right, floor - 34.0), "end", "the task that loses most");
    label(&mut text, "own", (right, floor - 16.0), "end", "independent masks");
    text + "</svg>\n"
}

fn label(svg: &mut String, class: &str, (x, y): (f64, f64), anchor: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

/// What a line shows of a point.
type Shown = fn(&FrontierPoint) -> f64;

/// A line and a mark for each point, for the mean and for the task that loses most.
fn draw_points(svg: &mut String, frontier: &Frontier, axes: &Axes) {
    let ((width, height), (left, bottom)) = (SIZE, MARGIN);
    let place = |point: &FrontierPoint, quality: f64| {
        let x = axes.x(switch_bytes(frontier, point)).clamp(0.0, 1.0) * (width - left - 30.0);
        let y = (1.0 - axes.y(quality).clamp(0.0, 1.0)) * (height - bottom - 40.0);
        (left + x, 40.0 + y)
    };
    let kinds: [(&str, Shown); 2] =
        [("least", |point| point.least_quality), ("mean", |point| point.mean_quality)];
    for (kind, quality) in kinds {
        let places = frontier.points.iter().map(|point| place(point, quality(point)));
        let line: Vec<_> = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(svg, "<polyline class=\"{kind}\" points=\"{}\"/>", line.join(" "));
    }
    for point in &frontier.points {
        let about = describe(frontier, point);
        for (kind, quality) in kinds {
            let (x, y) = place(point, quality(point));
            let class = if kind == "mean" && point.lambda == 0.0 { "own" } else { kind };
            let _ = writeln!(
                svg,
                "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{about}</title></circle>"
            );
        }
    }
}

fn describe(frontier: &Frontier, point: &FrontierPoint) -> String {
    format!(
        "λ = {:.5}: {} a switch, mean {}, least {}",
        point.lambda,
        bytes(switch_bytes(frontier, point) as u64),
        quality(point.mean_quality),
        quality(point.least_quality)
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
