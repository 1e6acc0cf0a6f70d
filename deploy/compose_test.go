package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var (
	secretName = regexp.MustCompile(`(?i)password|token|secret|credential`)
	variable   = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)([^}]*)\}`)
)

// docker-compose.yml carries no secret that anybody could know: each must be
// set by the person who starts it.
func TestComposeHasNoDefaultSecrets(t *testing.T) {
	text, err := os.ReadFile("../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file yaml.Node
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	required := map[string]bool{}
	var walk func(name string, n *yaml.Node)
	walk = func(name string, n *yaml.Node) {
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i < len(n.Content); i += 2 {
				walk(n.Content[i].Value, n.Content[i+1])
			}
		case yaml.DocumentNode, yaml.SequenceNode:
			for _, child := range n.Content {
				walk(name, child)
			}
		case yaml.ScalarNode:
			for _, found := range variable.FindAllStringSubmatch(n.Value, -1) {
				if !secretName.MatchString(found[1]) {
					continue
				}
				if !strings.HasPrefix(found[2], ":?") {
					t.Errorf("line %d: %s is not required", n.Line, found[0])
				}
				required[found[1]] = true
			}
			if secretName.MatchString(name) && !variable.MatchString(n.Value) {
				t.Errorf("line %d: %s is written down: %q", n.Line, name, n.Value)
			}
			if regexp.MustCompile(`://[^/\s]*:[^/\s]*@`).MatchString(n.Value) {
				t.Errorf("line %d: a password is part of a URL", n.Line)
			}
			if name == "ports" && !strings.HasPrefix(n.Value, "127.0.0.1:") {
				t.Errorf("line %d: %s is published to other machines", n.Line, n.Value)
			}
		}
	}
	walk("", &file)
	for _, name := range []string{"SPECWATCH_DB_PASSWORD", "SPECWATCH_READ_TOKEN", "SPECWATCH_WRITE_TOKEN", "GRAFANA_PASSWORD"} {
		if !required[name] {
			t.Errorf("%s is not asked for", name)
		}
		if !strings.Contains(strings.SplitN(string(text), "name: specwatch", 2)[0], name) {
			t.Errorf("the top of the file does not say how to make %s", name)
		}
	}
}

// The Grafana of docker-compose.yml gets each file of provisioning/, and every file
// that it gets exists: Docker would make a folder of a missing one.
func TestComposeMountsWhatIsProvisioned(t *testing.T) {
	text, err := os.ReadFile("../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct{ Volumes []string }
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	mounts := map[string]string{} // by the path in this repository
	for _, volume := range file.Services["grafana"].Volumes {
		from, to, _ := strings.Cut(strings.TrimSuffix(volume, ":ro"), ":")
		mounts[strings.TrimPrefix(from, "./")] = to
		if strings.Contains(to, "/provisioning/") {
			if _, err := os.Stat(filepath.Join("..", from)); err != nil {
				t.Error(err)
			}
		}
	}
	files, err := filepath.Glob("../provisioning/*/*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		path = strings.TrimPrefix(filepath.ToSlash(path), "../")
		folder := path[:strings.LastIndex(path, "/")]
		if mounts[path] != "/etc/grafana/"+path && mounts[folder] != "/etc/grafana/"+folder {
			t.Errorf("%s is not mounted: %v", path, mounts)
		}
	}
}
