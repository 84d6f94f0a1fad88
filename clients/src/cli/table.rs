//! Tables for people: columns as wide as their widest cell, two spaces between, numbers to the right.

use std::io::{self, Write};

pub struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(titles: &[&'static str]) -> Table {
        Table { titles: titles.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.titles.len(), "a row has a cell for each title");
        self.rows.push(cells);
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let numeric = |cell: &String| cell == "-" || cell.parse::<f64>().is_ok();
        let columns = 0..self.titles.len();
        let widths: Vec<usize> = columns
            .clone()
            .map(|c| {
                let cells = self.rows.iter().map(|row| row[c].chars().count());
                cells.chain([self.titles[c].len()]).max().unwrap_or(0)
            })
            .collect();
        let to_right: Vec<bool> = columns.map(|c| self.rows.iter().all(|row| numeric(&row[c]))).collect();
        let mut line = |cells: &[&str]| -> io::Result<()> {
            let mut text = String::new();
            for (c, cell) in cells.iter().enumerate() {
                let pad = " ".repeat(widths[c].saturating_sub(cell.chars().count()));
                if c > 0 {
                    text.push_str("  ");
                }
                if to_right[c] {
                    text.push_str(&pad);
                    text.push_str(cell);
                } else {
                    text.push_str(cell);
                    text.push_str(&pad);
                }
            }
            writeln!(out, "{}", text.trim_end())
        };
        line(&self.titles)?;
        for row in &self.rows {
            line(&row.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["TOPIC", "LAG", "HOST"]);
        table.row(vec!["orders".into(), "7".into(), "-".into()]);
        table.row(vec!["a".into(), "-".into(), "10.0.0.1".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let expected = "TOPIC   LAG  HOST\norders    7  -\na         -  10.0.0.1\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
