//! Columns that line up.
//!
//! Job: pad cells by what is seen of them, cut the last column to the width. Never: wraps.

use super::screen::{Paint, cut};

/// A cell: its text and its paint.
pub type Cell = (String, Paint);

/// A table with a heading.
#[derive(Debug)]
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with as many cells as there are heads.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table as text. A column in which no row says anything is left out.
    pub fn show(&self, width: usize, colour: bool) -> String {
        let chars = |text: &str| text.chars().count();
        let columns: Vec<usize> =
            (0..self.heads.len()).filter(|at| self.rows.iter().any(|row| !row[*at].0.is_empty())).collect();
        let widths: Vec<usize> = columns
            .iter()
            .map(|at| self.rows.iter().map(|row| chars(&row[*at].0)).chain([chars(self.heads[*at])]).max().unwrap_or(0))
            .collect();
        let heads: Vec<Cell> = self.heads.iter().map(|head| ((*head).to_owned(), Paint::Dim)).collect();
        let mut out = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            let mut used = 0;
            for (n, at) in columns.iter().enumerate() {
                let (text, paint) = &row[*at];
                let last = n + 1 == columns.len();
                let room = if last { width.saturating_sub(used).max(8) } else { widths[n] };
                let text = cut(text, room);
                line.push_str(&paint.on(colour, &text));
                if !last {
                    line.push_str(&" ".repeat(widths[n] - chars(&text) + 2));
                    used += widths[n] + 2;
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_ones_go() {
        let mut table = Table::new(&["ID", "STATUS", "TAGS", "NAME"]);
        let plain = |text: &str| (text.to_owned(), Paint::Plain);
        table.row(vec![plain("äb"), plain("running"), plain(""), plain("a long name that is cut")]);
        table.row(vec![plain("abcdef"), plain("ok"), plain(""), plain("")]);
        assert_eq!(table.show(30, false), "ID      STATUS   NAME\näb      running  a long name …\nabcdef  ok\n");
    }
}
