package main

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
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

// Every flag, variable and setting is in docs/configuration.md, and nothing
// else is.
func TestConfigurationPageIsComplete(t *testing.T) {
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

	variable := regexp.MustCompile(`\b(?:SPECWATCH|GRAFANA)_[A-Z_]*[A-Z]\b`)
	documented := map[string]bool{}
	for _, line := range strings.Split(before+after, "\n") {
		if name := variable.FindString(strings.SplitN(line+"||", "|", 3)[1]); name != "" {
			documented[name] = true
		}
	}
	used := map[string]bool{}
	for _, root := range []string{"..", "../../runner", "../../../provisioning", "../../../docker-compose.yml"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, name := range variable.FindAllString(string(text), -1) {
				used[name] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if !documented[name] {
			t.Errorf("%s is not in the page", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if !used[name] {
			t.Errorf("%s is in the page and nowhere used", name)
		}
	}

	settings, err := os.ReadFile("../../datasource/settings.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile("json:\"(\\w+)\"|secure\\[\"(\\w+)\"\\]|SecureJSONData\\[\"(\\w+)\"\\]").FindAllStringSubmatch(string(settings), -1) {
		if name := found[1] + found[2] + found[3]; !strings.Contains(after, "| `"+name+"` |") {
			t.Errorf("the setting %s of the data source is not in the page", name)
		}
	}
}
