//! Columns that line up.

use super::{Colour, Paint};

/// Between two columns.
const GAP: &str = "  ";

/// Rows of texts under headings.
#[derive(Debug)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone)]
struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Table {
    /// An empty table.
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; `coloured` are the columns that are not plain.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>, coloured: &[(usize, Colour)]) {
        let colour_of = |position| coloured.iter().find(|(column, _)| *column == position).map(|(_, c)| *c);
        let cells = cells
            .into_iter()
            .enumerate()
            .map(|(position, text)| Cell { text: printable(&text), colour: colour_of(position) });
        self.rows.push(cells.collect());
    }

    /// The table; the last column is as wide as it is, so that nothing is cut.
    pub fn text(&self, paint: Paint) -> String {
        let widths = self.widths();
        let headings = self.headings.iter();
        let heading = headings.map(|text| Cell { text: (*text).to_owned(), colour: Some(Colour::Dim) });
        let mut lines = vec![line(&heading.collect::<Vec<_>>(), &widths, paint)];
        lines.extend(self.rows.iter().map(|row| line(row, &widths, paint)));
        lines.push(String::new());
        lines.join("\n")
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(&cell.text));
            let heading = self.headings.get(column).map_or(0, |text| width(text));
            cells.chain([heading]).max().unwrap_or(0)
        };
        (0..self.headings.len()).map(width).collect()
    }
}

fn line(cells: &[Cell], widths: &[usize], paint: Paint) -> String {
    let mut line = String::new();
    for (position, cell) in cells.iter().enumerate() {
        let is_last = position + 1 == cells.len();
        let shown = cell.colour.map_or_else(|| cell.text.clone(), |colour| paint.text(colour, &cell.text));
        line.push_str(&shown);
        if !is_last {
            let wide = widths.get(position).copied().unwrap_or(0);
            line.push_str(&" ".repeat(wide.saturating_sub(width(&cell.text))));
            line.push_str(GAP);
        }
    }
    line.trim_end().to_owned()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// What receivers and callers wrote can't move the cursor or paint the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colours() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["long name".into(), "fine".into()], &[(1, Colour::Good)]);
        table.row(["é".into(), "bad\u{1b}[31m".into()], &[]);
        let plain = table.text(Paint::new(false));
        assert_eq!(plain, "NAME       STATE\nlong name  fine\né          bad [31m\n");
        assert!(table.text(Paint::new(true)).contains("\u{1b}[32mfine\u{1b}[0m"));
    }
}
