package ui

import (
	"io"
	"strings"
)

// minColumn is the width below which a column is not squeezed.
const minColumn = 6

// Table is rows under a header, columns aligned by two spaces. Cells are foreign text: they
// are escaped when the table is printed.
type Table struct {
	Header []string
	rows   [][]string
}

// Row adds a row; missing cells are empty.
func (t *Table) Row(cells ...string) {
	row := make([]string, len(t.Header))
	for i := range row {
		if i < len(cells) {
			row[i] = Line(cells[i])
		}
	}
	t.rows = append(t.rows, row)
}

// Print writes the table. A width > 0 is the terminal's: columns other than the first are cut
// with an ellipsis, widest first, until a row fits or nothing more can be cut.
func (t *Table) Print(w io.Writer, width int) error {
	widths := t.widths()
	if width > 0 {
		squeeze(widths, width)
	}
	var b strings.Builder
	for _, row := range append([][]string{t.Header}, t.rows...) {
		line := len(row) - 1
		for line > 0 && row[line] == "" {
			line-- // no trailing blanks
		}
		for i, cell := range row[:line+1] {
			cell = Clip(cell, widths[i])
			b.WriteString(cell)
			if i < line {
				b.WriteString(strings.Repeat(" ", widths[i]-Width(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *Table) widths() []int {
	widths := make([]int, len(t.Header))
	for i, h := range t.Header {
		widths[i] = Width(h)
	}
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], Width(cell))
		}
	}
	return widths
}

func squeeze(widths []int, width int) {
	total := 2 * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for total > width {
		widest := 0
		for i := 1; i < len(widths); i++ {
			if widest == 0 || widths[i] > widths[widest] {
				widest = i
			}
		}
		if widest == 0 || widths[widest] <= minColumn {
			return
		}
		widths[widest]--
		total--
	}
}
