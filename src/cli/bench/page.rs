//! A page that stands by itself: its style and its plots are in it, and nothing is loaded from
//! elsewhere. It is put together here; what is on it, others say.

use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;

use super::super::{Failure, output};
use super::chart::{Chart, escaped};

/// A page as far as it is written.
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    body: String,
}

/// The file that a page will be written to.
#[derive(Debug)]
pub struct PageFile {
    path: PathBuf,
    is_new: bool,
    written: bool,
}

impl Page {
    pub fn new(title: &str, subtitle: &str) -> Self {
        let body = format!("<h1>{}</h1>\n<p class=\"subtitle\">{}</p>\n", escaped(title), escaped(subtitle));
        Self { title: title.to_owned(), body }
    }

    pub fn heading(&mut self, text: &str) {
        let _ = writeln!(self.body, "<h2>{}</h2>", escaped(text));
    }

    pub fn text(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escaped(text));
    }

    /// What a reader must not miss.
    pub fn warnings(&mut self, warnings: &[String]) {
        if warnings.is_empty() {
            return;
        }
        self.body.push_str("<ul class=\"warnings\">\n");
        for warning in warnings {
            let _ = writeln!(self.body, "<li>{}</li>", escaped(warning));
        }
        self.body.push_str("</ul>\n");
    }

    /// Rows under a header; `right` tells which columns hold numbers.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>], right: &[usize]) {
        let class = |index: usize| if right.contains(&index) { " class=\"number\"" } else { "" };
        self.body.push_str("<div class=\"table\"><table>\n<thead><tr>");
        for (index, title) in header.iter().enumerate() {
            let _ = write!(self.body, "<th{}>{}</th>", class(index), escaped(title));
        }
        self.body.push_str("</tr></thead>\n<tbody>\n");
        for row in rows {
            self.body.push_str("<tr>");
            for (index, cell) in row.iter().enumerate() {
                let _ = write!(self.body, "<td{}>{}</td>", class(index), escaped(cell));
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    pub fn chart(&mut self, chart: &Chart) {
        self.body.push_str(&chart.figure());
    }

    pub fn html(&self) -> String {
        let (title, body) = (escaped(&self.title), &self.body);
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
        )
    }
}

impl PageFile {
    /// Makes the file, or finds that it can't be made, before anything is measured for it.
    pub fn begin(path: Option<&PathBuf>) -> Result<Option<Self>, Failure> {
        let begin = |path: &PathBuf| {
            let is_new = !path.exists();
            // What an earlier run wrote stays until there is something to write.
            let opened = File::options().write(true).create(true).truncate(false).open(path);
            opened.map_err(|error| Failure::file(path, "be written", &error))?;
            Ok(Self { path: path.clone(), is_new, written: false })
        };
        path.map(begin).transpose()
    }

    pub fn write(mut self, page: &Page) -> Result<(), Failure> {
        std::fs::write(&self.path, page.html()).map_err(|error| Failure::file(&self.path, "be written", &error))?;
        self.written = true;
        output::note(&format!("wrote {}", self.path.display()));
        Ok(())
    }
}

impl Drop for PageFile {
    fn drop(&mut self) {
        if self.is_new && !self.written {
            // An empty file in the place of a page tells nothing; nor does failing to remove it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

const STYLE: &str = include_str!("page.css");
