//! Lineage as Graphviz's dot and as a Mermaid flowchart. Owners write what they like: whatever stands
//! in a label is escaped, and nodes have names of their own that no keyword can be.

use super::{Arrow, Graph, Node};

/// A digraph in the language of Graphviz.
pub(super) fn dot(graph: &Graph) -> String {
    let mut text = String::from("digraph lineage {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    for (index, node) in graph.nodes.iter().enumerate() {
        let bold = if graph.starts.contains(&index) { ", penwidth=3" } else { "" };
        text.push_str(&format!("  n{index} [label=\"{}\"{bold}];\n", lines(node, in_dot).join("\\n")));
    }
    for arrow in &graph.arrows {
        text.push_str(&format!("  n{} -> n{} [label=\"{}\"];\n", arrow.from, arrow.to, in_dot(&told(arrow))));
    }
    text.push_str("}\n");
    text
}

/// A flowchart in the language of Mermaid.
pub(super) fn mermaid(graph: &Graph) -> String {
    let mut text = String::from("flowchart LR\n");
    for (index, node) in graph.nodes.iter().enumerate() {
        text.push_str(&format!("  n{index}[\"{}\"]\n", lines(node, in_mermaid).join("<br/>")));
    }
    for arrow in &graph.arrows {
        text.push_str(&format!("  n{} -->|\"{}\"| n{}\n", arrow.from, in_mermaid(&told(arrow)), arrow.to));
    }
    if !graph.starts.is_empty() {
        let starts: Vec<String> = graph.starts.iter().map(|start| format!("n{start}")).collect();
        text.push_str("  classDef asked stroke-width:4px\n");
        text.push_str(&format!("  class {} asked\n", starts.join(",")));
    }
    text
}

/// What stands in a node: what it is, and whom to ask.
fn lines(node: &Node, escape: impl Fn(&str) -> String) -> Vec<String> {
    let about = if node.about.is_empty() { String::new() } else { format!(" ({})", node.about) };
    let mut lines = vec![escape(&format!("{} {}{about}", node.kind, node.name))];
    if !node.owner.is_empty() {
        lines.push(escape(&node.owner));
    }
    lines
}

fn told(arrow: &Arrow) -> String {
    if arrow.label.is_empty() { arrow.role.to_owned() } else { format!("{}: {}", arrow.role, arrow.label) }
}

/// Within the quotes of dot, where a backslash begins an escape and a quote ends the text.
fn in_dot(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Within the quotes of Mermaid, where only entities by number are safe: `#34;` is a quote.
fn in_mermaid(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            letter if letter.is_control() => escaped.push(' '),
            letter if letter.is_alphanumeric() || " _-.:@,()/".contains(letter) => escaped.push(letter),
            letter => escaped.push_str(&format!("#{};", u32::from(letter))),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    /// One statement of dot: its quoted texts read back, and the rest without them.
    fn statement(line: &str) -> (String, Vec<String>) {
        let (mut rest, mut texts) = (String::new(), Vec::new());
        let mut letters = line.chars();
        while let Some(letter) = letters.next() {
            if letter != '"' {
                rest.push(letter);
                continue;
            }
            let mut text = String::new();
            loop {
                match letters.next().expect("a text is closed on its line") {
                    '"' => break,
                    '\\' => match letters.next().expect("an escape is whole") {
                        'n' => text.push('\n'),
                        escaped @ ('"' | '\\') => text.push(escaped),
                        other => panic!("'\\{other}' is no escape of dot"),
                    },
                    letter => text.push(letter),
                }
            }
            rest.push('T');
            texts.push(text);
        }
        (rest, texts)
    }

    #[test]
    fn dot_reads_back_as_what_was_drawn_whatever_an_owner_is_called() {
        let drawn = dot(&sample());
        let body =
            drawn.strip_prefix("digraph lineage {\n").and_then(|rest| rest.strip_suffix("}\n")).expect("a graph");
        let (mut nodes, mut arrows) = (Vec::new(), 0);
        for line in body.lines().skip(2) {
            let (rest, texts) = statement(line.trim());
            let words: Vec<&str> = rest.split_whitespace().collect();
            let is_node = |word: &str| word.strip_prefix('n').is_some_and(|number| number.parse::<usize>().is_ok());
            match words.as_slice() {
                [node, "[label=T];"] | [node, "[label=T,", "penwidth=3];"] if is_node(node) => nodes.push(texts),
                [from, "->", to, "[label=T];"] if is_node(from) && is_node(to) => arrows += 1,
                other => panic!("no statement of dot: {other:?}"),
            }
        }
        assert_eq!((nodes.len(), arrows), (6, 5));
        assert_eq!(nodes[5], ["Consumer delay_predictor (v\"2)\n\"]; a -> b <b>\\ `x` #quot; (é)"]);
    }

    #[test]
    fn mermaid_has_no_letter_of_an_owner_that_means_something_to_it() {
        let drawn = mermaid(&sample());
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines[0], "flowchart LR");
        for line in &lines[1..7] {
            let label = line.trim().split_once("[\"").and_then(|(_, rest)| rest.strip_suffix("\"]")).expect("a node");
            let label = label.replace("<br/>", "");
            assert!(!label.contains(['"', '<', '>', '[', ']', '`', '\\', '{', '}', '|']), "{label}");
        }
        for line in &lines[7..12] {
            let (from, rest) = line.trim().split_once(" -->|\"").expect("an arrow");
            let (_, to) = rest.split_once("\"| ").expect("a label");
            assert!([from, to].iter().all(|node| node.starts_with('n')), "{line}");
        }
        assert!(drawn.contains("#34;#93;#59; a -#62; b #60;b#62;#92; #96;x#96; #35;quot#59; (é)"), "{drawn}");
        assert!(drawn.ends_with("  class n3 asked\n"), "{drawn}");
    }
}
