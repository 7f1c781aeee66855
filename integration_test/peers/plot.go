package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A figure is a plot with its legend beside it, where it covers nothing.
type figure struct {
	name   string
	plot   *plot.Plot
	legend plot.Legend
}

const (
	figureWidth  = 9 * vg.Inch
	figureHeight = 4 * vg.Inch
	legendWidth  = 2.8 * vg.Inch
)

// colors are one for each competitor, the same in every plot, and told apart
// by most color-blind readers (after Okabe and Ito).
var colors = map[string]color.Color{
	nameOurs:                    color.RGBA{0x00, 0x72, 0xb2, 0xff},
	nameExec:                    color.RGBA{0x56, 0xb4, 0xe9, 0xff},
	nameOursPoll:                color.RGBA{0x56, 0xb4, 0xe9, 0xff},
	nameBare:                    color.RGBA{0x00, 0x00, 0x00, 0xff},
	nameBytes:                   color.RGBA{0x55, 0x55, 0x55, 0xff},
	nameHand:                    color.RGBA{0xd5, 0x5e, 0x00, 0xff},
	nameHandTry:                 color.RGBA{0xe6, 0x9f, 0x00, 0xff},
	nameOursPgx:                 color.RGBA{0x00, 0x3f, 0x63, 0xff},
	nameHandPgx:                 color.RGBA{0x8a, 0x3d, 0x00, 0xff},
	nameSession:                 color.RGBA{0x00, 0x9e, 0x73, 0xff},
	"goose session locker":      color.RGBA{0xcc, 0x79, 0xa7, 0xff},
	"golang-migrate lock":       color.RGBA{0xf0, 0xe4, 0x42, 0xff},
	nameRun:                     color.RGBA{0xb8, 0xa9, 0x10, 0xff},
	"go-pglock (stand-in)":      color.RGBA{0x99, 0x99, 0x99, 0xff},
	"cirello pglock (stand-in)": color.RGBA{0x66, 0x44, 0x22, 0xff},
}

func newFigure(name, title, x, y string) *figure {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	f := &figure{name: name, plot: plot.New(), legend: plot.NewLegend()}
	f.plot.Title.Text = title
	f.plot.Title.Padding = vg.Points(8)
	f.plot.X.Label.Text, f.plot.Y.Label.Text = x, y
	f.legend.Top = true
	f.legend.Left = true
	f.legend.Padding = vg.Points(3)
	f.legend.TextStyle.Font.Size = vg.Points(10)
	f.legend.YOffs = -vg.Points(28)
	return f
}

// save writes the figure in the format that its file name ends in.
func (f *figure) save(path string) error {
	canvas, err := draw.NewFormattedCanvas(figureWidth, figureHeight, filepath.Ext(path)[1:])
	if err != nil {
		return err
	}
	all := draw.New(canvas)
	all.SetColor(color.White)
	all.Fill(all.Rectangle.Path())
	f.plot.Draw(draw.Crop(all, vg.Points(6), -legendWidth, vg.Points(4), -vg.Points(4)))
	f.legend.Draw(draw.Crop(all, figureWidth-legendWidth+vg.Points(10), 0, 0, 0))
	var image bytes.Buffer
	if _, err := canvas.WriteTo(&image); err != nil {
		return err
	}
	// Those who lack the font shall at least see one of its kind.
	svg := bytes.ReplaceAll(image.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
	return os.WriteFile(path, svg, 0o644)
}

// group is the bars of one color, one for each place on the x axis.
type group struct {
	name   string
	values []float64
}

// bars draws groups of bars side by side.
func (f *figure) bars(groups []group, labels ...string) error {
	const room = 110 // points, for all bars of one place
	width := vg.Points(room / float64(len(groups)))
	for i, g := range groups {
		values := make(plotter.Values, len(g.values))
		for j, v := range g.values {
			values[j] = max(v, 0) // not NaN
		}
		chart, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		chart.Color = colors[g.name]
		chart.LineStyle.Width = 0
		chart.Offset = width * vg.Length(float64(i)-float64(len(groups)-1)/2)
		f.plot.Add(chart)
		f.legend.Add(g.name, chart)
	}
	f.plot.NominalX(labels...)
	f.plot.Y.Min = 0
	return nil
}

// line draws a line with a mark at each point. dashed ones have no legend: they
// go with the one before.
func (f *figure) line(name string, points plotter.XYs, dashed bool) error {
	if len(points) == 0 {
		return nil
	}
	line, marks, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	line.Color, marks.Color = colors[name], colors[name]
	line.Width = vg.Points(1.6)
	marks.Shape, marks.Radius = draw.CircleGlyph{}, vg.Points(2.5)
	f.plot.Add(line, marks)
	if dashed {
		line.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
		return nil
	}
	f.legend.Add(name, line, marks)
	return nil
}

// ticks marks exactly these values.
func ticks(values []int) plot.ConstantTicks {
	var all plot.ConstantTicks
	for _, v := range values {
		all = append(all, plot.Tick{Value: float64(v), Label: fmt.Sprint(v)})
	}
	return all
}

// logarithmic gives an axis the scale on which a factor is a distance.
func logarithmic(a *plot.Axis) {
	a.Scale = plot.LogScale{}
	a.Tick.Marker = decades{}
}

// decades marks 0.1, 1, 10 and so on, and draws lines in between.
type decades struct{}

// Ticks is plot.Ticker's.
func (decades) Ticks(low, high float64) []plot.Tick {
	var all []plot.Tick
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for n := 1.0; n < 10; n++ {
			tick := plot.Tick{Value: n * math.Pow(10, e)}
			if n == 1 {
				tick.Label = fmt.Sprint(tick.Value)
			}
			if tick.Value >= low && tick.Value <= high {
				all = append(all, tick)
			}
		}
	}
	return all
}

func delayLabels(delays []time.Duration) []string {
	var labels []string
	for _, d := range delays {
		labels = append(labels, latency(d))
	}
	return labels
}
