package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/specwatch/specwatch/pkg/contract"
)

var update = flag.Bool("update", false, "write the flags into docs/configuration.md")

// flagsPage is the part of docs/configuration.md that the code makes.
func flagsPage() string {
	var b strings.Builder
	table := func(title, about string, set *pflag.FlagSet) {
		fmt.Fprintf(&b, "### %s\n\n%s.\n\n", title, strings.TrimSuffix(about, "."))
		rows := 0
		set.VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" {
				return
			}
			if rows == 0 {
				b.WriteString("| flag | default | meaning |\n|---|---|---|\n")
			}
			rows++
			kind, usage := pflag.UnquoteUsage(f)
			name := "--" + f.Name
			if kind != "" {
				name += " " + strings.ToUpper(kind)
			}
			value := ""
			if f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "false" && f.DefValue != "0s" {
				value = "`" + f.DefValue + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, value, strings.ReplaceAll(usage, "|", `\|`))
		})
		if rows > 0 {
			b.WriteString("\n")
		}
	}
	root := newRoot()
	table("All commands", "Before or after the name of the command", root.PersistentFlags())
	for _, cmd := range root.Commands() {
		if !cmd.Hidden && cmd.Name() != "help" && cmd.Name() != "completion" {
			table("`specwatch "+cmd.Use+"`", cmd.Short, cmd.LocalNonPersistentFlags())
		}
	}
	return b.String()
}

const (
	flagsBegin = "<!-- made from the code: go test ./pkg/cmd/specwatch -run ConfigurationPage -update -->\n"
	flagsEnd   = "<!-- end -->\n"
)

