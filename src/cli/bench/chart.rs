//! Line plots as SVG that stands in a page: no script, no file beside it. It draws what it is given
//! and knows nothing of benchmarks.

use std::fmt::Write as _;

/// One plot.
#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    /// Places on the x axis, and what happens there.
    pub marks: Vec<(f64, String)>,
}

#[derive(Clone, Copy, Debug)]
pub struct Axis {
    pub label: &'static str,
    pub scale: Scale,
    /// How a value of this axis is written.
    pub written: fn(f64) -> String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0.
    Linear,
    /// Of values above 0; others are left out.
    Log,
    /// Quantiles from 0 up to, but not including, 1: each nine takes as much room.
    Nines,
}

/// A line. A point that is no number breaks it.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    pub style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The colour of this number.
    Line(usize),
    /// What is there for comparison.
    Faint,
}

/// Colours that the page has; further lines begin again.
pub const COLOURS: usize = 8;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// Up to so many points of a line get a dot that tells its value...
const MAX_DOTS: usize = 260;
/// ...and up to so many, one that is seen without pointing at it.
const MAX_SEEN_DOTS: usize = 12;

impl Chart {
    /// The plot with its title and legend.
    pub fn figure(&self) -> String {
        let mut html = format!("<figure class=\"chart\"><figcaption>{}</figcaption>\n", escaped(&self.title));
        html.push_str(&self.svg());
        html.push_str("<p class=\"legend\">");
        for series in &self.series {
            let _ =
                write!(html, "<span><i class=\"key {}\"></i>{}</span>", series.style.class(), escaped(&series.name));
        }
        html.push_str("</p></figure>\n");
        html
    }

    fn svg(&self) -> String {
        let x = Range::of(self.x.scale, self.points().map(|(x, _)| x));
        let y = Range::of(self.y.scale, self.points().map(|(_, y)| y));
        let across = |value: f64| LEFT + x.share(value) * (WIDTH - LEFT - RIGHT);
        let down = |value: f64| HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\" xmlns=\"http://www.w3.org/2000/svg\">\n",
            escaped(&self.title)
        );
        for tick in y.ticks(6) {
            let (at, text) = (down(tick), escaped(&(self.y.written)(tick)));
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
                WIDTH - RIGHT
            );
            let _ = writeln!(
                svg,
                "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 8.0,
                at + 4.0
            );
        }
        for tick in x.ticks(9) {
            let (at, text) = (across(tick), escaped(&(self.x.written)(tick)));
            let (top, bottom) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 5.0);
            let _ = writeln!(svg, "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>");
            let _ = writeln!(
                svg,
                "<text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
                bottom + 13.0
            );
        }
        let base = HEIGHT - BOTTOM;
        let _ =
            writeln!(svg, "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{base}\" y2=\"{base}\"/>", WIDTH - RIGHT);
        for (place, what) in &self.marks {
            let (at, text) = (across(*place), escaped(what));
            let _ = writeln!(svg, "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{base}\"/>");
            let _ = writeln!(svg, "<text class=\"tick\" x=\"{:.1}\" y=\"{}\">{text}</text>", at + 4.0, TOP + 8.0);
        }
        for series in &self.series {
            self.line(series, &x, &y, &mut svg);
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let _ = writeln!(
            svg,
            "<text class=\"label\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 6.0,
            escaped(self.x.label)
        );
        let centre = (TOP + HEIGHT - BOTTOM) / 2.0;
        let _ = writeln!(
            svg,
            "<text class=\"label\" transform=\"translate(12 {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escaped(self.y.label)
        );
        svg.push_str("</svg>\n");
        svg
    }

    fn line(&self, series: &Series, x: &Range, y: &Range, svg: &mut String) {
        let (mut path, mut dots, mut pen_down) = (String::new(), String::new(), false);
        for (point_x, point_y) in &series.points {
            if !self.y.scale.takes(*point_y) || !self.x.scale.takes(*point_x) {
                pen_down = false;
                continue;
            }
            let across = LEFT + x.share(*point_x) * (WIDTH - LEFT - RIGHT);
            let down = HEIGHT - BOTTOM - y.share(*point_y) * (HEIGHT - TOP - BOTTOM);
            let _ = write!(path, "{}{across:.1} {down:.1}", if pen_down { "L" } else { "M" });
            pen_down = true;
            let told = format!("{}: {} at {}", series.name, (self.y.written)(*point_y), (self.x.written)(*point_x));
            let _ = writeln!(
                dots,
                "<circle cx=\"{across:.1}\" cy=\"{down:.1}\" r=\"4\"><title>{}</title></circle>",
                escaped(&told)
            );
        }
        let dotted = if series.points.len() <= MAX_SEEN_DOTS { " dotted" } else { "" };
        let class = series.style.class();
        let _ = writeln!(svg, "<g class=\"series {class}{dotted}\"><path d=\"{path}\"/>");
        if series.points.len() <= MAX_DOTS {
            svg.push_str(&dots);
        }
        svg.push_str("</g>\n");
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        let seen = |point: &(f64, f64)| self.x.scale.takes(point.0) && self.y.scale.takes(point.1);
        self.series.iter().flat_map(|series| &series.points).copied().filter(seen)
    }
}

