//! Reads Rust text just well enough for house rules: tokens without comments and literals, and the
//! paths that a file names, resolved to where they lead. It never judges; the rules are in `tidy.rs`.

/// A word or a sign of the source, and its line (from 1). Literals are kept as `""`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A path as the compiler would see it: `crate::…` spelled out, or beginning with another crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPath {
    pub segments: Vec<String>,
    pub line: usize,
    /// Whether it stands in a `mod tests`.
    pub in_tests: bool,
}

impl NamedPath {
    pub fn starts_with(&self, prefix: &[&str]) -> bool {
        self.segments.len() >= prefix.len() && self.segments.iter().zip(prefix).all(|(have, want)| have == want)
    }

    pub fn text(&self) -> String {
        self.segments.join("::")
    }
}

/// The tokens of a source text.
pub fn tokens(source: &str) -> Vec<Token> {
    let characters: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { characters: &characters, at: 0, line: 1, tokens: Vec::new() };
    lexer.run();
    lexer.tokens
}

/// Every path of more than one segment, in `use` trees and elsewhere. `module` is the file's own
/// place under its crate, such as `["registry", "yaml"]`.
pub fn paths(tokens: &[Token], module: &[String]) -> Vec<NamedPath> {
    let mut finder =
        PathFinder { tokens, at: 0, module: module.to_vec(), inline: Vec::new(), depth: 0, found: Vec::new() };
    finder.run();
    finder.found
}

struct Lexer<'a> {
    characters: &'a [char],
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while let Some(character) = self.peek(0) {
            match character {
                '/' if self.peek(1) == Some('/') => self.skip_while(|c| c != '\n'),
                '/' if self.peek(1) == Some('*') => self.block_comment(),
                '"' => self.quoted(),
                '\'' => self.quote_or_lifetime(),
                c if c.is_whitespace() => self.step(),
                c if c.is_alphanumeric() || c == '_' => self.word(),
                ':' if self.peek(1) == Some(':') => {
                    self.push("::");
                    self.step();
                    self.step();
                }
                c => {
                    self.push(&c.to_string());
                    self.step();
                }
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn step(&mut self) {
        if self.peek(0) == Some('\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&wanted) {
            self.step();
        }
    }

    fn push(&mut self, text: &str) {
        self.tokens.push(Token { text: text.to_owned(), line: self.line });
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while let Some(character) = self.peek(0) {
            match (character, self.peek(1)) {
                ('/', Some('*')) => depth += 1,
                ('*', Some('/')) => depth -= 1,
                _ => {
                    self.step();
                    continue;
                }
            }
            self.step();
            self.step();
            if depth == 0 {
                return;
            }
        }
    }

    fn quoted(&mut self) {
        self.push("\"\"");
        self.step();
        while let Some(character) = self.peek(0) {
            if character == '\\' {
                self.step();
            }
            self.step();
            if character == '"' {
                return;
            }
        }
    }

    fn raw(&mut self) {
        self.push("\"\"");
        let start = self.at;
        self.skip_while(|c| c == '#');
        let hashes = self.at - start;
        self.step();
        while let Some(character) = self.peek(0) {
            self.step();
            if character == '"' && (0..hashes).all(|ahead| self.peek(ahead) == Some('#')) {
                self.at += hashes;
                return;
            }
        }
    }

    fn quote_or_lifetime(&mut self) {
        let is_character = self.peek(1) == Some('\\') || self.peek(2) == Some('\'');
        self.step();
        if !is_character {
            return self.skip_while(|c| c.is_alphanumeric() || c == '_');
        }
        self.push("\"\"");
        if self.peek(0) == Some('\\') {
            self.step();
        }
        self.step();
        self.skip_while(|c| c != '\'');
        self.step();
    }

    fn word(&mut self) {
        let start = self.at;
        self.skip_while(|c| c.is_alphanumeric() || c == '_');
        let word: String = self.characters[start..self.at].iter().collect();
        let raw_follows = || {
            let rest = &self.characters[self.at..];
            rest.iter().find(|c| **c != '#') == Some(&'"')
        };
        match (word.as_str(), self.peek(0)) {
            ("b" | "c", Some('"')) => self.quoted(),
            ("b", Some('\'')) => self.quote_or_lifetime(),
            ("r" | "br" | "cr", Some('"' | '#')) if raw_follows() => self.raw(),
            ("r", Some('#')) => self.step(),
            _ => self.push(&word),
        }
    }
}

struct PathFinder<'a> {
    tokens: &'a [Token],
    at: usize,
    module: Vec<String>,
    /// The inline modules around, each with the depth of its braces.
    inline: Vec<(String, usize)>,
    depth: usize,
    found: Vec<NamedPath>,
}

impl PathFinder<'_> {
    fn run(&mut self) {
        while let Some(token) = self.tokens.get(self.at) {
            match token.text.as_str() {
                "{" => self.depth += 1,
                "}" => {
                    self.depth = self.depth.saturating_sub(1);
                    self.inline.retain(|(_, depth)| *depth < self.depth + 1);
                }
                "mod" if self.text(2) == "{" => {
                    self.depth += 1;
                    self.inline.push((self.text(1).to_owned(), self.depth));
                    self.at += 2;
                }
                "use" if self.text(1) != "<" => {
                    self.at += 1;
                    self.use_tree(&[]);
                    continue;
                }
                word if is_word(word) && self.text(1) == "::" && is_word(self.text(2)) && !self.continues_a_path() => {
                    self.plain_path();
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    fn text(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |token| &token.text)
    }

    fn continues_a_path(&self) -> bool {
        let before = |back: usize| self.at.checked_sub(back).map_or("", |at| self.tokens[at].text.as_str());
        before(1) == "::" && (is_word(before(2)) || before(2) == ">")
    }

    fn plain_path(&mut self) {
        let line = self.tokens[self.at].line;
        let mut segments = vec![self.text(0).to_owned()];
        while self.text(1) == "::" && is_word(self.text(2)) {
            segments.push(self.text(2).to_owned());
            self.at += 2;
        }
        self.at += 1;
        self.record(segments, line);
    }

    /// Reads one branch of a `use` and leaves `at` behind it.
    fn use_tree(&mut self, prefix: &[String]) {
        let mut segments = prefix.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        loop {
            match self.text(0) {
                "" => return,
                "::" => self.at += 1,
                "{" => {
                    self.at += 1;
                    while !matches!(self.text(0), "}" | "") {
                        self.use_tree(&segments);
                        if self.text(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "as" => self.at += 2,
                "," | "}" => break,
                ";" => {
                    self.at += usize::from(prefix.is_empty());
                    break;
                }
                word => {
                    segments.push(word.to_owned());
                    self.at += 1;
                }
            }
        }
        self.record(segments, line);
    }

    fn record(&mut self, mut segments: Vec<String>, line: usize) {
        let mut here = self.module.clone();
        here.extend(self.inline.iter().map(|(name, _)| name.clone()));
        let relative = match segments.first().map(String::as_str) {
            Some("self") => {
                segments.remove(0);
                true
            }
            Some("super") => {
                while segments.first().is_some_and(|first| first == "super") {
                    segments.remove(0);
                    here.pop();
                }
                true
            }
            _ => false,
        };
        if relative {
            segments = ["crate".to_owned()].into_iter().chain(here).chain(segments).collect();
        }
        let in_tests = self.inline.iter().any(|(name, _)| name == "tests");
        self.found.push(NamedPath { segments, line, in_tests });
    }
}

fn is_word(text: &str) -> bool {
    text.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_')
}
