//! How figures grow with the number of rules, as a picture: both axes logarithmic, so that what grows
//! with the rules is a line at 45 degrees.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::contest::{Line, Unit};
use crate::written;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const COLOURS: [&str; 6] = ["#0b6e99", "#b5472a", "#3f7d3a", "#7a4f9a", "#a07c00", "#444444"];

/// The seconds and the bytes that grow, side by side, as SVG.
pub(crate) fn svg(lines: &[Line]) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12">"#,
        2.0 * WIDTH + 40.0,
        HEIGHT + 160.0
    );
    svg += r#"<rect width="100%" height="100%" fill="white"/>"#;
    for (place, unit) in [Unit::Seconds, Unit::Bytes].into_iter().enumerate() {
        panel(&mut svg, lines, unit, place as f64 * (WIDTH + 20.0));
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, lines: &[Line], unit: Unit, left: f64) {
    let mut series: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.unit == unit) {
        if let (Some((name, count)), Some(value)) = (line.series, line.median(1)) {
            series.entry(name).or_default().push((count as f64, value));
        }
    }
    let all: Vec<(f64, f64)> = series.values().flatten().copied().collect();
    let decades = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) =
            values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0))
    };
    if all.is_empty() {
        return;
    }
    let (x_low, x_high) = decades(&mut all.iter().map(|point| point.0));
    let (y_low, y_high) = decades(&mut all.iter().map(|point| point.1));
    let x = |value: f64| left + 70.0 + (value.log10() - x_low) / (x_high - x_low) * (WIDTH - 90.0);
    let y = |value: f64| 20.0 + (y_high - value.log10()) / (y_high - y_low) * (HEIGHT - 20.0);
    let mut grid = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = write!(svg, r##"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" stroke="#ddd"/>"##);
    };
    let steps = |low: f64, high: f64| {
        std::iter::successors(Some(low), |step| Some(step + 1.0)).take_while(move |step| *step <= high)
    };
    for step in steps(y_low, y_high) {
        grid(x(10_f64.powf(x_low)), y(10_f64.powf(step)), x(10_f64.powf(x_high)), y(10_f64.powf(step)));
    }
    for step in steps(x_low, x_high) {
        grid(x(10_f64.powf(step)), y(10_f64.powf(y_low)), x(10_f64.powf(step)), y(10_f64.powf(y_high)));
    }
    for step in steps(y_low, y_high) {
        let value = 10_f64.powf(step);
        // Round on an axis of powers of ten.
        let text = match unit {
            Unit::Bytes => format!("{:.0} MB", value / 1e6),
            unit => written(unit, Some(value)),
        };
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
            left + 64.0,
            y(value) + 4.0
        );
    }
    for step in steps(x_low, x_high) {
        let value = 10_f64.powf(step);
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{value} rules</text>"#,
            x(value),
            HEIGHT + 18.0
        );
    }
    for (index, (name, mut points)) in series.into_iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let path: Vec<_> =
            points.iter().map(|&(count, value)| format!("{:.1} {:.1}", x(count), y(value))).collect();
        let _ =
            write!(svg, r#"<path d="M{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, path.join("L"));
        for &(count, value) in &points {
            let _ =
                write!(svg, r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#, x(count), y(value));
        }
        let at = HEIGHT + 42.0 + index as f64 * 18.0;
        let _ = write!(
            svg,
            r#"<rect x="{:.1}" y="{:.1}" width="12" height="4" fill="{colour}"/><text x="{:.1}" y="{at:.1}">{name}</text>"#,
            left + 70.0,
            at - 6.0,
            left + 90.0
        );
    }
}
