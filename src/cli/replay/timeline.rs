//! A drawing of replays: a row for each, time to the right, the higher a bar the longer a switch
//! waited, coloured by how much was there.
//!
//! A column shows its longest wait, so that a long trace is not a large file.

use super::report::{Ending, Run, Switched, micros};
use crate::cli::output::time;
use std::{fmt::Write as _, time::Duration};

/// Columns of a row, each so many pixels wide.
const COLUMNS: usize = 400;
const COLUMN: f64 = 2.0;
/// Where rows begin, how high their bars are at most, and how far rows are apart.
const LEFT: f64 = 80.0;
const TOP: f64 = 44.0;
const HEIGHT: f64 = 48.0;
const ROW: f64 = 64.0;
/// A wait that is too short for a bar still has one.
const LEAST: f64 = 2.0;

/// The drawing.
pub(super) fn svg(runs: &[Run]) -> String {
    let scale = Scale::of(runs);
    let width = LEFT + COLUMNS as f64 * COLUMN + 20.0;
    let floor = TOP + runs.len() as f64 * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{width}\" height=\"{0}\"/>\n",
        floor + 30.0
    );
    legend(&mut svg);
    for (row, run) in runs.iter().enumerate() {
        draw_row(&mut svg, run, &scale, TOP + row as f64 * ROW + HEIGHT);
    }
    axis(&mut svg, &scale, floor + 12.0, width - 20.0);
    svg + "</svg>\n"
}

/// What the ends of both axes stand for.
struct Scale {
    end: Duration,
    longest: Duration,
}

impl Scale {
    fn of(runs: &[Run]) -> Self {
        let all = || runs.iter().flat_map(|run| &run.switched);
        let end = all().map(|one| one.at).max().unwrap_or_default();
        let longest = all().map(|one| one.waited).max().unwrap_or_default();
        Self { end, longest }
    }

    fn column(&self, at: Duration) -> usize {
        let share = at.as_secs_f64() / self.end.as_secs_f64().max(f64::MIN_POSITIVE);
        ((share * COLUMNS as f64) as usize).min(COLUMNS - 1)
    }

    /// Logarithmic, so that short waits are seen beside long ones.
    fn height(&self, waited: Duration) -> f64 {
        let log = |time: Duration| (1.0 + time.as_secs_f64() * 1e4).ln();
        (HEIGHT * log(waited) / log(self.longest).max(f64::MIN_POSITIVE)).max(LEAST)
    }
}

fn legend(svg: &mut String) {
    let mut x = LEFT;
    for ending in [Ending::Resident, Ending::Partly, Ending::Loaded, Ending::Superseded] {
        let (class, words) = shown(ending);
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"12\" width=\"12\" height=\"12\"/>"
        );
        label(svg, x + 18.0, 23.0, "start", words);
        x += 170.0;
    }
}

fn axis(svg: &mut String, scale: &Scale, y: f64, right: f64) {
    let longest = micros(scale.longest);
    let height = format!("height: time waited, up to {} (logarithmic)", time(longest));
    label(svg, LEFT, y, "start", "0 s");
    label(svg, f64::midpoint(LEFT, right), y, "middle", &height);
    label(svg, right, y, "end", &format!("{:.0} s", scale.end.as_secs_f64()));
}

fn draw_row(svg: &mut String, run: &Run, scale: &Scale, floor: f64) {
    label(svg, LEFT - 10.0, floor, "end", run.name);
    let right = LEFT + COLUMNS as f64 * COLUMN;
    let _ = writeln!(svg, "<path class=\"axis\" d=\"M{LEFT} {floor}H{right}\"/>");
    for (column, worst) in worst_of_columns(run, scale) {
        let (class, words) = shown(worst.ending);
        let (x, height) = (LEFT + column as f64 * COLUMN, scale.height(worst.waited));
        let waited = time(micros(worst.waited));
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{:.1}\" width=\"{COLUMN}\" \
             height=\"{height:.1}\"><title>{:.3} s: {words}, {waited}</title></rect>",
            floor - height,
            worst.at.as_secs_f64(),
        );
    }
}

/// The switch of each column that waited longest.
fn worst_of_columns<'a>(
    run: &'a Run,
    scale: &Scale,
) -> impl Iterator<Item = (usize, &'a Switched)> {
    let mut columns: Vec<Option<&Switched>> = vec![None; COLUMNS];
    for one in &run.switched {
        let worst = &mut columns[scale.column(one.at)];
        if worst.is_none_or(|worst| (worst.waited, worst.ending) < (one.waited, one.ending)) {
            *worst = Some(one);
        }
    }
    columns.into_iter().enumerate().filter_map(|(column, worst)| Some((column, worst?)))
}

fn shown(ending: Ending) -> (&'static str, &'static str) {
    match ending {
        Ending::AlreadyActive | Ending::Resident => ("resident", "resident"),
        Ending::Partly => ("partly", "partly prefetched"),
        Ending::Loaded => ("loaded", "loaded"),
        Ending::Superseded | Ending::Refused => ("ended", "not done"),
    }
}

fn label(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>");
}

const STYLE: &str = "\
.ground { fill: #fff; }
text { fill: #222; }
.axis { fill: none; stroke: #888; }
.resident { fill: #2f9e44; } .partly { fill: #e0a100; }
.loaded { fill: #c2255c; } .ended { fill: #868e96; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #111; } text { fill: #ddd; }
}
";
