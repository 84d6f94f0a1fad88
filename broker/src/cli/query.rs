//! `ottla lake query`: SQL on tables, by an engine within this program.

use std::io::{BufWriter, Write};

use ottla_clients::cli::outcome::CliError;
use ottla_clients::cli::table::Table as Printed;
use ottla_lake::query::{Answer, Engine, QueryError, Rows};
use ottla_lake::table::TableAt;

use super::lake::{Format, QueryArgs};

/// Rows whose widest cells make the columns of what is printed.
const ALIGNED_ROWS: usize = 1000;

pub async fn query(args: &QueryArgs, database: &str, tables: Vec<TableAt>) -> Result<(), CliError> {
    let failed = |error: QueryError| CliError::Failed(error.to_string());
    let engine = Engine::new(database, tables, (args.memory as usize) << 20).map_err(failed)?;
    let mut answer = engine.ask(&args.sql).await.map_err(failed)?;
    let mut printer = Printer::new(args.format, &answer);
    while let Some(rows) = answer.next().await.map_err(failed)? {
        printer.print(&rows)?;
    }
    printer.finish()
}

/// Rows on standard output, as they come.
struct Printer {
    format: Format,
    out: BufWriter<std::io::Stdout>,
    titles: Vec<String>,
    aligned: Printed,
}

impl Printer {
    fn new(format: Format, answer: &Answer) -> Printer {
        let titles = answer.columns();
        let aligned = Printed::new(&titles);
        let out = BufWriter::with_capacity(64 << 10, std::io::stdout());
        Printer { format, out, titles, aligned }
    }

    fn print(&mut self, rows: &Rows) -> Result<(), CliError> {
        let failed = |error: QueryError| CliError::Failed(error.to_string());
        match self.format {
            Format::Json => self.out.write_all(&rows.json_lines().map_err(failed)?)?,
            Format::Csv => {
                self.csv_titles()?;
                for row in rows.cells().map_err(failed)? {
                    writeln!(self.out, "{}", csv_line(row.iter().map(Option::as_deref)))?;
                }
            }
            Format::Table => {
                for row in rows.cells().map_err(failed)? {
                    self.aligned.row(row.into_iter().map(shown).collect());
                }
                if self.aligned.len() >= ALIGNED_ROWS {
                    self.aligned.write(&mut self.out)?;
                }
            }
        }
        Ok(())
    }

    /// Once.
    fn csv_titles(&mut self) -> Result<(), CliError> {
        if !self.titles.is_empty() {
            let titles = std::mem::take(&mut self.titles);
            writeln!(self.out, "{}", csv_line(titles.iter().map(|title| Some(title.as_str()))))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), CliError> {
        match self.format {
            Format::Json => {}
            Format::Csv => self.csv_titles()?,
            Format::Table => self.aligned.write(&mut self.out)?,
        }
        Ok(self.out.flush()?)
    }
}

/// A cell of an aligned table: on one line, and without what a terminal takes for orders.
fn shown(cell: Option<String>) -> String {
    let Some(cell) = cell else { return "-".to_owned() };
    if !cell.contains(char::is_control) {
        return cell;
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    cell.chars().map(escaped).collect()
}

/// By RFC 4180; null is nothing at all, an empty text is quoted.
fn csv_line<'a>(cells: impl Iterator<Item = Option<&'a str>>) -> String {
    let mut line = String::new();
    for (number, cell) in cells.enumerate() {
        if number > 0 {
            line.push(',');
        }
        match cell {
            None => {}
            Some(cell) if cell.is_empty() || cell.contains([',', '"', '\n', '\r']) => {
                line.push('"');
                line.push_str(&cell.replace('"', "\"\""));
                line.push('"');
            }
            Some(cell) => line.push_str(cell),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_tells_null_from_nothing() {
        let cells = [Some("a"), None, Some(""), Some("1,5"), Some("say \"x\"\n"), Some(" b ")];
        assert_eq!(csv_line(cells.into_iter()), "a,,\"\",\"1,5\",\"say \"\"x\"\"\n\", b ");
    }

    #[test]
    fn a_cell_stays_on_its_line() {
        assert_eq!(shown(None), "-");
        assert_eq!(shown(Some("Ärger".to_owned())), "Ärger");
        assert_eq!(shown(Some("a\nb\u{1b}[2J".to_owned())), "a\\nb\\u{1b}[2J");
    }
}
