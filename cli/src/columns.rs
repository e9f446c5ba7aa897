//! Text in columns.

/// The rows, each cell as wide as the widest of its column.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str("  ");
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_start_at_the_same_place_and_lines_end_without_blanks() {
        let rows = [
            ["a".to_owned(), "b".into()],
            ["long".into(), "c".into()],
            ["é".into(), String::new()],
        ];
        assert_eq!(columns(&rows), "  a     b\n  long  c\n  é\n");
        assert_eq!(columns::<2>(&[]), "");
    }
}
