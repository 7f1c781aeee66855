package integration_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// document is one of the Markdown files that users read.
type document struct {
	path  string // from this directory
	prose string // without code blocks, which are left empty
	code  []codeBlock
}

type codeBlock struct{ language, text string }

// documents returns README.md, CHANGELOG.md and docs/*.md.
func documents(t *testing.T) []document {
	t.Helper()
	paths, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []document
	for _, path := range append(paths, "../README.md", "../CHANGELOG.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, newDocument(path, string(text)))
	}
	return all
}

var codeFence = regexp.MustCompile("(?ms)^ *```(\\w*)\n(.*?)^ *```$")

func newDocument(path, text string) document {
	d := document{path: path}
	for _, match := range codeFence.FindAllStringSubmatch(text, -1) {
		d.code = append(d.code, codeBlock{match[1], match[2]})
	}
	d.prose = codeFence.ReplaceAllString(text, "")
	return d
}

type link struct{ text, file, fragment string }

var (
	linkPattern = regexp.MustCompile(`\[([^\]]*)\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	elsewhere   = regexp.MustCompile(`^[a-z]+:`)
)

// links returns the links to files of this repository.
func (d document) links() []link {
	var all []link
	for _, match := range linkPattern.FindAllStringSubmatch(d.prose, -1) {
		if elsewhere.MatchString(match[2]) {
			continue
		}
		file := d.path
		if match[2] != "" {
			file = filepath.Join(filepath.Dir(d.path), match[2])
		}
		all = append(all, link{match[1], file, match[3]})
	}
	return all
}

// Every link points to a file that is there, and to a heading of it.
func TestDocsLinks(t *testing.T) {
	t.Parallel()
	headings := make(map[string][]string) // of each file
	for _, d := range documents(t) {
		for _, link := range d.links() {
			text, err := os.ReadFile(link.file)
			if info, statErr := os.Stat(link.file); err != nil && !(statErr == nil && info.IsDir()) {
				t.Errorf("%s: [%s]: %v", d.path, link.text, err)
				continue
			}
			if link.fragment == "" {
				continue
			}
			if headings[link.file] == nil {
				headings[link.file] = anchors(string(text))
			}
			if !slices.Contains(headings[link.file], link.fragment) {
				t.Errorf("%s: [%s]: %s has no heading #%s", d.path, link.text, link.file, link.fragment)
			}
		}
	}
}

var (
	heading     = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors returns the fragments that point to the headings of a document, by
// GitHub's rules.
func anchors(text string) []string {
	var all []string
	for _, match := range heading.FindAllStringSubmatch(newDocument("", text).prose, -1) {
		anchor := notInAnchor.ReplaceAllString(strings.ToLower(match[1]), "")
		all = append(all, strings.ReplaceAll(anchor, " ", "-"))
	}
	return all
}

var testName = regexp.MustCompile(`\b(Test|Fuzz|Benchmark|Example)[A-Z]\w*`)

// Every test that is named is a link, to the file that it is in.
func TestDocsNameTests(t *testing.T) {
	t.Parallel()
	inFile := make(map[string][]string) // the functions
	for _, d := range documents(t) {
		linked := 0
		for _, link := range d.links() {
			name := testName.FindString(link.text)
			if name == "" {
				continue
			}
			linked++
			if link.text != "`"+name+"`" {
				t.Errorf("%s: [%s] is more than the name of a test", d.path, link.text)
			}
			if inFile[link.file] == nil {
				inFile[link.file] = functions(t, link.file)
			}
			if !slices.Contains(inFile[link.file], name) {
				t.Errorf("%s: there is no %s in %s", d.path, name, link.file)
			}
		}
		if named := len(testName.FindAllString(d.prose, -1)); named != linked {
			t.Errorf("%s names %d tests and links %d", d.path, named, linked)
		}
	}
}

// functions returns the names of the functions in a file, or none if there is
// no such file.
func functions(t *testing.T, path string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return nil
	}
	var names []string
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
			names = append(names, f.Name.Name)
		}
	}
	return names
}

var guarantee = regexp.MustCompile(`(?m)^\d+\. `)

// Every guarantee of the README is linked to a test.
func TestDocsGuarantees(t *testing.T) {
	t.Parallel()
	for _, d := range documents(t) {
		if filepath.Base(d.path) != "README.md" {
			continue
		}
		_, list, _ := strings.Cut(d.prose, "\n## Guarantees\n")
		list, _, _ = strings.Cut(list, "\n## ")
		items := guarantee.Split(list, -1)[1:]
		if len(items) != 14 {
			t.Errorf("%d guarantees, want the 14 rules of the contract", len(items))
		}
		for i, item := range items {
			if len(document{path: d.path, prose: item}.links()) == 0 || !testName.MatchString(item) {
				t.Errorf("guarantee %d has no test", i+1)
			}
		}
	}
}

// Go code is a file, or what stands in a package, or in a function.
func TestDocsGoCode(t *testing.T) {
	t.Parallel()
	for _, d := range documents(t) {
		for _, block := range d.code {
			if block.language != "go" {
				continue
			}
			parsed := false
			for _, around := range [][2]string{{"", ""}, {"package p\n", ""}, {"package p\nfunc _() {\n", "\n}"}} {
				_, err := parser.ParseFile(token.NewFileSet(), "", around[0]+block.text+around[1], parser.SkipObjectResolution)
				parsed = parsed || err == nil
			}
			if !parsed {
				t.Errorf("%s: this is no Go code:\n%s", d.path, block.text)
			}
		}
	}
}

// codeIn are the files with the Go code of a document, where it is compiled and
// run.
var codeIn = map[string]string{
	"../README.md":          "readme_test.go",
	"../docs/operations.md": "operations_test.go",
	"../docs/orms.md":       "ecosystem/guide_*test.go",
	"../docs/testing.md":    "../locktest/guide_test.go",
}

var indentation = regexp.MustCompile(`(?m)^\t+`)

// Go code of these documents stands in their files as it is, but for its
// indentation.
func TestDocsCodeIsRun(t *testing.T) {
	t.Parallel()
	left := len(codeIn)
	for _, d := range documents(t) {
		if codeIn[d.path] == "" {
			continue
		}
		left--
		code := goFiles(t, codeIn[d.path])
		blocks := 0
		for _, block := range d.code {
			if block.language != "go" {
				continue
			}
			blocks++
			if !strings.Contains(code, "\n"+indentation.ReplaceAllString(block.text, "")) {
				t.Errorf("%s has code that is not in %s:\n%s", d.path, codeIn[d.path], block.text)
			}
		}
		if blocks == 0 {
			t.Errorf("%s has no code", d.path)
		}
	}
	if left != 0 {
		t.Errorf("%d documents of %d are not there", left, len(codeIn))
	}
}

var (
	section     = regexp.MustCompile(`(?m)^## `)
	importNamed = regexp.MustCompile("`(?:([a-z_.]+) )?\"?([a-z][\\w.-]*/[\\w./-]+)\"?`")
	majorOf     = regexp.MustCompile(`/v\d+$`)
)

// Each section of docs/orms.md names the packages that its code uses, but for
// those of Go and those that all sections share.
func TestDocsImports(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/orms.md")
	wantNoError(t, err)
	checked := 0
	for _, text := range section.Split(string(text), -1) {
		d := newDocument("", text)
		named := []string{"context", "errors", "sql", "http", "slog", "hashkey", "xactlock", "accounts"} // accounts is a constant
		if strings.HasPrefix(text, "sqlc\n") {
			named = append(named, "pgx", "pgxlock", "pgxpool") // it says that they are those of pgx
		}
		for _, match := range importNamed.FindAllStringSubmatch(d.prose, -1) {
			named = append(named, match[1], filepath.Base(majorOf.ReplaceAllString(match[2], "")))
		}
		for _, block := range d.code {
			for _, name := range packagesIn(t, block) {
				checked++
				if !slices.Contains(named, name) {
					title, _, _ := strings.Cut(text, "\n")
					t.Errorf("docs/orms.md, %s: the code uses %s, which is not among the imports", title, name)
				}
			}
		}
	}
	if checked == 0 {
		t.Error("no package is used")
	}
}

// packagesIn returns the names of the packages that Go code uses.
func packagesIn(t *testing.T, block codeBlock) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+block.text, 0)
	wantNoError(t, err)
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && slices.Contains(file.Unresolved, x) && !slices.Contains(names, x.Name) {
				names = append(names, x.Name)
			}
		}
		return true
	})
	return names
}

// goFiles returns the text of the files, without indentation.
func goFiles(t *testing.T, pattern string) string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(indentation.ReplaceAll(text, nil))
	}
	return all.String()
}
