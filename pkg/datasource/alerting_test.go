package datasource_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"
	"go.yaml.in/yaml/v3"

	"github.com/specwatch/specwatch/pkg/event"
)

// alertRule is one of provisioning/alerting/rules.yaml, as far as the tests
// look at it.
type alertRule struct {
	UID, Condition string
	Annotations    map[string]string
	Data           []struct {
		RefID             string                 `yaml:"refId"`
		DatasourceUID     string                 `yaml:"datasourceUid"`
		RelativeTimeRange struct{ From, To int } `yaml:"relativeTimeRange"` // seconds ago
		Model             map[string]any
	}
}

func alertRules(t testing.TB) map[string]alertRule {
	t.Helper()
	text, err := os.ReadFile("../../provisioning/alerting/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []alertRule } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	rules := map[string]alertRule{}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			rules[rule.UID] = rule
		}
	}
	return rules
}

// numbers prints a frame as Grafana's expressions read it: a number for each
// set of labels.
func numbers(t testing.TB, frame *data.Frame) string {
	t.Helper()
	if frame.Meta == nil || frame.Meta.Type != data.FrameTypeNumericLong || frame.Meta.TypeVersion != (data.FrameTypeVersion{0, 1}) {
		t.Errorf("%s is not numeric long 0.1: %+v", frame.Name, frame.Meta)
	}
	if len(frame.Fields) != 3 || frame.Fields[0].Type() != data.FieldTypeString || frame.Fields[1].Type() != data.FieldTypeString || frame.Fields[2].Type() != data.FieldTypeFloat64 {
		t.Fatalf("fields of %s: %v", frame.Name, frame.Fields)
	}
	var lines []string
	for i := range frame.Rows() {
		lines = append(lines, fmt.Sprintf("{%s=%s %s=%s} %s %.0f", frame.Fields[0].Name, frame.Fields[0].At(i), frame.Fields[1].Name, frame.Fields[1].At(i), frame.Fields[2].Name, frame.Fields[2].At(i)))
	}
	return strings.Join(lines, ", ")
}

