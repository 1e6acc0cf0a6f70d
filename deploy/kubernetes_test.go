package deploy_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The example for Kubernetes uses flags and variables that exist, takes secrets
// from a secret, and names an image that a cluster does not pull by itself.
func TestKubernetesExample(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	reference, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	type container struct {
		Image string
		Args  []string
		Env   []struct {
			Name, Value string
			ValueFrom   map[string]any `yaml:"valueFrom"`
		}
	}
	commands := map[string]bool{}
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var object struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct {
						InitContainers []container `yaml:"initContainers"`
						Containers     []container
					}
				}
			}
		}
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pod := object.Spec.Template.Spec
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			commands[c.Args[0]] = true
			if _, tag, ok := strings.Cut(c.Image, ":"); !ok || tag == "latest" || !strings.Contains(string(text), "docker build -f deploy/Dockerfile -t "+c.Image+" .") {
				t.Errorf("the image %s is pulled from a registry, or the file does not say how it is made", c.Image)
			}
			for _, arg := range c.Args {
				if strings.HasPrefix(arg, "--") && !strings.Contains(string(reference), "`"+arg) {
					t.Errorf("%s has no flag %s", c.Args[0], arg)
				}
			}
			for _, e := range c.Env {
				if !strings.Contains(string(reference), "`"+e.Name+"`") {
					t.Errorf("there is no variable %s", e.Name)
				}
				if e.Value != "" || e.ValueFrom["secretKeyRef"] == nil {
					t.Errorf("%s is not taken from a secret", e.Name)
				}
			}
		}
	}
	if !commands["migrate"] || !commands["serve"] || len(commands) != 2 {
		t.Errorf("commands: %v", commands)
	}
}
