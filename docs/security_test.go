package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each threat in security.md names a test, and each test that it names exists.
func TestThreatsHaveTests(t *testing.T) {
	text, err := os.ReadFile("security.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	for _, root := range []string{"../pkg", "../deploy"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, found := range function.FindAllStringSubmatch(string(source), -1) {
				declared[found[1]] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, threats, _ := strings.Cut(string(text), "## Threats")
	threats, _, found := strings.Cut(threats, "\n## ")
	if !found {
		t.Fatal("the section of threats has no end")
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	file := regexp.MustCompile("`([\\w/.]+\\.(?:spec|test)\\.tsx?)`")
	lines := 0
	for _, line := range strings.Split(threats, "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.TrimSpace(cells[0]) == "threat" {
			continue
		}
		lines++
		tests := named.FindAllStringSubmatch(cells[len(cells)-1], -1)
		files := file.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(tests)+len(files) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, test := range tests {
			if !declared[test[1]] {
				t.Errorf("%s does not exist", test[1])
			}
		}
		for _, test := range files {
			if _, err := os.Stat(filepath.Join("..", test[1])); err != nil {
				t.Error(err)
			}
		}
	}
	if lines < 20 {
		t.Errorf("only %d threats were found", lines)
	}
}