// The queries of each provisioned rule return the exact numbers that its expressions
// need: none outside of the condition, and one for each session and spec in it. The
// alert fires only for numbers above the threshold.
func TestProvisionedAlertRules(t *testing.T) {
	t.Parallel()
	rules := alertRules(t)
	now := time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC)
	type past struct {
		before        time.Duration
		kind          event.Kind
		session, spec string
	}
	// The signs of work in a heartbeat, by the name of the session.
	silent := map[string]string{"hangs": `{"silentSeconds": 720, "cpuSeconds": 0.01}`, "works": `{"silentSeconds": 3}`, "busy": `{"silentSeconds": 720, "cpuSeconds": 9}`}
	const started, completed, failed, timeout, asked, heartbeat = event.SpecStarted, event.SpecCompleted, event.SpecFailed, event.TimeoutTriggered, event.InterventionRequest, event.SessionHeartbeat
	at := func(d time.Duration) string { return fmt.Sprint(now.Add(-d).UnixMilli()) }
	ago := func(seconds int) time.Time { return now.Add(-time.Duration(seconds) * time.Second) }
	for uid, want := range map[string]struct {
		calm, trouble []past
		number, since string // of the first and the second query, in trouble
		fires         string // labels
	}{
		"specwatch-timed-out": {
			calm: []past{
				{25 * time.Hour, timeout, "night", "yesterday"}, {time.Hour, timeout, "night", "again"}, {time.Minute, started, "night", "again"},
				{time.Hour, timeout, "night", "done"}, {time.Minute, completed, "night", "done"},
			},
			trouble: []past{{90 * time.Second, timeout, "night", "login"}},
			number:  "{session=night spec=login} age 90",
			since:   "{session=night spec=login} since " + at(90*time.Second),
			fires:   "night/login",
		},
		"specwatch-no-heartbeat": {
			calm: []past{
				{time.Hour, started, "done", "a"}, {time.Hour, heartbeat, "done", ""}, {59 * time.Minute, completed, "done", "a"},
				{time.Hour, heartbeat, "idle", ""},
			},
			trouble: []past{
				{time.Hour, started, "night", "login"}, {10 * time.Minute, heartbeat, "night", "login"},
				{time.Hour, started, "alive", "cart"}, {10 * time.Second, heartbeat, "alive", ""},
				{8 * time.Hour, heartbeat, "resumed", ""}, {2 * time.Minute, started, "resumed", "cart"},
			},
			number: "{session=alive spec=cart} age 10, {session=resumed spec=cart} age 120, {session=night spec=login} age 600",
			since:  "{session=alive spec=cart} since " + at(10*time.Second) + ", {session=resumed spec=cart} since " + at(2*time.Minute) + ", {session=night spec=login} since " + at(10*time.Minute),
			fires:  "night/login",
		},
		"specwatch-idle": {
			calm: []past{
				{time.Hour, started, "plain", "a"}, {10 * time.Second, heartbeat, "plain", "a"},
				{time.Hour, started, "done", "a"}, {time.Minute, heartbeat, "hangs", "a"}, {50 * time.Second, completed, "hangs", "a"},
			},
			trouble: []past{
				{time.Hour, started, "hangs", "login"}, {10 * time.Second, heartbeat, "hangs", "login"},
				{time.Hour, started, "works", "cart"}, {10 * time.Second, heartbeat, "works", "cart"},
				{time.Hour, started, "busy", "cart"}, {20 * time.Second, heartbeat, "busy", "cart"},
				{time.Hour, started, "hangs", "asks"}, {10 * time.Second, heartbeat, "hangs", "asks"}, {11 * time.Minute, asked, "hangs", "asks"},
				{time.Hour, started, "hangs", "killed"}, {10 * time.Minute, heartbeat, "hangs", "killed"},
			},
			number: "{session=works spec=cart} age 13, {session=busy spec=cart} age 20, {session=hangs spec=login} age 730",
			since:  "{session=works spec=cart} since " + at(13*time.Second) + ", {session=busy spec=cart} since " + at(20*time.Second) + ", {session=hangs spec=login} since " + at(730*time.Second),
			fires:  "hangs/login",
		},
		"specwatch-waiting": {
			calm:    []past{{8 * 24 * time.Hour, asked, "night", "last week"}, {time.Hour, asked, "night", "answered"}, {time.Minute, completed, "night", "answered"}},
			trouble: []past{{50 * time.Hour, asked, "night", "login"}, {5 * time.Minute, asked, "night", "search"}},
			number:  "{session=night spec=search} age 300, {session=night spec=login} age 180000",
			since:   "{session=night spec=search} since " + at(5*time.Minute) + ", {session=night spec=login} since " + at(50*time.Hour),
			fires:   "night/login",
		},
		"specwatch-failure-streak": {
			calm: []past{{4 * time.Hour, failed, "night", "a"}, {3 * time.Hour, failed, "night", "b"}, {2 * time.Hour, timeout, "night", "b"}, {time.Hour, completed, "night", "c"}},
			trouble: []past{
				{30 * time.Minute, failed, "night", "login"}, {20 * time.Minute, timeout, "night", "search"}, {10 * time.Minute, failed, "night", "search"},
				{20 * time.Minute, failed, "unlucky", "a"}, {10 * time.Minute, failed, "unlucky", "b"},
			},
			number: "{session=unlucky spec=a} failures 2, {session=night spec=login} failures 3",
			since:  "{session=unlucky spec=a} since " + at(20*time.Minute) + ", {session=night spec=login} since " + at(30*time.Minute),
			fires:  "night/login",
		},
		"specwatch-unreadable": {trouble: []past{{time.Minute, timeout, "night", "login"}}},
	} {
		t.Run(uid, func(t *testing.T) {
			t.Parallel()
			rule, provisioned := rules[uid]
			if !provisioned {
				t.Fatalf("%s is not provisioned", uid)
			}
			g := launch(t, true)
			conn := g.connect()
			write := func(events []past) {
				for _, e := range events {
					data := "{}"
					if work := silent[e.session]; work != "" && e.kind == heartbeat {
						data = work
					}
					row(t, conn, `INSERT INTO events (kind, at, session, spec, data) VALUES ($1, $2, $3, $4, $5)`, string(e.kind), now.Add(-e.before), e.session, e.spec, data)
				}
			}
			// ask runs the queries as Grafana would at that moment.
			ask := func() (answers []*data.Frame, failures []string) {
				for _, query := range rule.Data {
					if query.DatasourceUID != "specwatch" {
						continue
					}
					model, err := json.Marshal(query.Model)
					if err != nil {
						t.Fatal(err)
					}
					frame, answer := g.ask(ago(query.RelativeTimeRange.From), ago(query.RelativeTimeRange.To), string(model))
					if frame != nil {
						answers = append(answers, frame)
					} else {
						failures = append(failures, answer.Error)
					}
				}
				return answers, failures
			}
			write(want.calm)
			calm, failures := ask()
			for _, frame := range calm {
				if got := numbers(t, frame); got != "" {
					t.Errorf("all is well, yet: %s", got)
				}
			}
			write(want.trouble)
			trouble, more := ask()
			if failures = append(failures, more...); len(failures) > 0 {
				t.Fatal(failures)
			}
			for i, want := range []string{want.number, want.since}[:len(trouble)] {
				if got := numbers(t, trouble[i]); got != want {
					t.Errorf("%s, want %s", got, want)
				}
			}
			var fires []string
			for i := range trouble[0].Rows() {
				if trouble[0].Fields[2].At(i).(float64) > rule.threshold(t) {
					fires = append(fires, fmt.Sprint(trouble[0].Fields[0].At(i), "/", trouble[0].Fields[1].At(i)))
				}
			}
			if got := strings.Join(fires, " "); got != want.fires {
				t.Errorf("fires for %q, want %q", got, want.fires)
			}
			// A failed read is an error, and not a frame without rows.
			row(t, conn, "DROP TABLE events")
			if answers, failures := ask(); len(answers) > 0 || len(failures) != len(trouble) || !strings.Contains(failures[0], "specwatch migrate") {
				t.Errorf("without the table: %v, %q", answers, failures)
			}
		})
	}
}

