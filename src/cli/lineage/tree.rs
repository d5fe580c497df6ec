//! Lineage as a tree for people: what something is made of, then what is made of it. What hangs from
//! several branches is shown whole once, and marked where it comes again.

use std::collections::BTreeSet;

use super::super::output::{self, Tone};
use super::{Arrow, Direction, Graph};

pub(super) fn text(graph: &Graph, direction: Direction) -> String {
    let mut text = String::new();
    for (title, way) in [("made of", Direction::Up), ("makes", Direction::Down)] {
        if direction != Direction::Both && direction != way {
            continue;
        }
        for start in &graph.starts {
            let mut shown = BTreeSet::new();
            let name = output::on_stdout(&subject(graph, *start), Tone::Strong);
            text.push_str(&format!(
                "{name} {title}{}\n",
                if next(graph, *start, way).is_empty() { " nothing" } else { "" }
            ));
            branch(graph, *start, way, &mut Vec::new(), &mut shown, &mut text);
        }
    }
    text
}

/// The kind and the name, with whom to ask where that is somebody downstream.
fn subject(graph: &Graph, index: usize) -> String {
    let node = &graph.nodes[index];
    let mut about: Vec<String> = Vec::new();
    if !node.about.is_empty() {
        about.push(printable(&node.about));
    }
    if !node.owner.is_empty() && ["FeatureService", "TrainingSet", "Consumer", "Share"].contains(&node.kind) {
        about.push(printable(&node.owner));
    }
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
    format!("{} {}{about}", node.kind, node.name)
}

/// On one line, whatever an owner is called.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn next(graph: &Graph, at: usize, way: Direction) -> Vec<(usize, &Arrow)> {
    let leads = |arrow: &&Arrow| if way == Direction::Down { arrow.from == at } else { arrow.to == at };
    let far = |arrow: &Arrow| if way == Direction::Down { arrow.to } else { arrow.from };
    graph.arrows.iter().filter(leads).map(|arrow| (far(arrow), arrow)).collect()
}

/// `last` tells of each level above whether it was the last branch there.
fn branch(
    graph: &Graph,
    at: usize,
    way: Direction,
    last: &mut Vec<bool>,
    shown: &mut BTreeSet<usize>,
    text: &mut String,
) {
    if !shown.insert(at) {
        return;
    }
    let branches = next(graph, at, way);
    for (index, (far, arrow)) in branches.iter().enumerate() {
        let is_last = index + 1 == branches.len();
        for above in last.iter() {
            text.push_str(if *above { "   " } else { "│  " });
        }
        text.push_str(if is_last { "└─ " } else { "├─ " });
        let role = match (arrow.label.as_str(), arrow.role) {
            ("", role) => role.to_owned(),
            (label, role) => format!("{role}, as {label}"),
        };
        // Under the thing it is made of an arrow reads forwards, above it backwards.
        let again = shown.contains(far) && !next(graph, *far, way).is_empty();
        let again = if again { " …as above" } else { "" };
        let role = output::on_stdout(&format!(" [{role}]{again}"), Tone::Faint);
        text.push_str(&format!("{}{role}\n", subject(graph, *far)));
        last.push(is_last);
        branch(graph, *far, way, last, shown, text);
        last.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn a_tree_shows_what_it_is_made_of_and_what_is_made_of_it() {
        let shown = text(&sample(), Direction::Both);
        let expected = "\
Feature airport_weather:temp (float64) made of
└─ Column weather.temp (float64) [feeds]
   └─ Source weather [has]
Feature airport_weather:temp (float64) makes
├─ FeatureView airport_weather [is part of]
└─ FeatureService end@1 [is taken by, as airport_weather__temp, dest__temp]
   └─ Consumer delay_predictor (v\"2, \"]; a -> b <b>\\ `x` #quot; (é)) [is used by]
";
        assert_eq!(shown, expected);
        assert!(!text(&sample(), Direction::Up).contains("Consumer"));
    }
}
