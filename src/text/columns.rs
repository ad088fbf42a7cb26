//! Lines and columns of text, for terminals and logs: all that the commands print.
//!
//! Columns are as wide as their widest cell; numbers stand to the right. **Never** colours anything but headings, and those
//! only where [`Style`] says so. In a terminal, a line that is too long ends in `…`; elsewhere every line is whole.
use super::style::Style;

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words
    Left,
    /// Numbers
    Right,
}

/// Lines of text under construction.
#[derive(Debug)]
pub struct Text {
    lines: Vec<String>,
    style: Style,
}

impl Text {
    /// No lines yet, to be shown in `style`.
    pub fn new(style: Style) -> Text {
        Text { lines: Vec::new(), style }
    }

    /// Adds a line.
    pub fn line(&mut self, line: &str) {
        let line = line.trim_end();
        let line = match self.style.width {
            Some(width) if line.chars().count() > width => line.chars().take(width - 1).chain(['…']).collect(),
            _ => line.to_owned(),
        };
        self.lines.push(line);
    }

    /// Number of lines.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// Drops all lines but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.lines.truncate(count);
    }

    /// From now on lines are whole, in a terminal, too.
    pub fn unlimit(&mut self) {
        self.style.width = None;
    }

    /// Adds a line in bold, where that is wanted.
    pub fn heading(&mut self, line: &str) {
        self.line(line);
        if let (true, Some(line)) = (self.style.bold, self.lines.last_mut()) {
            *line = format!("\x1b[1m{line}\x1b[0m");
        }
    }

    /// Adds `rows` under `heads`, two spaces in; a row may be shorter than the heads. Nothing for no rows.
    pub fn table(&mut self, heads: &[(&str, Align)], rows: &[Vec<String>]) {
        if rows.is_empty() {
            return;
        }
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([heads[column].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let render = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for ((cell, (_, align)), width) in cells.zip(heads).zip(&widths) {
                let padding = " ".repeat(width - cell.chars().count());
                line.push_str("  ");
                match align {
                    Align::Left => line.extend([cell, &padding]),
                    Align::Right => line.extend([padding.as_str(), cell]),
                }
            }
            line
        };
        if heads.iter().any(|(head, _)| !head.is_empty()) {
            self.heading(&render(&mut heads.iter().map(|(head, _)| *head)));
        }
        for row in rows {
            self.line(&render(&mut row.iter().map(String::as_str)));
        }
    }

    /// The text, with a line end after each line.
    pub fn finish(self) -> String {
        self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Align, Style, Text};

    #[test]
    fn columns_line_up_and_terminals_are_not_overrun() {
        let rows = [vec!["Conv".to_owned(), "7".to_owned()], vec!["ü".to_owned(), "123".to_owned()]];
        let mut text = Text::new(Style { bold: false, width: None });
        text.table(&[("op", Align::Left), ("n", Align::Right)], &rows);
        assert_eq!(text.finish(), "  op      n\n  Conv    7\n  ü     123\n");
        let mut text = Text::new(Style { bold: true, width: Some(8) });
        text.table(&[("op", Align::Left), ("n", Align::Right)], &rows);
        assert_eq!(text.finish(), "\u{1b}[1m  op   …\u{1b}[0m\n  Conv …\n  ü    …\n");
    }
}
