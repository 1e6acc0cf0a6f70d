package metrics_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/maintenance"
)

const rules = "../../deploy/prometheus/specwatch.rules.yml"

// program finds one of Prometheus's programs.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: install Prometheus, for example the package prometheus of Debian, to run this test", name)
	}
	return path
}

func promtool(t testing.TB, input string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "promtool"), args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	promtool(t, "", "check", "rules", rules)
	promtool(t, "", "test", "rules", strings.TrimSuffix(rules, ".yml")+".test.yml")
}

const readToken = "read-secret"

// serve runs a gateway over the database until stop is called.
func (d *database) serve(l net.Listener) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- gateway.New(d.store, gateway.Options{ReadToken: readToken}).Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			d.t.Error(err)
		}
	})
	d.t.Cleanup(stop)
	return stop
}

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// server is a Prometheus.
type server struct {
	t       testing.TB
	address string
	log     *bytes.Buffer // not to be read before it has ended
	ended   chan struct{}
}

// watch starts a Prometheus that scrapes the target and evaluates the rules
// of this repository, both each second.
func watch(t testing.TB, target string) *server {
	t.Helper()
	at := program(t, "prometheus")
	loaded, err := filepath.Abs(rules)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	config := filepath.Join(folder, "prometheus.yml")
	text := fmt.Sprintf(`
global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }
rule_files: [%q]
scrape_configs:
  - job_name: specwatch
    authorization: { credentials: %s }
    static_configs: [{ targets: [%q] }]
`, loaded, readToken, target)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// Another process may take a port between when it is found free and when
	// Prometheus binds it. Then Prometheus ends, and the next port is tried.
	for attempt := 1; ; attempt++ {
		free := listen(t, "127.0.0.1:0")
		p := &server{t: t, address: free.Addr().String(), log: &bytes.Buffer{}, ended: make(chan struct{})}
		free.Close()
		cmd := exec.Command(at, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(folder, "data"), "--web.listen-address="+p.address)
		cmd.Stdout, cmd.Stderr = p.log, p.log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			cmd.Wait()
			close(p.ended)
		}()
		t.Cleanup(func() {
			cmd.Process.Signal(syscall.SIGTERM)
			<-p.ended
			if t.Failed() {
				t.Logf("Prometheus says:\n%s", p.log)
			}
		})
		ready := false
		p.until("Prometheus is ready", func() bool {
			select {
			case <-p.ended:
				return true
			default:
				ready = p.get("/-/ready", nil) == nil
				return ready
			}
		})
		switch {
		case ready:
			return p
		case attempt == 5 || !strings.Contains(p.log.String(), "address already in use"):
			t.Fatal("Prometheus has ended")
		}
	}
}

func (p *server) get(path string, into any) error {
	resp, err := http.Get("http://" + p.address + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	if err == nil && into != nil {
		err = json.Unmarshal(body, into)
	}
	return err
}

func (p *server) until(what string, done func() bool) {
	p.t.Helper()
	for end := time.Now().Add(patience); !done(); <-time.After(100 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%s does not come true", what)
		}
	}
}

// comes waits until a query has a result, and no other than the value.
func (p *server) comes(query, value string) {
	p.t.Helper()
	p.until(query+" is "+value, func() bool {
		var answer struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		if err := p.get("/api/v1/query?query="+url.QueryEscape(query), &answer); err != nil {
			p.t.Fatal(err)
		}
		got := answer.Data.Result
		return len(got) == 1 && got[0].Value[1] == value
	})
}

// firing returns the alerts that fire, as "name session", sorted.
func (p *server) firing() []string {
	p.t.Helper()
	var answer struct {
		Data struct {
			Alerts []struct {
				State  string
				Labels map[string]string
			}
		}
	}
	if err := p.get("/api/v1/alerts", &answer); err != nil {
		p.t.Fatal(err)
	}
	var names []string
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			names = append(names, strings.TrimSpace(a.Labels["alertname"]+" "+a.Labels["session"]))
		}
	}
	slices.Sort(names)
	return names
}

