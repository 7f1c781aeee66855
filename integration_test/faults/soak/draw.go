package main

import (
	"bytes"
	"fmt"
	"slices"
)

// The size of the picture of one series, in points.
const (
	panelWidth  = 640
	panelHeight = 110
	margin      = 30
)

// draw returns an SVG with a panel for each series over time, whose scale begins
// at 0, and the medians that are compared.
func (w *watch) draw() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="Arial,Helvetica,sans-serif" font-size="12">`+"\n",
		panelWidth+2*margin, len(w.all)*(panelHeight+margin)+margin)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, s := range w.all {
		fmt.Fprintf(&b, `<g transform="translate(%d,%d)">`+"\n", margin, margin+i*(panelHeight+margin))
		s.panel(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (s *series) panel(b *bytes.Buffer) {
	n := len(s.samples)
	if n == 0 {
		return
	}
	top := max(slices.Max(s.samples), 1)
	x := func(i int) float64 { return float64(i) * panelWidth / float64(max(n-1, 1)) }
	y := func(v float64) float64 { return panelHeight * (1 - v/top) }
	fmt.Fprintf(b, `<text y="-5">%s %s (up to %.4g; %d samples)</text>`+"\n", s.name, s.unit, top, n)
	fmt.Fprintf(b, `<path d="M0,0 V%d H%d" fill="none" stroke="#999"/>`+"\n", panelHeight, panelWidth)
	b.WriteString(`<polyline fill="none" stroke="#0072b2" points="`)
	for i, v := range s.samples {
		fmt.Fprintf(b, "%.1f,%.1f ", x(i), y(v))
	}
	b.WriteString(`"/>` + "\n")
	second, last := s.thirds()
	for _, m := range []struct {
		from, to int
		v        float64
	}{{n / 3, 2 * n / 3, second}, {2 * n / 3, n - 1, last}} {
		fmt.Fprintf(b, `<path d="M%.1f,%.1f H%.1f" stroke="#d55e00" stroke-width="2"/>`+"\n", x(m.from), y(m.v), x(m.to))
	}
}