impl Style {
    fn class(self) -> String {
        match self {
            Self::Line(number) => format!("c{}", number % COLOURS),
            Self::Faint => "faint".to_owned(),
        }
    }
}

impl Scale {
    fn takes(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Linear => true,
                Self::Log => value > 0.0,
                Self::Nines => (0.0..1.0).contains(&value),
            }
    }

    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.log10(),
            Self::Nines => -(1.0 - value).log10(),
        }
    }
}

/// The part of an axis that is shown.
#[derive(Clone, Copy, Debug)]
struct Range {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Range {
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let places = values.map(|value| scale.place(value));
        let (least, most) =
            places.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), place| (least.min(place), most.max(place)));
        let (from, to) = match scale {
            _ if least > most => (0.0, 1.0),
            Scale::Linear => (0.0, most * 1.04),
            Scale::Log => ((least - 0.05).floor_to(1.0 / 3.0), most + 0.08),
            Scale::Nines => (0.0, most),
        };
        Self { scale, from, to: if to > from { to } else { from + 1.0 } }
    }

    /// Where a value lies, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        (self.scale.place(value) - self.from) / (self.to - self.from)
    }

    /// Round values within the range, about so many.
    fn ticks(&self, wanted: usize) -> Vec<f64> {
        let within = |value: &f64| (-1e-9..=1.0 + 1e-9).contains(&self.share(*value));
        match self.scale {
            Scale::Linear => {
                let rough = (self.to - self.from) / wanted as f64;
                let unit = 10_f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * unit).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(unit * 10.0);
                (0..).map(|count| f64::from(count) * step).take_while(|value| *value <= self.to).collect()
            }
            Scale::Log => {
                let factors: &[f64] = if self.to - self.from > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let powers = self.from.floor() as i32..=self.to.ceil() as i32;
                let ticks = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)));
                ticks.filter(within).collect()
            }
            Scale::Nines => {
                let nines = (1..=9).map(|nines| 1.0 - 10_f64.powi(-nines));
                [0.0, 0.5].into_iter().chain(nines).filter(within).collect()
            }
        }
    }
}

trait FloorTo {
    fn floor_to(self, step: f64) -> f64;
}

impl FloorTo for f64 {
    fn floor_to(self, step: f64) -> f64 {
        (self / step).floor() * step
    }
}

/// Text that stands in a page or in an attribute.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(scale: Scale, values: &[f64]) -> Range {
        Range::of(scale, values.iter().copied())
    }

    #[test]
    fn ticks_are_round_and_lie_within_the_range() {
        assert_eq!(range(Scale::Linear, &[0.0, 10.0]).ticks(6), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(range(Scale::Log, &[90.0, 1_100.0]).ticks(6), [50.0, 100.0, 200.0, 500.0, 1_000.0]);
        let nines = range(Scale::Nines, &[0.0, 0.999]).ticks(9);
        assert_eq!(
            nines.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>(),
            ["0.000", "0.500", "0.900", "0.990", "0.999"]
        );
        for empty in [Scale::Linear, Scale::Log, Scale::Nines] {
            assert!(!range(empty, &[]).ticks(5).is_empty());
        }
    }

    #[test]
    fn a_missing_value_breaks_the_line() {
        let axis = Axis { label: "x", scale: Scale::Linear, written: |value| value.to_string() };
        let points = vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)];
        let series = vec![Series { name: "a < b".to_owned(), points, style: Style::Line(0) }];
        let chart = Chart { title: "T".to_owned(), x: axis, y: axis, series, marks: vec![(1.5, "step".to_owned())] };
        let figure = chart.figure();
        assert_eq!(figure.matches('M').count(), 2, "{figure}");
        assert!(figure.contains("a &lt; b") && !figure.contains("NaN"), "{figure}");
    }
}