// fires waits until just these alerts fire.
func (p *server) fires(names ...string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%q fire", names), func() bool { return slices.Equal(p.firing(), names) })
}

// A real Prometheus, with the rules of this repository and the read token,
// over a gateway that is pruned under and restarted.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	program(t, "prometheus")
	d := migrated(t)
	old := time.Now().Add(-2 * time.Hour)
	d.exec(insert, "spec_started", old, "yesterday", "login")
	d.exec(insert, "timeout_triggered", old, "yesterday", "login")

	l := listen(t, "127.0.0.1:0")
	address := l.Addr().String()
	// A second descriptor keeps the port while no gateway listens.
	kept, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	stop := d.serve(l)
	p := watch(t, address)
	const timeouts = `specwatch_spec_outcomes_total{outcome="timeout"}`
	p.comes(timeouts, "1")
	p.comes(`up{job="specwatch"}`, "1")
	p.comes(`count(specwatch_session_last_event_timestamp_seconds)`, "1")
	p.fires() // what is two hours old is no news

	d.exec(insert, "session_heartbeat", time.Now(), "night", "")
	for _, spec := range []string{"cart", "search", "checkout"} {
		d.exec(insert, "spec_started", time.Now(), "night", spec)
		d.exec(insert, "spec_failed", time.Now(), "night", spec)
	}
	d.exec(insert, "spec_started", time.Now(), "night", "login")
	d.exec(insert, "intervention_request", time.Now().Add(-11*time.Minute), "asks", "login")
	p.comes(`specwatch_session_failure_streak{session="night"}`, "3")
	d.exec(insert, "session_heartbeat", time.Now(), "night", "") // it is heard of for another minute
	p.comes(`specwatch_session_specs_open{session="night"}`, "1")
	p.comes(`specwatch_interventions_open`, "1")
	p.fires("SpecwatchFailureStreak night", "SpecwatchInterventionWaiting asks")
	d.exec(insert, "timeout_triggered", time.Now(), "night", "login")
	p.comes(timeouts, "2")
	p.fires("SpecwatchFailureStreak night", "SpecwatchInterventionWaiting asks", "SpecwatchTimeout night")
	d.exec(insert, "spec_completed", time.Now(), "night", "login")
	d.exec(insert, "spec_started", time.Now(), "asks", "login")
	p.fires("SpecwatchTimeout night")

	// A restart begins the feed's own counters again, which shows that there
	// was one; those of the database go on, though their rows are gone.
	p.until("the feed is woken", func() bool {
		d.exec(insert, "session_heartbeat", time.Now(), "night", "")
		var answer struct{ Data struct{ Result []any } }
		return p.get("/api/v1/query?query="+url.QueryEscape("specwatch_feed_wakeups_total > 0"), &answer) == nil && len(answer.Data.Result) == 1
	})
	stop()
	if _, err := maintenance.Prune(t.Context(), d.store, time.Now().Add(-time.Hour), nil); err != nil {
		t.Fatal(err)
	}
	p.comes(`up{job="specwatch"}`, "0")
	p.fires("SpecwatchTimeout night")
	again, err := net.FileListener(kept)
	if err != nil {
		t.Fatal(err)
	}
	d.serve(again)
	p.comes(`sum(resets(specwatch_feed_wakeups_total[10m]))`, "1")
	p.comes(timeouts, "2")
	d.exec(insert, "timeout_triggered", time.Now(), "night", "cart")
	p.comes(timeouts, "3")
	p.comes(`sum(resets(specwatch_spec_outcomes_total[10m])) + sum(resets(specwatch_events_total[10m]))`, "0")
	p.fires("SpecwatchTimeout night")

	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+readToken)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", resp.Status, err)
	}
	promtool(t, string(text), "check", "metrics")
}
