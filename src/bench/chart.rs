//! Line charts as SVG, readable on paper and on dark screens: the page's scheme chooses ink and paper, and lines differ
//! in dashes and marks as well as in colour.

use std::fmt::Write as _;

/// One chart: lines over a common axis.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// Heading.
    pub title: String,
    /// What is on the horizontal axis.
    pub x: String,
    /// What is on the vertical axis, which starts at 0.
    pub y: String,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Points of one line, in order.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// Name in the legend.
    pub name: String,
    /// Points.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
/// Of one chart, headings and axes included.
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;
/// Labels on an axis stay this far apart.
const LABEL_WIDTH: f64 = 48.0;

const STYLE: &str = "\
svg { background: #fff; color: #1b1f24; font: 12px system-ui, sans-serif }
text { fill: currentColor } .title { font-weight: 600; font-size: 14px }
.grid { stroke: currentColor; stroke-opacity: .18 } .axis { stroke: currentColor }
.line { fill: none; stroke: currentColor; stroke-width: 2 } .mark { fill: currentColor }
.s0 { color: #0b62a4 } .s1 { color: #c04a00 } .s2 { color: #0a7d55 } .s3 { color: #9a3b86 } .s4 { color: #7a6200 } .s5 { color: #444c56 }
@media screen and (prefers-color-scheme: dark) {
svg { background: #14171b; color: #e4e8ec } .s0 { color: #5fb0ee } .s1 { color: #ff9a5c } .s2 { color: #4fd0a0 }
.s3 { color: #e39ad2 } .s4 { color: #e0c54a } .s5 { color: #b6bec8 } }
";
const COLOURS: usize = 6;
const DASHES: [&str; 4] = ["none", "7 4", "2 3", "9 3 2 3"];

/// A drawing of the charts, one below the other.
pub fn svg(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>\n{STYLE}</style>\n"
    );
    for (i, chart) in charts.iter().enumerate() {
        draw(&mut out, chart, HEIGHT * i as f64);
    }
    out.push_str("</svg>\n");
    out
}

/// Maps values to places; horizontally by logarithm where values allow it.
struct Scale {
    logarithmic: bool,
    x: (f64, f64),
    y_max: f64,
    top: f64,
}

impl Scale {
    fn new(chart: &Chart, offset: f64, y_max: f64) -> Self {
        let xs = || chart.lines.iter().flat_map(|l| &l.points).map(|p| p.0);
        let logarithmic = xs().all(|x| x > 0.0);
        let mapped = || xs().map(|x| if logarithmic { x.ln() } else { x });
        let (low, high) = (
            mapped().fold(f64::MAX, f64::min),
            mapped().fold(f64::MIN, f64::max),
        );
        // A single value is put in the middle.
        let x = if high > low {
            (low, high)
        } else {
            (low - 1.0, low + 1.0)
        };
        Self {
            logarithmic,
            x,
            y_max,
            top: offset + TOP,
        }
    }

    fn x(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.ln() } else { value };
        LEFT + (value - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom() - value / self.y_max * (HEIGHT - TOP - BOTTOM)
    }

    fn bottom(&self) -> f64 {
        self.top + HEIGHT - TOP - BOTTOM
    }
}

fn draw(out: &mut String, chart: &Chart, offset: f64) {
    let points = || chart.lines.iter().flat_map(|l| &l.points);
    let highest = points().map(|p| p.1).fold(0.0, f64::max);
    let step = tick_step(highest);
    let y_max = step * (highest / step).ceil().max(1.0);
    let scale = Scale::new(chart, offset, y_max);
    let (right, bottom) = (WIDTH - RIGHT, scale.bottom());
    text(out, (LEFT, offset + 22.0), "title", "start", &chart.title);
    for i in 0..=(y_max / step).round() as u32 {
        let value = f64::from(i) * step;
        let y = scale.y(value);
        let class = if i == 0 { "axis" } else { "grid" };
        let _ = writeln!(
            out,
            "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{right}\"/>"
        );
        text(
            out,
            (LEFT - 8.0, y + 4.0),
            "tick",
            "end",
            &format!("{value}"),
        );
    }
    let mut xs: Vec<f64> = points().map(|p| p.0).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let mut last = f64::MIN;
    for x in xs {
        let place = scale.x(x);
        if place - last >= LABEL_WIDTH {
            text(
                out,
                (place, bottom + 18.0),
                "tick",
                "middle",
                &format!("{x}"),
            );
            last = place;
        }
    }
    text(
        out,
        ((LEFT + right) / 2.0, bottom + 40.0),
        "label",
        "middle",
        &chart.x,
    );
    text(out, (8.0, scale.top - 6.0), "label", "start", &chart.y);
    for (i, line) in chart.lines.iter().enumerate() {
        draw_line(out, line, i, &scale);
    }
}

fn draw_line(out: &mut String, line: &Line, index: usize, scale: &Scale) {
    let (colour, dash) = (
        index % COLOURS,
        DASHES[(index / COLOURS + index) % DASHES.len()],
    );
    let places: Vec<(f64, f64)> = line
        .points
        .iter()
        .map(|p| (scale.x(p.0), scale.y(p.1)))
        .collect();
    let list: Vec<String> = places
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = writeln!(
        out,
        "<polyline class=\"line s{colour}\" stroke-dasharray=\"{dash}\" points=\"{}\"/>",
        list.join(" ")
    );
    for (x, y) in places {
        let _ = writeln!(
            out,
            "<circle class=\"mark s{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"
        );
    }
    let (x, y) = (WIDTH - RIGHT + 14.0, scale.top + 8.0 + 18.0 * index as f64);
    let _ = writeln!(
        out,
        "<path class=\"line s{colour}\" stroke-dasharray=\"{dash}\" d=\"M{x} {y}h24\"/>"
    );
    text(out, (x + 32.0, y + 4.0), "legend", "start", &line.name);
}

fn text(out: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, content: &str) {
    let content = content
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"
    );
}

/// 1, 2 or 5 times a power of ten, so that about five steps reach `highest`.
fn tick_step(highest: f64) -> f64 {
    if !(highest > 0.0 && highest.is_finite()) {
        return 1.0;
    }
    let power = 10f64.powf((highest / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|s| s * power);
    let fits = steps.into_iter().find(|s| highest / s <= 5.0);
    fits.unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_inside_the_drawing_and_names_are_escaped() {
        let line = |name: &str, points: &[(f64, f64)]| Line {
            name: name.into(),
            points: points.into(),
        };
        let chart = Chart {
            title: "a < b & c".into(),
            lines: vec![
                line("1", &[(512.0, 93.1), (1024.0, 80.0)]),
                line("2", &[(512.0, 0.0)]),
            ],
            ..Chart::default()
        };
        let flat = Chart {
            lines: vec![line("0", &[(0.0, 0.0)])],
            ..Chart::default()
        };
        let drawing = svg(&[chart, flat, Chart::default()]);
        assert!(drawing.contains("a &lt; b &amp; c"));
        assert!(!drawing.contains("NaN") && !drawing.contains("inf"));
        let place = |mark: &str, name: &str| -> f64 {
            let (_, rest) = mark.split_once(&format!("{name}=\"")).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let marks: Vec<&str> = drawing
            .lines()
            .filter(|l| l.starts_with("<circle"))
            .collect();
        assert_eq!(marks.len(), 4);
        for mark in marks {
            assert!(
                (LEFT..=WIDTH - RIGHT).contains(&place(mark, "cx")),
                "{mark}"
            );
            assert!((0.0..=2.0 * HEIGHT).contains(&place(mark, "cy")), "{mark}");
        }
    }

    #[test]
    fn steps_are_round() {
        for (highest, step) in [
            (93.1, 20.0),
            (5.0, 1.0),
            (0.3, 0.1),
            (1234.0, 500.0),
            (0.0, 1.0),
        ] {
            assert!((tick_step(highest) - step).abs() < 1e-9, "{highest}");
        }
    }
}
