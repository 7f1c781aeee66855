package main

import (
	_ "embed"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

//go:embed benchmarks.md.tmpl
var docsTemplate string

// writeDocs writes the document, and the plots into a directory beside it that
// has its name. Plots of an earlier run that this one did not make are left
// alone: the document shows only its own.
func (r *results) writeDocs(path string, p plan) error {
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	dir := filepath.Join(filepath.Dir(path), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	figures, err := r.figures(p)
	if err != nil {
		return err
	}
	links := map[string]string{}
	for _, f := range figures {
		if err := f.save(filepath.Join(dir, f.name+".svg")); err != nil {
			return err
		}
		links[f.name] = fmt.Sprintf("![%s](%s/%s.svg)", f.plot.Title.Text, name, f.name)
	}
	return r.fill(path, p, links)
}

func (r *results) fill(path string, p plan, figures map[string]string) (err error) {
	document, err := template.New("benchmarks").Funcs(r.functions(p, figures)).Parse(docsTemplate)
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return document.Execute(file, r)
}

// functions are what the document takes from the run.
func (r *results) functions(p plan, figures map[string]string) template.FuncMap {
	return template.FuncMap{
		"facts":       func() string { return shown(r.factTable()) },
		"competitors": func() string { return shown(r.competitorTable()) },
		"uncontended": func(update bool) string { return shown(r.uncontendedTable(p, update)) },
		"hot":         func(ms int) string { return shown(r.hotTable(time.Duration(ms) * time.Millisecond)) },
		"crowd":       func() string { return shown(r.crowdTable(p)) },
		"exec":        func() string { return shown(r.execTable(p)) },
		"growth":      func() string { return shown(r.growthTable()) },
		"sessions":    func() string { return shown(r.sessionTable()) },
		"allocations": func() string { return shown(r.allocationTable()) },
		"verdicts":    func() string { return shown(r.verdictTable(p)) },
		"figure":      func(name string) string { return figures[name] },
		"plan":        func() plan { return p },
		"pool":        func() int { return poolSize },

		"times": func(a, b string, ms float64, workers int, update bool) string {
			return r.times(a, b, ms, workers, update)
		},
		"execTimes": func(ms float64) string {
			s := r.statement(time.Duration(ms * float64(time.Millisecond)))
			return factor(ratio(of(s, nameExec), of(s, nameOurs)))
		},
		"beside": func(who string, keys int) string { return r.beside(p, who, keys) },
		"broken": func() int { return r.broken(p) },
	}
}

// shown is a table and its note, or says that there is none.
func shown(t table) string {
	if len(t.rows) == 0 {
		return "Not measured in this run."
	}
	if t.note == "" {
		return t.markdown()
	}
	return t.note + "\n\n" + t.markdown()
}

// times is a's rate as a multiple of b's.
func (r *results) times(a, b string, ms float64, workers int, update bool) string {
	c := r.contest(time.Duration(ms*float64(time.Millisecond)), workers, update)
	return factor(ratio(of(c, a), of(c, b)))
}

// beside is the p50 of an uncontended lock beside hot keys.
func (r *results) beside(p plan, who string, keys int) string {
	goroutines := p.crowdOf
	if keys == 0 {
		goroutines = 0
	}
	c := find(r.crowd, who, goroutines, keys, hold)
	return c.showP50()
}

func factor(x float64) string {
	if math.IsNaN(x) {
		return "–"
	}
	return fmt.Sprintf("%.2f", x)
}

// broken is how many requirements do not hold, or were not measured.
func (r *results) broken(p plan) int {
	n := 0
	for _, v := range r.verdicts(p) {
		if !v.known || !v.holds {
			n++
		}
	}
	return n
}
