package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// table is rows under a title. All columns but the first hold numbers, unless
// it says otherwise.
type table struct {
	title  string
	note   string
	header []string
	rows   [][]string
	words  bool // all columns hold words
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// text writes the table for a terminal.
func (t *table) text(w io.Writer) {
	widths := t.widths()
	fmt.Fprintf(w, "\n%s\n", t.title)
	if t.note != "" {
		fmt.Fprintf(w, "%s\n", t.note)
	}
	for n, row := range append([][]string{t.header}, t.rows...) {
		if n == 0 && strings.Join(row, "") == "" {
			continue
		}
		var line strings.Builder
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 || t.words {
				line.WriteString(cell + space + "  ")
			} else {
				line.WriteString(space + cell + "  ")
			}
		}
		fmt.Fprintln(w, "  "+strings.TrimRight(line.String(), " "))
	}
}

func (t *table) widths() []int {
	widths := make([]int, len(t.header))
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

// markdown returns the table without its title, which is a heading there.
func (t *table) markdown() string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(t.header)
	rule := make([]string, len(t.header))
	for i := range rule {
		rule[i] = "---:"
		if i == 0 || t.words {
			rule[i] = "---"
		}
	}
	line(rule)
	for _, row := range t.rows {
		line(row)
	}
	return b.String()
}