// threshold is the number that the rule's condition has to exceed.
func (r alertRule) threshold(t testing.TB) float64 {
	t.Helper()
	for _, query := range r.Data {
		if query.RefID != r.Condition {
			continue
		}
		var model struct {
			Type, Expression string
			Conditions       []struct {
				Evaluator struct {
					Type   string
					Params []float64
				}
			}
		}
		text, _ := json.Marshal(query.Model)
		if err := json.Unmarshal(text, &model); err != nil || model.Type != "threshold" || model.Expression != r.Data[0].RefID || model.Conditions[0].Evaluator.Type != "gt" {
			t.Fatalf("the condition is not that the first query exceeds a number: %s, %v", text, err)
		}
		return model.Conditions[0].Evaluator.Params[0]
	}
	t.Fatalf("no condition %q", r.Condition)
	return 0
}

// The message of a rule names session and spec, and links to a dashboard that
// exists, with the rule's data source. It names no panel: Grafana would draw its
// states there whichever data source the panel shows, and render the names in
// their labels as HTML.
func TestAlertRulesLeadToDashboards(t *testing.T) {
	t.Parallel()
	dashboards := map[string]bool{}
	files, err := filepath.Glob("../../src/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard struct{ UID string }
		if err := json.Unmarshal(text, &dashboard); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		dashboards[dashboard.UID] = true
	}
	for uid, rule := range alertRules(t) {
		link, query, _ := strings.Cut(rule.Annotations["dashboard"], "?")
		if _, found := strings.CutPrefix(link, "{{ externalURL }}d/"); !found || !dashboards[strings.TrimPrefix(link, "{{ externalURL }}d/")] {
			t.Errorf("%s: no dashboard at %q", uid, link)
		}
		if source := rule.Data[0].DatasourceUID; !strings.Contains("&"+query+"&", "&var-datasource="+source+"&") {
			t.Errorf("%s: the link %q does not name the data source %s", uid, query, source)
		}
		for name := range rule.Annotations {
			if strings.HasPrefix(name, "__") {
				t.Errorf("%s: %s", uid, name)
			}
		}
		for name, parts := range map[string][]string{
			"summary":   {"{{ $labels.session }}", "{{ $labels.spec }}"},
			"dashboard": {"var-session={{ urlquery $labels.session }}", "$values.from.Value", "$values.to.Value"},
		} {
			for _, part := range parts {
				if uid != "specwatch-unreadable" && !strings.Contains(rule.Annotations[name], part) {
					t.Errorf("%s: the %s lacks %s", uid, name, part)
				}
			}
		}
	}
}