// Every flag is in docs/configuration.md, and nothing else is. The tests below
// do the same for variables, settings and options.
func TestConfigurationPageHasTheFlags(t *testing.T) {
	const path = "../../../docs/configuration.md"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begun := strings.Cut(string(raw), flagsBegin)
	flags, after, ended := strings.Cut(rest, flagsEnd)
	if !begun || !ended {
		t.Fatal("the page has no place for the flags")
	}
	if want := "\n" + flagsPage(); flags != want {
		if !*update {
			t.Errorf("the flags are others than in the code; write them with -update")
		} else if err := os.WriteFile(path, []byte(before+flagsBegin+want+flagsEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// documented are the rows of the table in a section of docs/configuration.md,
// by their names: the rest of the cells.
func documented(t *testing.T, heading string) map[string][]string {
	t.Helper()
	raw, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(raw), "\n"+heading+"\n")
	if !found {
		t.Fatalf("the page has no section %s", heading)
	}
	section, _, _ = strings.Cut(section, "\n#")
	rows := map[string][]string{}
	for line := range strings.SplitSeq(section, "\n") {
		if name, rest, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "` |"); ok && strings.HasPrefix(line, "| `") {
			cells := strings.Split(strings.TrimSuffix(rest, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows[name] = cells
		}
	}
	return rows
}

// same reports what is only in one of the page and the code.
func same(t *testing.T, what string, page map[string][]string, code map[string]bool) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(code)) {
		if page[name] == nil {
			t.Errorf("%s %s is not in the page", what, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(page)) {
		if !code[name] {
			t.Errorf("%s %s is in the page and nowhere read", what, name)
		}
	}
}

// variablesRead returns the environment variables that the Go code of the
// executable and the plugin reads, by the arguments of the functions that read
// one. Packages for tests and measurements are left out.
func variablesRead(t *testing.T) map[string]bool {
	t.Helper()
	constants, arguments := map[string]string{}, map[string]string{}
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{"bench", "chaos", "postgrestest", "release"}, entry.Name()):
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		within := "" // the function
		ast.Inspect(file, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.FuncDecl:
				within = n.Name.Name
			case *ast.ValueSpec:
				for i, value := range n.Values {
					if text, ok := value.(*ast.BasicLit); ok && text.Kind == token.STRING {
						constants[n.Names[i].Name], _ = strconv.Unquote(text.Value)
					}
				}
			case *ast.CallExpr:
				called := types.ExprString(n.Fun)
				if within != "variable" && slices.Contains([]string{"os.Getenv", "os.LookupEnv", "variable"}, called) {
					argument := types.ExprString(n.Args[0])
					arguments[argument[strings.LastIndex(argument, ".")+1:]] = path
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]bool{}
	for argument, path := range arguments {
		name, err := strconv.Unquote(argument)
		if err != nil {
			name = constants[argument]
		}
		if name == "" {
			t.Errorf("%s reads a variable whose name is not a constant: %s", path, argument)
			continue
		}
		read[name] = true
	}
	return read
}

// named returns the first group of each match in the files below a path.
func named(t *testing.T, pattern, root string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			found[match[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestConfigurationPageHasTheVariables(t *testing.T) {
	same(t, "the variable", documented(t, "## Variables"), variablesRead(t))
	same(t, "the variable of Grafana", documented(t, "## Grafana"), named(t, `\$\{?([A-Z][A-Z_]+)`, "../../../provisioning"))
}

func TestConfigurationPageHasTheVariablesOfCompose(t *testing.T) {
	const compose = "../../../docker-compose.yml"
	page := documented(t, "## Docker Compose")
	same(t, "the variable of compose", page, named(t, `\$\{(\w+)`, compose))
	text, err := os.ReadFile(compose)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`\$\{(\w+)(:[-?])([^}]*)\}`).FindAllStringSubmatch(string(text), -1) {
		want := "required"
		if found[2] == ":-" {
			want = strings.ReplaceAll("`"+found[3]+"`", "``", "")
		}
		if row := page[found[1]]; row != nil && row[0] != want {
			t.Errorf("the default of %s is %s, in the page %q", found[1], want, row[0])
		}
	}
}

func TestConfigurationPageHasTheDataSource(t *testing.T) {
	page := documented(t, "### Data source")
	code := map[string]bool{"url": true, "user": true} // which Grafana has for every data source
	for name := range named(t, `json:"(\w+)"`, "../../datasource/settings.go") {
		code["jsonData."+name] = true
	}
	for name := range named(t, `secure\["(\w+)"\]`, "../../datasource/settings.go") {
		code["secureJsonData."+name] = true
	}
	same(t, "the setting", page, code)
	for fallback := range named(t, `const defaultMaxOpenConns = (\d+)`, "../../datasource/settings.go") {
		if row := page["jsonData.maxOpenConns"]; row == nil || row[0] != "`"+fallback+"`" {
			t.Errorf("the default of maxOpenConns is %s, in the page %v", fallback, row)
		}
	}
	var file struct {
		Datasources []struct {
			URL, User      string
			JSONData       map[string]any `yaml:"jsonData"`
			SecureJSONData map[string]any `yaml:"secureJsonData"`
		}
	}
	text, err := os.ReadFile("../../../provisioning/datasources/specwatch.yaml")
	if err == nil {
		err = yaml.Unmarshal(text, &file)
	}
	if err != nil || len(file.Datasources) != 1 {
		t.Fatalf("%v: %+v", err, file)
	}
	source := file.Datasources[0]
	if source.URL == "" || source.User == "" {
		t.Errorf("provisioned without an address or a user: %+v", source)
	}
	for name := range source.JSONData {
		if page["jsonData."+name] == nil {
			t.Errorf("provisioned is %s, which is not in the page", name)
		}
	}
	for name := range source.SecureJSONData {
		if page["secureJsonData."+name] == nil {
			t.Errorf("provisioned is %s, which is not in the page", name)
		}
	}
	form, err := os.ReadFile("../../../src/datasource/ConfigEditor.tsx")
	if err != nil {
		t.Fatal(err)
	}
	for name := range page {
		short := name[strings.LastIndex(name, ".")+1:]
		if has := regexp.MustCompile(`\b` + short + `\b`).Match(form); has == (short == "maxOpenConns") {
			t.Errorf("%s is in the form: %v", short, has)
		}
	}
}

func TestConfigurationPageHasThePanel(t *testing.T) {
	page := documented(t, "### Panel")
	const module = "../../../src/panel/module.tsx"
	same(t, "the option", page, named(t, `path: '(\w+)'`, module))
	text, err := os.ReadFile(module)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := json.Marshal(contract.Settings)
	if err != nil {
		t.Fatal(err)
	}
	var settings map[string]struct {
		Default  any
		Values   []string
		Min, Max int
	}
	if err := json.Unmarshal(shared, &settings); err != nil {
		t.Fatal(err)
	}
	options := regexp.MustCompile(`path: '(\w+)',\s*name: '([^']+)',(?:\s*description: '[^']*',)?\s*defaultValue: (?:settings\.(\w+)|(\w+))`).FindAllStringSubmatch(string(text), -1)
	if len(options) != len(page) {
		t.Errorf("%d options with a default in %s, %d in the page", len(options), module, len(page))
	}
	for _, o := range options {
		row, fallback := page[o[1]], o[4]
		if o[3] != "" {
			fallback = fmt.Sprint(settings[o[3]].Default)
		}
		if row == nil {
			continue
		}
		if row[0] != o[2] || row[1] != "`"+fallback+"`" {
			t.Errorf("%s is called %q and is %s at first, in the page %v", o[1], o[2], fallback, row)
		}
		for _, value := range settings[o[1]].Values {
			if !strings.Contains(row[2], "`"+value+"`") {
				t.Errorf("%s may be %s, which is not in the page", o[1], value)
			}
		}
		if s := settings[o[1]]; s.Max > 0 && !strings.Contains(row[2], fmt.Sprintf("%d to %d", s.Min, s.Max)) {
			t.Errorf("%s is %d to %d, in the page %v", o[1], s.Min, s.Max, row)
		}
	}
}
