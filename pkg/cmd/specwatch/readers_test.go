//go:build unix

package main

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/programtest"
)

// The reader of what a server prints may end, as tee in
// "specwatch serve 2>&1 | tee log" may: the server goes on.
func TestNobodyReadsWhatAServerPrints(t *testing.T) {
	t.Parallel()
	for name, makesItPrint := range map[string]func(t *testing.T, page string){
		"serve": func(t *testing.T, page string) {
			for range 3 {
				request, err := http.NewRequestWithContext(t.Context(), "GET", page+"/api/status", nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Host = "another.example"
				answer, err := http.DefaultClient.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				answer.Body.Close()
				if answer.StatusCode < 400 {
					t.Errorf("answered with %d", answer.StatusCode)
				}
			}
		},
		"demo": func(t *testing.T, page string) {
			programtest.Until(t, "the demo tells how a spec ended, and goes on", func() bool {
				s, ok := poll(t, page)
				return ok && s.State.Totals["spec_started"] > 3
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := migrated(t)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(executable, name, "--listen", "127.0.0.1:0")
			cmd.Dir = t.TempDir() // of the demo's data
			cmd.Env = append(os.Environ(), envDatabaseURL+"="+a.url, "XDG_STATE_HOME="+filepath.Join(a.state, "x"))
			cmd.Stdout, cmd.Stderr = w, w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			page := ""
			for lines := bufio.NewScanner(r); page == "" && lines.Scan(); {
				page = address.FindString(lines.Text())
			}
			r.Close()
			makesItPrint(t, page)
			if _, ok := poll(t, page); !ok {
				t.Error("it does not answer any more")
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("it ends with %v", err)
				}
			case <-time.After(time.Minute):
				t.Error("it does not end")
			}
		})
	}
}
