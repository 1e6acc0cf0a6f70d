package datasource_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend/grpcplugin"
	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/contract"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

// The tests drive the executable as Grafana does, over the plugin protocol.
var executable string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "specwatch-plugin")
	if err != nil {
		panic(err)
	}
	executable = filepath.Join(folder, "gpx_specwatch")
	build := exec.Command("go", "build", "-o", executable, "..")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "the plugin does not build:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(folder)
	os.Exit(code)
}

const patience = 30 * time.Second

type grafana struct {
	t           testing.TB
	database    string
	context     *pluginv2.PluginContext
	diagnostics pluginv2.DiagnosticsClient
	resource    pluginv2.ResourceClient
	data        pluginv2.DataClient
	stream      pluginv2.StreamClient
}

func settings(t testing.TB, database string) *pluginv2.DataSourceInstanceSettings {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	jsonData, _ := json.Marshal(map[string]string{"database": strings.TrimPrefix(u.Path, "/"), "schema": u.Query().Get("search_path"), "sslmode": "disable"})
	host := u.Host
	if host == "" {
		host = u.Query().Get("host")
	}
	return &pluginv2.DataSourceInstanceSettings{
		Id:  1, //nolint:staticcheck // Grafana sends it
		Uid: "specwatch", Name: "Specwatch", Url: host, User: u.User.Username(), JsonData: jsonData,
		DecryptedSecureJsonData: map[string]string{"password": password}, LastUpdatedMS: time.Now().UnixMilli(),
	}
}

// launch starts the executable over a new database, with the schema if migrate is set.
func launch(t testing.TB, migrate bool) *grafana {
	t.Helper()
	database, name := postgrestest.Schema(t)
	if migrate {
		if _, err := schema.Migrate(t.Context(), store.Config{URL: database, Schema: name}, nil); err != nil {
			t.Fatal(err)
		}
	}
	return plug(t, database)
}

// plug starts the executable over the database.
func plug(t testing.TB, database string) *grafana {
	t.Helper()
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: plugin.HandshakeConfig{ProtocolVersion: grpcplugin.ProtocolVersion, MagicCookieKey: grpcplugin.MagicCookieKey, MagicCookieValue: grpcplugin.MagicCookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{grpcplugin.ProtocolVersion: {
			"diagnostics": &grpcplugin.DiagnosticsGRPCPlugin{}, "resource": &grpcplugin.ResourceGRPCPlugin{},
			"data": &grpcplugin.DataGRPCPlugin{}, "stream": &grpcplugin.StreamGRPCPlugin{},
		}},
		Cmd:              exec.Command(executable),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
	})
	t.Cleanup(client.Kill)
	protocol, err := client.Client()
	if err != nil {
		t.Fatal(err)
	}
	dispense := func(name string) any {
		raw, err := protocol.Dispense(name)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	return &grafana{
		t: t, database: database,
		context:     &pluginv2.PluginContext{OrgId: 1, PluginId: "specwatch-events-datasource", DataSourceInstanceSettings: settings(t, database), User: &pluginv2.User{Login: "viewer", Role: "Viewer"}},
		diagnostics: dispense("diagnostics").(pluginv2.DiagnosticsClient), resource: dispense("resource").(pluginv2.ResourceClient),
		data: dispense("data").(pluginv2.DataClient), stream: dispense("stream").(pluginv2.StreamClient),
	}
}

func (g *grafana) connect() *pgx.Conn {
	g.t.Helper()
	return postgrestest.Connect(g.t, g.database)
}

func (g *grafana) call(path string) (int, map[string]any, []any) {
	g.t.Helper()
	return g.send(http.MethodGet, path, "")
}

func (g *grafana) send(method, path, text string) (int, map[string]any, []any) {
	g.t.Helper()
	name, _, _ := strings.Cut(path, "?")
	stream, err := g.resource.CallResource(g.t.Context(), &pluginv2.CallResourceRequest{PluginContext: g.context, Path: name, Method: method, Url: path, Body: []byte(text)})
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		g.t.Fatal(err)
	}
	var body any
	if err := json.Unmarshal(resp.Body, &body); err != nil {
		g.t.Fatalf("%s: %s", err, resp.Body)
	}
	object, _ := body.(map[string]any)
	list, _ := body.([]any)
	return int(resp.Code), object, list
}

func (g *grafana) poll(since string) map[string]any {
	g.t.Helper()
	code, body, _ := g.call("status?since=" + url.QueryEscape(since))
	if code != http.StatusOK {
		g.t.Fatalf("%d: %v", code, body)
	}
	return body
}

func specsOf(status map[string]any) string {
	var names []string
	for _, e := range status["events"].([]any) {
		names = append(names, e.(map[string]any)["spec"].(string))
	}
	return strings.Join(names, " ")
}

type position struct {
	From        string `json:"from"`
	Cursor      string `json:"cursor"`
	Interrupted string `json:"interrupted"`

	State json.RawMessage `json:"state"`
}

func (g *grafana) subscribe() position {
	g.t.Helper()
	resp, err := g.stream.SubscribeStream(g.t.Context(), &pluginv2.SubscribeStreamRequest{PluginContext: g.context, Path: "events"})
	if err != nil || resp.Status != pluginv2.SubscribeStreamResponse_OK {
		g.t.Fatalf("%v: %v", resp, err)
	}
	_, at := readFrame(g.t, resp.Data)
	return at
}

// subscribesAt waits until a new viewer gets this cursor: the plugin stores the
// position of the stream after it has sent a frame.
func (g *grafana) subscribesAt(cursor string) {
	g.t.Helper()
	for end := time.Now().Add(patience); ; {
		told := g.subscribe().Cursor
		if told == cursor {
			return
		}
		if time.Now().After(end) {
			g.t.Fatalf("a new viewer gets %s, the position of the stream is %s", told, cursor)
		}
	}
}

// run returns a function that waits for the next frame, leaving out frames that have
// only the state.
func (g *grafana) run() func() (*data.Frame, position) {
	g.t.Helper()
	next := g.runAll()
	return func() (*data.Frame, position) {
		g.t.Helper()
		for {
			frame, at := next()
			if at.State == nil || frame.Rows() > 0 {
				return frame, at
			}
		}
	}
}

func (g *grafana) runAll() func() (*data.Frame, position) {
	g.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g.t.Cleanup(cancel)
	stream, err := g.stream.RunStream(ctx, &pluginv2.RunStreamRequest{PluginContext: g.context, Path: "events"})
	if err != nil {
		g.t.Fatal(err)
	}
	return func() (*data.Frame, position) {
		g.t.Helper()
		late := time.AfterFunc(patience, cancel)
		defer late.Stop()
		packet, err := stream.Recv()
		if err != nil {
			g.t.Fatal(err)
		}
		return readFrame(g.t, packet.Data)
	}
}

func readFrame(t testing.TB, text []byte) (*data.Frame, position) {
	t.Helper()
	var frame data.Frame
	if err := json.Unmarshal(text, &frame); err != nil {
		t.Fatalf("%s: %s", err, text)
	}
	custom, err := json.Marshal(frame.Meta.Custom)
	if err != nil {
		t.Fatal(err)
	}
	var at position
	if err := json.Unmarshal(custom, &at); err != nil || at.Cursor == "" {
		t.Fatalf("metadata %s: %v", custom, err)
	}
	return &frame, at
}

func column(t testing.TB, frame *data.Frame, name string) []any {
	t.Helper()
	field, _ := frame.FieldByName(name)
	if field == nil {
		t.Fatalf("no field %s in %v", name, frame.Fields)
	}
	values := make([]any, field.Len())
	for i := range values {
		if v, ok := field.ConcreteAt(i); ok {
			values[i] = v
		} else {
			values[i] = nil
		}
	}
	return values
}

func row(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

const insert = `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 's', $1)`

func TestLateCommit(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	first := g.subscribe()
	polled := g.poll("")
	next := g.run()
	_, at := next()
	if at.From != first.Cursor {
		t.Fatalf("the position of the stream is %s, the subscriber got %s", at.From, first.Cursor)
	}
	late, early := g.connect(), g.connect()
	row(t, late, "BEGIN")
	row(t, late, insert, "late")
	row(t, early, insert, "early")
	frame, one := next()
	if got := fmt.Sprint(column(t, frame, "spec")); got != "[early]" || one.From != at.Cursor {
		t.Fatalf("%s from %s after %s", got, one.From, at.Cursor)
	}
	polled = g.poll(polled["cursor"].(string))
	if got := specsOf(polled); got != "early" {
		t.Fatalf("polled %q", got)
	}
	row(t, late, "COMMIT")
	frame, two := next()
	if got := fmt.Sprint(column(t, frame, "spec")); got != "[late]" || two.From != one.Cursor {
		t.Fatalf("%s from %s after %s", got, two.From, one.Cursor)
	}
	if got := specsOf(g.poll(polled["cursor"].(string))); got != "late" {
		t.Fatalf("polled %q", got)
	}
	// A later viewer gets the present position of the stream.
	g.subscribesAt(two.Cursor)
}

// 10,000 events that 8 writers write at once arrive once each by the stream and by
// polling the resource, and as they are in the table.
func TestEveryEventOnceInBothModes(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	const writers, each = 8, 1_250
	begin := g.subscribe()
	next := g.run()
	_, at := next()
	var writing, reading sync.WaitGroup
	for w := range writers {
		conn := g.connect()
		writing.Go(func() {
			for i := range each {
				sql := `INSERT INTO events (kind, session, spec, data) VALUES ($1, $2, $3, $4)`
				if i%25 == 24 { // some commit late
					sql = `WITH w AS MATERIALIZED (SELECT pg_sleep(0.002)) INSERT INTO events (kind, session, spec, data) SELECT $1::text, $2::text, $3::text, $4::jsonb FROM w`
				}
				if _, err := conn.Exec(context.Background(), sql, event.Kinds[i%len(event.Kinds)], fmt.Sprint("writer ", w), fmt.Sprint(i), fmt.Sprintf(`{"n": %d}`, i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	streamed, polled := map[int64]string{}, map[int64]string{}
	take := func(mode string, got map[int64]string, id int64, line string) {
		if _, twice := got[id]; twice {
			t.Errorf("%s: event %d twice", mode, id)
		}
		got[id] = line
	}
	reading.Go(func() {
		for cursor, end := begin.Cursor, time.Now().Add(4*patience); len(polled) < writers*each && time.Now().Before(end); {
			status := g.poll(cursor)
			cursor = status["cursor"].(string)
			for _, e := range status["events"].([]any) {
				e := e.(map[string]any)
				at, err := time.Parse(time.RFC3339Nano, e["at"].(string))
				if err != nil {
					t.Error(err)
				}
				take("polled", polled, int64(e["id"].(float64)), fmt.Sprint(e["kind"], at.UnixMilli(), e["session"], e["spec"], e["data"].(map[string]any)["n"]))
			}
		}
	})
	for last := at.Cursor; len(streamed) < writers*each; {
		frame, at := next()
		if at.From != last {
			t.Fatalf("from %s after %s", at.From, last)
		}
		last = at.Cursor
		ids, kinds, times := column(t, frame, "id"), column(t, frame, "kind"), column(t, frame, "time")
		sessions, specs, texts := column(t, frame, "session"), column(t, frame, "spec"), column(t, frame, "data")
		for i := range ids {
			var n struct{ N float64 }
			if err := json.Unmarshal(texts[i].(json.RawMessage), &n); err != nil {
				t.Fatal(err)
			}
			take("streamed", streamed, ids[i].(int64), fmt.Sprint(kinds[i], times[i].(time.Time).UnixMilli(), sessions[i], specs[i], n.N))
		}
	}
	writing.Wait()
	reading.Wait()
	rows, err := g.connect().Query(t.Context(), `SELECT id, kind, at, session, spec, (data->>'n')::float8 FROM events`)
	if err != nil {
		t.Fatal(err)
	}
	stored := 0
	for rows.Next() {
		var id int64
		var kind, session, spec string
		var at time.Time
		var n float64
		if err := rows.Scan(&id, &kind, &at, &session, &spec, &n); err != nil {
			t.Fatal(err)
		}
		stored++
		want := fmt.Sprint(kind, at.UnixMilli(), session, spec, n)
		if streamed[id] != want || polled[id] != want {
			t.Errorf("stored %s, streamed %s, polled %s", want, streamed[id], polled[id])
		}
	}
	if stored != writers*each || len(streamed) != stored || len(polled) != stored {
		t.Errorf("%d stored, %d streamed, %d polled", stored, len(streamed), len(polled))
	}
}

func (g *grafana) health() *pluginv2.CheckHealthResponse {
	g.t.Helper()
	resp, err := g.diagnostics.CheckHealth(g.t.Context(), &pluginv2.CheckHealthRequest{PluginContext: g.context})
	if err != nil {
		g.t.Fatal(err)
	}
	return resp
}

func TestHealth(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	if resp := g.health(); resp.Status != pluginv2.CheckHealthResponse_OK {
		t.Errorf("%+v", resp)
	}
	change := func(f func(*pluginv2.DataSourceInstanceSettings)) {
		g.context.DataSourceInstanceSettings = settings(t, g.database)
		g.context.DataSourceInstanceSettings.LastUpdatedMS += time.Now().UnixNano() % 1_000_000
		f(g.context.DataSourceInstanceSettings)
	}
	expect := func(code, text string) {
		t.Helper()
		resp := g.health()
		if resp.Status != pluginv2.CheckHealthResponse_ERROR || !strings.Contains(resp.Message, text) || !strings.Contains(string(resp.JsonDetails), code) {
			t.Errorf("want %s, %s: %+v", code, text, resp)
		}
		if strings.Contains(resp.Message, "hunter2") {
			t.Errorf("the password is in %q", resp.Message)
		}
	}
	change(func(s *pluginv2.DataSourceInstanceSettings) {
		s.Url = "127.0.0.1:1"
		s.DecryptedSecureJsonData["password"] = "hunter2"
	})
	expect(store.NoConnection, "refused")
	wrong, err := url.Parse(g.database)
	if err != nil {
		t.Fatal(err)
	}
	wrong.User = url.UserPassword(wrong.User.Username(), "hunter2")
	if conn, err := pgx.Connect(t.Context(), wrong.String()); err == nil {
		conn.Close(t.Context())
		t.Log("this server takes any password, so a wrong one is not tried")
	} else {
		change(func(s *pluginv2.DataSourceInstanceSettings) { s.DecryptedSecureJsonData["password"] = "hunter2" })
		expect(store.NoConnection, "check user and password")
	}
	with := func(name, value string) {
		change(func(s *pluginv2.DataSourceInstanceSettings) {
			values := map[string]string{}
			if err := json.Unmarshal(s.JsonData, &values); err != nil {
				t.Fatal(err)
			}
			values[name] = value
			s.JsonData, _ = json.Marshal(values) // texts cause no error
		})
	}
	with("database", "nothing_here")
	expect(store.NoConnection, `check the name of the database, "nothing_here"`)
	with("schema", "nothing_here")
	expect(store.NoTable, `schema "nothing_here" does not exist`)
	with("sslmode", "require")
	expect(store.NoConnection, "choose the TLS mode disable")
	with("sslmode", "") // a server on this machine is connected to without TLS
	if resp := g.health(); resp.Status != pluginv2.CheckHealthResponse_OK {
		t.Errorf("a local server without a TLS mode: %+v", resp)
	}
	other, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and does not answer
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	change(func(s *pluginv2.DataSourceInstanceSettings) { s.Url = other.Addr().String() })
	asked := time.Now()
	expect(store.NoConnection, "no PostgreSQL server")
	if took := time.Since(asked); took >= 10*time.Second { // after which an attempt to connect ends
		t.Errorf("another server was noticed after %s", took)
	}
	conn := g.connect()
	role := fmt.Sprintf("specwatch_plugin_%d", time.Now().UnixNano())
	row(t, conn, "CREATE ROLE "+role+" LOGIN PASSWORD 'hunter2'")
	t.Cleanup(func() {
		conn.Exec(context.Background(), "DROP OWNED BY "+role)
		conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	var schema string
	if err := conn.QueryRow(t.Context(), "SELECT current_schema()").Scan(&schema); err != nil {
		t.Fatal(err)
	}
	row(t, conn, "GRANT USAGE ON SCHEMA "+schema+" TO "+role)
	change(func(s *pluginv2.DataSourceInstanceSettings) {
		s.User = role
		s.DecryptedSecureJsonData["password"] = "hunter2"
	})
	expect(store.NoRights, "GRANT specwatch_reader")
	row(t, conn, "DELETE FROM specwatch_migrations WHERE version_id > 0")
	change(func(*pluginv2.DataSourceInstanceSettings) {})
	expect(store.SchemaOld, "specwatch migrate")
	row(t, conn, "DROP TABLE events")
	change(func(*pluginv2.DataSourceInstanceSettings) {})
	expect(store.NoTable, "specwatch migrate")

	for text, f := range map[string]func(*pluginv2.DataSourceInstanceSettings){
		"no host":            func(s *pluginv2.DataSourceInstanceSettings) { s.Url = "" },
		"without user":       func(s *pluginv2.DataSourceInstanceSettings) { s.Url = "postgres://u:hunter2@h/db" },
		"scheme or database": func(s *pluginv2.DataSourceInstanceSettings) { s.Url = "localhost:5501/one" },
		"as host:port":       func(s *pluginv2.DataSourceInstanceSettings) { s.Url = "localhost:postgres" },
		"such as localhost":  func(s *pluginv2.DataSourceInstanceSettings) { s.Url = "localhost:99999" },
		"Unix socket":        func(s *pluginv2.DataSourceInstanceSettings) { s.Url = "localhost:" },
		"no user":            func(s *pluginv2.DataSourceInstanceSettings) { s.User = "" },
		"no database":        func(s *pluginv2.DataSourceInstanceSettings) { s.JsonData = []byte(`{}`) },
		"TLS mode": func(s *pluginv2.DataSourceInstanceSettings) {
			s.JsonData = []byte(`{"database":"d","sslmode":"prefer"}`)
		},
		"CA certificate": func(s *pluginv2.DataSourceInstanceSettings) {
			s.JsonData = []byte(`{"database":"d"}`)
			s.DecryptedSecureJsonData["tlsCACert"] = "x"
		},
		"client certificate ": func(s *pluginv2.DataSourceInstanceSettings) {
			s.JsonData = []byte(`{"database":"d"}`)
			s.DecryptedSecureJsonData["tlsClientKey"] = "x"
		},
	} {
		change(f)
		resp, err := g.diagnostics.CheckHealth(t.Context(), &pluginv2.CheckHealthRequest{PluginContext: g.context})
		told := fmt.Sprint(resp, err)
		if resp.GetStatus() == pluginv2.CheckHealthResponse_OK || !strings.Contains(told, text) || strings.Contains(told, "hunter2") {
			t.Errorf("%s: %s", text, told)
		}
	}
}

func (g *grafana) ask(from, to time.Time, query string) (*data.Frame, *pluginv2.DataResponse) {
	g.t.Helper()
	frames, answer := g.frames(from, to, query)
	if answer.Error != "" {
		return nil, answer
	}
	if len(frames) != 1 {
		g.t.Fatalf("%s: %v", query, frames)
	}
	return frames[0], answer
}

func (g *grafana) frames(from, to time.Time, query string) (data.Frames, *pluginv2.DataResponse) {
	g.t.Helper()
	resp, err := g.data.QueryData(g.t.Context(), &pluginv2.QueryDataRequest{PluginContext: g.context, Queries: []*pluginv2.DataQuery{{
		RefId: "A", MaxDataPoints: 100, IntervalMS: 60_000, Json: []byte(query),
		TimeRange: &pluginv2.TimeRange{FromEpochMS: from.UnixMilli(), ToEpochMS: to.UnixMilli()},
	}}})
	if err != nil {
		g.t.Fatal(err)
	}
	answer := resp.Responses["A"]
	if answer.Error != "" {
		return nil, answer
	}
	frames, err := data.UnmarshalArrowFrames(answer.Frames)
	if err != nil || slices.ContainsFunc(frames, func(frame *data.Frame) bool { return frame.RefID != "A" }) {
		g.t.Fatalf("%s: %v, %v", query, frames, err)
	}
	return frames, answer
}

// The query for promises returns which of them is at risk, and why.
func TestPromises(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	conn := g.connect()
	statuses := func() map[string]string {
		t.Helper()
		frame, answer := g.ask(time.Now().Add(-time.Hour), time.Now(), `{"queryType":"promises"}`)
		if frame == nil {
			t.Fatal(answer.Error)
		}
		found := map[string]string{}
		whys := column(t, frame, "why")
		for i, name := range column(t, frame, "promise") {
			found[name.(string)] = fmt.Sprint(column(t, frame, "status")[i], ": ", whys[i])
		}
		return found
	}
	until := func(name, text string) {
		t.Helper()
		var told map[string]string
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if told = statuses(); strings.HasPrefix(told[name], text) {
				return
			}
		}
		t.Errorf("%s: %q, want %q", name, told[name], text)
	}
	// On a busy machine an answer, or the reader, may be late at times.
	for end := time.Now().Add(patience); ; {
		told := statuses()
		maps.DeleteFunc(told, func(_, text string) bool { return strings.HasPrefix(text, "kept: ") })
		if len(told) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("not kept: %q", told)
			break
		}
	}
	row(t, conn, `INSERT INTO events (kind, session, at) VALUES ('session_heartbeat', 'fast', now() + interval '20 minutes')`)
	until("Silent sessions are detected", `at risk: the clocks of 1 sessions, such as "fast"`)
	row(t, conn, `ALTER TABLE events RENAME TO gone`)
	until("Every committed event is shown, once", "broken: there is no events table")
	until("Live events arrive at once", "broken: the reader")
	// While the database cannot be read, nobody can subscribe to the stream.
	if resp, err := g.stream.SubscribeStream(t.Context(), &pluginv2.SubscribeStreamRequest{PluginContext: g.context, Path: "events"}); err == nil && resp.Status == pluginv2.SubscribeStreamResponse_OK {
		t.Errorf("the stream opens without a table: %v", resp)
	}
}

// A session in an answer links to its dashboard, at the time of its row.
func TestSessionsLeadToTheirDashboard(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	row(t, g.connect(), insert, "p")
	row(t, g.connect(), `INSERT INTO events (kind, session, spec, data) VALUES ('intervention_request', 's', 'p', '{"usage": {"costUsd": 1}}')`)
	const around = `&from=${__data.fields["from"].numeric}&to=${__data.fields["to"].numeric}`
	for query, field := range map[string]string{
		`{}`: "session", `{"queryType":"logs"}`: "session", `{"queryType":"durations"}`: "session", `{"queryType":"sessions"}`: "session",
		`{"queryType":"specs"}`: "last session", `{"queryType":"requests"}`: "session", `{"queryType":"usage"}`: "session", `{"queryType":"nights"}`: "silent session",
	} {
		frame, answer := g.ask(time.Now().Add(-time.Hour), time.Now().Add(time.Minute), query)
		if frame == nil {
			t.Fatal(answer.Error)
		}
		session, _ := frame.FieldByName(field)
		if session.Config == nil || len(session.Config.Links) != 1 || session.Config.Links[0].URL != "/d/specwatch-session?var-datasource=specwatch&var-session=${__value.raw:percentencode}"+around {
			t.Errorf("%s: %+v", query, session.Config)
			continue
		}
		now := time.Now().UnixMilli()
		from, to := column(t, frame, "from")[0].(int64), column(t, frame, "to")[0].(int64)
		if from > now || now > to || !strings.Contains(query, "nights") && to-from != time.Hour.Milliseconds() {
			t.Errorf("%s: from %d to %d, now is %d", query, from, to, now)
		}
	}
	// A rule must find one number only.
	if frame, answer := g.ask(time.Now().Add(-time.Hour), time.Now().Add(time.Minute), `{"queryType":"waiting"}`); frame == nil || len(frame.Fields) != 3 {
		t.Errorf("%v %s", frame, answer.Error)
	}
}

// Above log lines Explore draws the numbers of the same events by severity.
func TestLogVolume(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	row(t, g.connect(), `INSERT INTO events (kind, session) SELECT kind, 's' FROM unnest(array['spec_started', 'spec_completed', 'claude.cost', 'spec_failed', 'timeout_triggered', 'intervention_request', 'session_heartbeat']) kind`)
	for query, want := range map[string]string{
		`{"queryType":"counts","levels":true}`: "map[debug:1 error:2 info:3 warning:1]", `{"queryType":"counts","levels":true,"kinds":["spec_failed","other"]}`: "map[error:1 info:1]",
	} {
		frames, answer := g.frames(time.Now().Add(-time.Hour), time.Now().Add(time.Minute), query)
		got := map[string]float64{}
		for _, frame := range frames {
			field := frame.Fields[1]
			for i := range field.Len() {
				got[field.Labels["level"]] += field.At(i).(float64)
			}
		}
		if fmt.Sprint(got) != want || len(got) != len(frames) {
			t.Errorf("%s: %v in %d frames, want %s; %s", query, got, len(frames), want, answer.Error)
		}
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	conn := g.connect()
	now := time.Now().UTC().Truncate(time.Second)
	from, to := now.Add(-10*time.Minute), now.Add(time.Minute) // the heartbeat comes within this minute
	add := func(minute int, kind event.Kind, spec, text string) {
		row(t, conn, `INSERT INTO events (kind, at, session, spec, data) VALUES ($1, $2, 'night', $3, $4)`, string(kind), now.Add(time.Duration(minute)*time.Minute), spec, text)
	}
	add(-9, event.SpecStarted, "a", `{}`)
	add(-7, event.SpecFailed, "a", `{"exit_code": 1}`)
	add(-6, event.SpecStarted, "b", `{}`)
	add(-5, event.InterventionRequest, "b", `{"question": "which?"}`)
	row(t, conn, `INSERT INTO events (kind, session) VALUES ('session_heartbeat', 'night')`)
	text := func(frame *data.Frame, names ...string) string {
		var lines []string
		for _, name := range names {
			lines = append(lines, strings.Trim(fmt.Sprint(column(t, frame, name)), "[]"))
		}
		return strings.Join(lines, " | ")
	}
	expect := func(query, want string, names ...string) *data.Frame {
		t.Helper()
		frame, answer := g.ask(from, to, query)
		if frame == nil {
			t.Fatalf("%s: %s", query, answer.Error)
		}
		if got := text(frame, names...); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
		return frame
	}
	expect(`{}`, "session_heartbeat intervention_request spec_started spec_failed spec_started |  b b a a", "kind", "spec")
	expect(`{"queryType":"events","kinds":["spec_started","spec_failed"],"specs":["a"],"limit":1,"mode":"live"}`, "spec_failed", "kind")
	expect(`{"queryType":"logs","kinds":["spec_failed"]}`, `spec_failed a {"exit_code": 1} | error`, "body", "severity")
	expect(`{"queryType":"outcomes"}`, "2 | 0 | 1 | 0", "started", "completed", "failed", "timeout")
	expect(`{"queryType":"durations"}`, "b a | running failed | <nil> 120", "spec", "outcome", "duration")
	expect(`{"queryType":"sessions"}`, "night | running | 1 | 1 | 1", "session", "status", "open", "failed", "waiting")
	age := expect(`{"queryType":"heartbeat_age"}`, "night | b", "session", "spec")
	if seconds := column(t, age, "age")[0].(float64); seconds < 0 || seconds > 30 {
		t.Errorf("heartbeat age %f", seconds)
	}
	expect(`{"queryType":"delivery"}`, "1 | 0 | 0", "connected", "lag", "subscribers")
	timeline := expect(`{"queryType":"timeline"}`, "failed <nil> <nil> <nil> | <nil> <nil> running waiting", "a", "b")
	if n := len(timeline.Fields); n != 3 {
		t.Errorf("%d fields", n)
	}
}

// In every answer, a spec that has not ended is running or silent, and a spec that
// a usage limit ended has not failed.
func TestSilentIsNotRunningAndLimitedIsNotFailed(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	now := time.Now().Truncate(time.Second)
	row(t, g.connect(), `INSERT INTO events (kind, at, session, spec, data) SELECT kind, $1::timestamptz - ago * interval '1 minute', session, spec, data::jsonb FROM (VALUES
		('spec_started', 30, 'gone', 'left', '{}'), ('session_heartbeat', 29, 'gone', '', '{}'),
		('spec_started', 20, 'here', 'on', '{}'), ('session_heartbeat', 0, 'here', '', '{}'),
		('spec_started', 25, 'here', 'killed', '{}'), ('session_heartbeat', 24, 'here', 'killed', '{"silentSeconds": 0}'),
		('spec_started', 19, 'spent', 'dear', '{}'), ('spec_failed', 18, 'spent', 'dear', '{"reason": "usage limit"}'),
		('spec_started', 17, 'spent', 'bad', '{}'), ('spec_failed', 16, 'spent', 'bad', '{"reason": "exit code"}')) e (kind, ago, session, spec, data)`, now)
	for query, want := range map[string]map[string]string{
		`{"queryType":"sessions"}`: {
			"session": "[here spent gone]", "status": "[running done sleeping]", "open": "[1 0 0]", "silent": "[1 0 1]",
			"failed": "[0 1 0]", "usage limits": "[0 1 0]",
		},
		`{"queryType":"sessions","sessions":["gone"]}`: {"open": "[0]", "silent": "[1]"},
		`{"queryType":"overview"}`:                     {"open": "[1]", "silent": "[2]", "failed": "[1]", "usage limits": "[1]"},
		`{"queryType":"outcomes"}`:                     {"started": "[5]", "failed": "[1]", "usage limit": "[1]"},
		`{"queryType":"durations"}`: {
			"spec": "[bad dear on killed left]", "outcome": "[failed usage limit running silent silent]", "duration": "[60 60 <nil> <nil> <nil>]",
		},
		`{"queryType":"specs"}`: {
			"spec": "[bad dear on killed left]", "failed": "[1 0 0 0 0]", "usage limits": "[0 1 0 0 0]", "changes": "[0 0 0 0 0]",
			"last outcome": "[failed usage limit running silent silent]",
		},
		`{"queryType":"nights"}`: {"failed": "[1]", "usage limits": "[1]"},
		`{"queryType":"timeline"}`: {
			"left": "[silent silent silent silent silent silent silent]", "on": "[<nil> <nil> running running running running running]",
			"killed": "[<nil> silent silent silent silent silent silent]",
			"dear":   "[<nil> <nil> <nil> usage limit <nil> <nil> <nil>]", "bad": "[<nil> <nil> <nil> <nil> <nil> failed <nil>]",
		},
	} {
		// The night must not end between two of the events.
		frame, answer := g.ask(now.Add(-40*time.Minute), now.Add(time.Minute), strings.Replace(query, `"nights"`, fmt.Sprintf(`"nights","zone":%q`, quiet(now)), 1))
		if frame == nil {
			t.Errorf("%s: %s", query, answer.Error)
			continue
		}
		for name, values := range want {
			if got := fmt.Sprint(column(t, frame, name)); got != values {
				t.Errorf("%s, %s: %s, want %s", query, name, got, values)
			}
		}
	}
}

// quiet returns a time zone in which it is not about noon.
func quiet(at time.Time) string {
	if hour := at.UTC().Hour(); hour >= 11 && hour <= 13 {
		return "Asia/Tokyo"
	}
	return "UTC"
}

func TestUsage(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	now := time.Now().UTC().Truncate(time.Minute)
	row(t, g.connect(), `INSERT INTO events (kind, at, session, spec, data) VALUES
		('claude.usage', $1::timestamptz - interval '9 minutes', 'night', 'a', '{"usage": {"inputTokens": 1000, "cachedInputTokens": 900, "outputTokens": 10, "costUsd": 0.1}}'),
		('spec_completed', $1::timestamptz - interval '5 minutes', 'night', 'a', '{"usage": {"input_tokens": 1, "output_tokens": 2, "cost_usd": 0.2}}'),
		('codex.usage', $1::timestamptz - interval '5 minutes', 'day', 'b', '{"usage": {"inputTokens": 7e6, "outputTokens": "many", "costUsd": -1}}'),
		('codex.usage', $1::timestamptz - interval '5 minutes', 'day', 'odd', '{"usage": "none"}'),
		('claude.usage', $1::timestamptz - interval '2 hours', 'night', 'a', '{"usage": {"costUsd": 100}}')`, now)
	for query, want := range map[string]string{
		`{"queryType":"usage"}`:                            "[night day] [a b] [0.3 0] [1001 7000000] [900 0] [12 0]",
		`{"queryType":"usage","sessions":["day"]}`:         "[day] [b] [0] [7000000] [0] [0]",
		`{"queryType":"usage","kinds":["spec_completed"]}`: "[night] [a] [0.2] [1] [0] [2]",
	} {
		frame, answer := g.ask(now.Add(-time.Hour), now, query)
		if frame == nil {
			t.Fatalf("%s: %s", query, answer.Error)
		}
		var got []string
		for _, name := range []string{"session", "spec", "cost", "input tokens", "cached input tokens", "output tokens"} {
			got = append(got, fmt.Sprint(column(t, frame, name)))
		}
		if strings.Join(got, " ") != want || frame.Meta.PreferredVisualization != data.VisTypeTable {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	frame, answer := g.ask(now.Add(-10*time.Minute), now, `{"queryType":"usage_over_time"}`)
	if frame == nil {
		t.Fatal(answer.Error)
	}
	var cost, input float64
	for i, v := range column(t, frame, "cost") {
		cost += v.(float64)
		input += column(t, frame, "input tokens")[i].(float64)
	}
	if frame.Rows() < 10 || frame.Meta.PreferredVisualization != data.VisTypeGraph || fmt.Sprintf("%.3f %g", cost, input) != "0.300 7.001001e+06" {
		t.Errorf("%d rows, %g $, %g tokens", frame.Rows(), cost, input)
	}
}

// A query type without a number is an error in a rule, and works elsewhere.
func TestRulesNeedNumbers(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	for _, kind := range contract.QueryTypes {
		resp, err := g.data.QueryData(t.Context(), &pluginv2.QueryDataRequest{PluginContext: g.context, Headers: map[string]string{"FromAlert": "true"}, Queries: []*pluginv2.DataQuery{{
			RefId: "A", MaxDataPoints: 100, IntervalMS: 60_000, Json: fmt.Appendf(nil, `{"queryType":%q}`, kind),
			TimeRange: &pluginv2.TimeRange{FromEpochMS: time.Now().Add(-time.Hour).UnixMilli(), ToEpochMS: time.Now().UnixMilli()},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		answer := resp.Responses["A"]
		if slices.Contains(contract.Alerting, kind) != (answer.Error == "") {
			t.Errorf("%s: %q", kind, answer.Error)
		}
		if answer.Error != "" && (answer.Status != http.StatusBadRequest || !strings.Contains(answer.Error, "choose one of")) {
			t.Errorf("%s: %d %s", kind, answer.Status, answer.Error)
		}
	}
}

// An answer that does not have all rows has a notice with both numbers.
func TestWhatIsCutSaysSo(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	row(t, g.connect(), `INSERT INTO events (kind, session, spec, data) SELECT kind, 's' || n, 'p' || n, CASE kind WHEN 'spec_failed' THEN '{"usage": {"costUsd": 0.1}}'::jsonb ELSE '{}' END FROM generate_series(1, 1234) n, unnest(array['spec_started', 'spec_failed', 'intervention_request', 'timeout_triggered']) kind`)
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Minute)
	for query, numbers := range map[string][2]string{
		`{}`: {"1,000", "4,936"}, `{"limit":4900}`: {"4,900", "4,936"}, `{"queryType":"logs","kinds":["spec_failed"],"limit":10}`: {"10", "1,234"},
		`{"queryType":"durations"}`: {"1,000", "1,234"}, `{"queryType":"timeline","limit":400}`: {"50", "1,234"}, `{"queryType":"sessions"}`: {"100", "1,234"},
		`{"queryType":"usage"}`:     {"1,000", "1,234"},
		`{"queryType":"timed_out"}`: {"1,000", "1,234"}, `{"queryType":"failure_streak","limit":7}`: {"7", "1,234"},
	} {
		frame, answer := g.ask(from, to, query)
		if frame == nil {
			t.Fatalf("%s: %s", query, answer.Error)
		}
		if len(frame.Meta.Notices) != 1 || !strings.Contains(frame.Meta.Notices[0].Text, numbers[0]+" of "+numbers[1]+" ") {
			t.Errorf("%s: %+v, want %v", query, frame.Meta.Notices, numbers)
		}
	}
	for _, query := range []string{`{"limit":5000}`, `{"queryType":"durations","limit":1234}`, `{"queryType":"sessions","sessions":["s7"]}`, `{"queryType":"timeline","sessions":["s7"]}`, `{"queryType":"overview"}`, `{"queryType":"waiting","limit":1234}`} {
		if frame, answer := g.ask(from, to, query); frame == nil || len(frame.Meta.Notices) != 0 {
			t.Errorf("%s: %v, %v", query, frame, answer.Error)
		}
	}
	overview, _ := g.ask(from, to, `{"queryType":"overview"}`)
	for field, want := range map[string]float64{"sessions": 1234, "running": 1234, "open": 0, "timed out": 1234, "waiting": 0, "failures in a row": 2} {
		if got := column(t, overview, field)[0]; got != want {
			t.Errorf("overview, %s: %v, want %v", field, got, want)
		}
	}
	if named, _ := g.ask(from, to, `{"queryType":"overview","sessions":["s1","s2","none"]}`); column(t, named, "sessions")[0] != 2.0 {
		t.Errorf("overview of two sessions: %v", named)
	}
}

// A named session is in the answer, also if it is not among the last hundred.
func TestOldSessionsAreKnown(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	row(t, g.connect(), `INSERT INTO events (kind, at, session, spec) SELECT kind, now() - n * interval '4 hours', 's' || n, 'p' FROM generate_series(0, 299) n, unnest(array['spec_started', 'session_heartbeat', 'spec_failed']) kind`)
	for _, name := range []string{"s0", "s105", "s299"} {
		frame, answer := g.ask(time.Now().Add(-time.Hour), time.Now(), fmt.Sprintf(`{"queryType":"sessions","sessions":[%q]}`, name))
		if frame == nil {
			t.Fatal(answer.Error)
		}
		if got := column(t, frame, "session"); len(got) != 1 || got[0] != name || column(t, frame, "failed")[0] != int64(1) || column(t, frame, "failures in a row")[0] != int64(1) || column(t, frame, "last heartbeat")[0] == nil {
			t.Errorf("%s: %v", name, frame)
		}
	}
}

// The value of a line is the outcome of an attempt from its start to its end, and
// waiting from a request to its answer.
func TestTimelineShowsAttempts(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	conn := g.connect()
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	add := func(minute int, kind event.Kind, spec, text string) {
		row(t, conn, `INSERT INTO events (kind, at, session, spec, data) VALUES ($1, $2, 'night', $3, $4)`, string(kind), start.Add(time.Duration(minute)*time.Minute), spec, text)
	}
	add(-9, event.SpecStarted, "long", `{}`)
	add(-8, event.SpecStarted, "gone", `{}`)
	add(-7, event.SpecCompleted, "gone", `{}`)
	add(1, event.SpecStarted, "a", `{}`)
	add(2, event.SpecFailed, "a", `{}`)
	add(3, event.SpecStarted, "a", `{}`)
	add(4, event.SpecStarted, "a", `{}`)
	add(5, event.InterventionRequest, "a", `{}`)
	add(6, event.InterventionAnswered, "a", `{}`)
	add(7, event.SpecCompleted, "a", `{}`)
	add(8, event.SpecStarted, "two\nlines "+strings.Repeat("x", 490), `{}`)
	frame, answer := g.ask(start, start.Add(10*time.Minute), `{"queryType":"timeline"}`)
	if frame == nil {
		t.Fatal(answer.Error)
	}
	if len(frame.Fields) != 4 {
		t.Fatalf("%v", frame.Fields)
	}
	for i, want := range map[int]string{
		1: "[silent silent silent silent silent silent silent silent silent]",
		2: "[<nil> failed <nil> abandoned completed waiting completed <nil> <nil>]",
	} {
		if got := fmt.Sprint(column(t, frame, frame.Fields[i].Name)); got != want {
			t.Errorf("%s: %s, want %s", frame.Fields[i].Name, got, want)
		}
	}
	if first := column(t, frame, "time")[0].(time.Time); !first.Equal(start) {
		t.Errorf("begins at %s", first)
	}
	if name := frame.Fields[3].Config.DisplayNameFromDS; strings.ContainsAny(name, "\n\r") || len([]rune(name)) > 60 {
		t.Errorf("a line is called %q", name)
	}
}

// In a past range, an attempt that was open at the end of the range has the outcome
// that it got later, as in the table of attempts.
func TestTimelineOfThePast(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	row(t, g.connect(), `INSERT INTO events (kind, at, session, spec, data) SELECT kind, now() - minutes * interval '1 minute', 'night', spec, data::jsonb FROM (VALUES
		('spec_started', 300, 'long', '{}'), ('spec_started', 230, 'done', '{}'), ('spec_started', 220, 'full', '{}'), ('spec_started', 210, 'again', '{}'), ('spec_started', 200, 'lost', '{}'),
		('spec_completed', 100, 'done', '{}'), ('spec_failed', 90, 'full', '{"reason": "usage limit"}'), ('spec_started', 80, 'again', '{}'), ('timeout_triggered', 70, 'long', '{}')
	) e (kind, minutes, spec, data)`)
	from, to := time.Now().Add(-4*time.Hour), time.Now().Add(-3*time.Hour)
	frame, answer := g.ask(from, to, `{"queryType":"timeline"}`)
	if frame == nil {
		t.Fatal(answer.Error)
	}
	for spec, want := range map[string]questions.Outcome{"long": questions.TimedOut, "done": questions.Completed, "full": questions.Limited, "again": questions.Abandoned, "lost": questions.Silent} {
		shown := column(t, frame, spec)
		if got := shown[len(shown)-1]; fmt.Sprint(got) != string(want) {
			t.Errorf("%s: %v, want %s", spec, got, want)
		}
	}
}

// An attempt that ends at the time of its start is drawn, too.
func TestTimelineShowsShortAttempts(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	row(t, g.connect(), `INSERT INTO events (kind, at, session, spec) SELECT unnest(array['spec_started', 'spec_failed']), now() - interval '1 hour', 'night', 'short'`)
	frame, answer := g.ask(time.Now().Add(-2*time.Hour), time.Now(), `{"queryType":"timeline"}`)
	if frame == nil {
		t.Fatal(answer.Error)
	}
	times := column(t, frame, "time")
	if got := fmt.Sprint(column(t, frame, "short")); got != "[failed <nil>]" || times[1].(time.Time).UnixMilli() <= times[0].(time.Time).UnixMilli() {
		t.Errorf("%s at %v", got, times)
	}
}

func TestCounts(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	conn := g.connect()
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	row(t, conn, `INSERT INTO events (kind, at, session) SELECT 'spec_started', $1::timestamptz + n * interval '20 seconds', 's' FROM generate_series(0, 5) n`, start)
	row(t, conn, `INSERT INTO events (kind, at, session) SELECT unnest(array['claude.cost', 'claude.tokens', 'intervention_answered']), $1::timestamptz, 's'`, start)
	frame, answer := g.ask(start, start.Add(3*time.Minute), `{"queryType":"counts","kinds":["spec_started","spec_failed"]}`)
	if frame == nil {
		t.Fatal(answer.Error)
	}
	if frame.Meta.Type != data.FrameTypeTimeSeriesWide || len(frame.Fields) != 3 || frame.Fields[1].Labels["kind"] != "spec_started" {
		t.Fatalf("%+v", frame.Fields)
	}
	for i, want := range [][]float64{{3, 3, 0, 0}, {0, 0, 0, 0}} {
		for j, n := range want {
			if got, _ := frame.Fields[i+1].ConcreteAt(j); got != n {
				t.Errorf("field %d, row %d: %v, want %v", i, j, got, n)
			}
		}
	}
}

// Custom kinds are counted and found as "other", and by their own names.
func TestCustomKinds(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	row(t, g.connect(), `INSERT INTO events (kind, session) SELECT unnest(array['claude.cost', 'claude.tokens', 'spec_started', 'session_heartbeat']), 's'`)
	from, to := time.Now().Add(-time.Minute), time.Now().Add(time.Minute)
	for query, want := range map[string]int{`{}`: 4, `{"kinds":["other"]}`: 2, `{"kinds":["other","spec_started"]}`: 3, `{"kinds":["claude.cost"]}`: 1} {
		if frame, answer := g.ask(from, to, query); frame == nil || frame.Rows() != want {
			t.Errorf("%s: %v, %s", query, frame, answer.Error)
		}
	}
	for query, want := range map[string]map[string]float64{
		`{"queryType":"counts"}`: {"other": 2, "spec_started": 1}, `{"queryType":"counts","kinds":["claude.cost"]}`: {"claude.cost": 1}, `{"queryType":"counts","kinds":["other"]}`: {"other": 2},
	} {
		frame, _ := g.ask(from, to, query)
		got := map[string]float64{}
		for _, field := range frame.Fields[1:] {
			for i := range field.Len() {
				n, _ := field.ConcreteAt(i)
				got[field.Labels["kind"]] += n.(float64)
			}
		}
		for kind, n := range want {
			if got[kind] != n {
				t.Errorf("%s: %s: %v, want %v", query, kind, got[kind], n)
			}
		}
	}
}

func TestBadQueries(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	now := time.Now()
	for query, field := range map[string]string{
		`{"queryType":"everything"}`: "queryType", `{"kinds":["spec_lost"]}`: "kinds", `{"limit":-1}`: "limit",
		`{"limit":1000000}`: "limit", `{"limit":"x"}`: "query", `[]`: "query",
	} {
		frame, answer := g.ask(now.Add(-time.Hour), now, query)
		if frame != nil || answer.Status != http.StatusBadRequest || !strings.HasPrefix(answer.Error, field) {
			t.Errorf("%s: %d %s", query, answer.Status, answer.Error)
		}
	}
	if _, answer := g.ask(now, now.Add(-time.Hour), `{"queryType":"counts"}`); answer.Status != http.StatusBadRequest {
		t.Errorf("a range that ends before it begins: %d %s", answer.Status, answer.Error)
	}
	for path, code := range map[string]int{
		"status?since=garbage": 400, "status?limit=0": 400, "status?limit=1000000": 400, "nothing": 404,
	} {
		if got, body, _ := g.call(path); got != code || body["detail"] == nil || body["detail"] == "" {
			t.Errorf("%s: %d %v", path, got, body)
		}
	}
	other := launch(t, true)
	code, body, _ := g.call("status?since=" + other.poll("")["cursor"].(string))
	if code != http.StatusGone || body["title"] != "cursor expired" || body["cursor"] == nil || body["events"] == nil {
		t.Errorf("another database's cursor: %d %v", code, body)
	}
	resp, err := g.stream.SubscribeStream(t.Context(), &pluginv2.SubscribeStreamRequest{PluginContext: g.context, Path: "other"})
	if err != nil || resp.Status != pluginv2.SubscribeStreamResponse_NOT_FOUND {
		t.Errorf("an unknown channel: %v, %v", resp, err)
	}
	published, err := g.stream.PublishStream(t.Context(), &pluginv2.PublishStreamRequest{PluginContext: g.context, Path: "events", Data: []byte(`{}`)})
	if err != nil || published.Status != pluginv2.PublishStreamResponse_PERMISSION_DENIED {
		t.Errorf("publishing: %v, %v", published, err)
	}
}

// Grafana checks the right to query for queries and resources. For streams the
// plugin checks it.
func TestWhoMayNotQueryMayNotSubscribe(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	row(t, g.connect(), insert, "secret")
	g.poll("") // starts the feed
	for name, user := range map[string]*pluginv2.User{
		"nobody": nil, "no role": {Login: "eve"}, "None": {Login: "eve", Role: "None"}, "another spelling": {Login: "eve", Role: "viewer"}, "an unknown role": {Login: "eve", Role: "Auditor"},
	} {
		g.context.User = user
		for _, path := range []string{"events", "other"} {
			resp, err := g.stream.SubscribeStream(t.Context(), &pluginv2.SubscribeStreamRequest{PluginContext: g.context, Path: path})
			if err != nil || resp.Status != pluginv2.SubscribeStreamResponse_PERMISSION_DENIED || len(resp.Data) > 0 {
				t.Errorf("%s, %s: %v, %v", name, path, resp, err)
			}
		}
	}
	// Grafana gives anonymous visitors and service accounts one of these.
	for _, role := range []string{"Viewer", "Editor", "Admin"} {
		g.context.User = &pluginv2.User{Role: role}
		g.subscribe()
	}
}

func TestMenus(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	conn := g.connect()
	row(t, conn, `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 'one', 'a'), ('spec_started', 'two', 'b')`)
	for path, want := range map[string]string{"sessions": "[one two]", "specs": "[a b]", "specs?session=two": "[b]", "sessions?search=NE": "[one]", "specs?session=two&search=a": "[]", "kinds": fmt.Sprint(event.Kinds)} {
		if _, _, list := g.call(path); fmt.Sprint(list) != want {
			t.Errorf("%s: %v, want %s", path, list, want)
		}
	}
	for _, kind := range contract.QueryTypes {
		if frame, answer := g.ask(time.Now().Add(-time.Hour), time.Now(), fmt.Sprintf(`{"queryType":%q}`, kind)); frame == nil {
			t.Errorf("%s: %s", kind, answer.Error)
		}
	}
}

// The stream continues after the loss of its database connection, with all events
// that were written meanwhile.
func TestStreamReconnects(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	g.subscribe()
	next := g.run()
	next()
	conn := g.connect()
	row(t, conn, insert, "before")
	_, at := next()
	row(t, conn, `SELECT pg_terminate_backend(l.pid) FROM pg_locks l, specwatch_meta m WHERE l.pid <> pg_backend_pid()
		AND locktype = 'advisory' AND ((classid::bigint << 32) | objid::bigint) = m.bell`)
	row(t, conn, insert, "after")
	frame, after := next()
	for after.Interrupted != "" { // if the stream noticed the loss
		frame, after = next()
	}
	if got := fmt.Sprint(column(t, frame, "spec")); got != "[after]" || after.From != at.Cursor {
		t.Fatalf("%s from %s after %s", got, after.From, at.Cursor)
	}
}

// After a crash PostgreSQL assigns some transaction ids again: viewers of the stream
// and those that poll miss no event.
func TestCrashLosesNothing(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, map[string]string{"wal_writer_delay": "10s", "autovacuum": "off"})
	if _, err := schema.Migrate(t.Context(), store.Config{URL: server.URL()}, nil); err != nil {
		t.Fatal(err)
	}
	g := plug(t, server.URL())
	polled := g.poll("")["cursor"].(string)
	g.subscribe()
	next := g.run()
	_, at := next()
	for round := range 3 {
		conn := g.connect()
		row(t, conn, "CHECKPOINT")
		for range 5 {
			row(t, conn, "SELECT pg_current_xact_id()")
		}
		row(t, conn, "BEGIN")
		row(t, conn, insert, "undone")
		row(t, conn, "ROLLBACK")
		polled = g.poll(polled)["cursor"].(string)
		conn.Close(t.Context())
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		conn = g.connect()
		var want, pushed []string
		for i := range 8 {
			want = append(want, fmt.Sprintf("%d/%d", round, i))
			row(t, conn, insert, want[i])
		}
		for len(pushed) < len(want) {
			frame, here := next()
			if here.From != at.Cursor {
				t.Fatalf("a frame from %s after %s", here.From, at.Cursor)
			}
			at = here
			for _, spec := range column(t, frame, "spec") {
				pushed = append(pushed, spec.(string))
			}
		}
		if !slices.Equal(pushed, want) {
			t.Fatalf("pushed %q, want %q", pushed, want)
		}
		status := g.poll(polled)
		if got := specsOf(status); got != strings.Join(want, " ") {
			t.Fatalf("polled %q, want %q", got, want)
		}
		polled = status["cursor"].(string)
	}
}

// Frames contain the state at most once a second, and the last state includes the
// last event.
func TestStateIsStreamed(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	g.subscribe()
	next := g.runAll()
	_, at := next()
	conn := g.connect()
	row(t, conn, insert, "one")
	row(t, conn, insert, "two")
	begun, states := time.Now(), 0
	var st struct {
		Totals map[string]int `json:"totals"`
	}
	for events := 0; events < 2 || st.Totals["spec_started"] < 2; {
		frame, here := next()
		if here.From != at.Cursor {
			t.Fatalf("a frame from %s after %s", here.From, at.Cursor)
		}
		at = here
		events += frame.Rows()
		if here.State == nil {
			continue
		}
		states++
		if err := json.Unmarshal(here.State, &st); err != nil {
			t.Fatal(err)
		}
	}
	if seconds := int(time.Since(begun).Seconds()); states > seconds+2 {
		t.Errorf("%d states in %d seconds", states, seconds)
	}
}

// link forwards connections to the database until it is cut.
type link struct {
	address string
	mu      sync.Mutex
	down    bool
	open    []net.Conn
}

func newLink(t testing.TB, to string) *link {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(to, "/") {
		network, to = "unix", filepath.Join(to, ".s.PGSQL.5432")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	l := &link{address: listener.Addr().String()}
	go func() {
		for {
			here, err := listener.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial(network, to)
			l.mu.Lock()
			if err != nil || l.down {
				here.Close()
				if err == nil {
					there.Close()
				}
			} else {
				l.open = append(l.open, here, there)
				go io.Copy(here, there)
				go io.Copy(there, here)
			}
			l.mu.Unlock()
		}
	}()
	return l
}

func (l *link) set(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = !up
	for _, conn := range l.open {
		conn.Close()
	}
	l.open = nil
}

// The stream sends viewers a frame when the database cannot be read, nobody can
// subscribe meanwhile, and then it continues at its last position.
func TestStreamTellsOfAnOutage(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	database := newLink(t, g.context.DataSourceInstanceSettings.Url)
	g.context.DataSourceInstanceSettings.Url = database.address
	g.subscribe()
	next := g.run()
	_, at := next()
	conn := g.connect()
	database.set(false)
	begun := time.Now()
	_, gone := next()
	if gone.Interrupted == "" || gone.Cursor != at.Cursor || gone.From != at.Cursor || time.Since(begun) > 20*time.Second {
		t.Fatalf("%+v after %s", gone, time.Since(begun))
	}
	if resp, err := g.stream.SubscribeStream(t.Context(), &pluginv2.SubscribeStreamRequest{PluginContext: g.context, Path: "events"}); err == nil {
		t.Errorf("subscribed without a database: %v", resp)
	}
	row(t, conn, insert, "meanwhile")
	database.set(true)
	frame, back := next()
	for back.Interrupted != "" { // connected and lost again
		frame, back = next()
	}
	if got := fmt.Sprint(column(t, frame, "spec")); got != "[meanwhile]" || back.From != at.Cursor {
		t.Fatalf("%s: %+v", got, back)
	}
	g.subscribesAt(back.Cursor)
}

// metrics returns the lines of the metrics that Grafana gets from the plugin.
func (g *grafana) metrics() map[string]bool {
	g.t.Helper()
	resp, err := g.diagnostics.CollectMetrics(g.t.Context(), &pluginv2.CollectMetricsRequest{PluginContext: g.context})
	if err != nil {
		g.t.Fatal(err)
	}
	lines := map[string]bool{}
	for line := range strings.Lines(string(resp.Metrics.Prometheus)) {
		lines[strings.TrimSpace(line)] = true
	}
	return lines
}

// hasMetrics waits until the metrics have all of the lines.
func (g *grafana) hasMetrics(lines ...string) {
	g.t.Helper()
	for end := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		got := g.metrics()
		missing := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return got[line] })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(end) {
			g.t.Fatalf("no %q in %v", missing, got)
		}
	}
}

func (g *grafana) toldOf(uid string) bool {
	g.t.Helper()
	for line := range g.metrics() {
		if strings.HasPrefix(line, "specwatch_") && strings.Contains(line, fmt.Sprintf("datasource_uid=%q", uid)) {
			return true
		}
	}
	return false
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	conn := g.connect()
	row(t, conn, insert, "a")
	total := func(org int, uid string, n int) string {
		return fmt.Sprintf(`specwatch_events_total{datasource_uid=%q,kind="spec_started",org_id="%d"} %d`, uid, org, n)
	}
	// Neither a scrape nor a query starts the feed of a data source.
	g.ask(time.Now().Add(-time.Hour), time.Now(), `{"queryType":"counts"}`)
	if g.toldOf("specwatch") {
		t.Error("a feed runs for a data source without viewers")
	}
	g.poll("")
	g.hasMetrics(total(1, "specwatch", 1), `specwatch_session_specs_open{datasource_uid="specwatch",org_id="1",session="s"} 1`, `specwatch_feed_connected{datasource_uid="specwatch",org_id="1"} 1`)

	// Two data sources, and one of another organization with the same uid.
	use := func(org int64, uid string) *pluginv2.DataSourceInstanceSettings {
		g.context.OrgId = org
		g.context.DataSourceInstanceSettings = settings(t, g.database)
		g.context.DataSourceInstanceSettings.Uid = uid
		g.context.DataSourceInstanceSettings.Id = org //nolint:staticcheck // Grafana sends it
		return g.context.DataSourceInstanceSettings
	}
	use(1, "second")
	g.poll("")
	use(2, "specwatch")
	g.poll("")
	g.hasMetrics(total(1, "specwatch", 1), total(1, "second", 1), total(2, "specwatch", 1))

	// Changed settings make a new instance, which replaces the old one before and
	// after that is disposed of.
	for range 3 {
		use(1, "second").LastUpdatedMS += time.Now().UnixNano() % 1_000_000
		g.poll("")
		g.hasMetrics(total(1, "second", 1))
	}
	row(t, conn, insert, "b")
	g.hasMetrics(total(1, "second", 2), total(1, "specwatch", 2))
	g.hasMetrics("plugins_active_instances 3") // the old ones are disposed of
	g.hasMetrics(total(1, "second", 2))

	// Settings that cannot be read end the metrics of the old instance.
	use(1, "second").Url = ""
	g.context.DataSourceInstanceSettings.LastUpdatedMS++
	if resp, err := g.diagnostics.CheckHealth(t.Context(), &pluginv2.CheckHealthRequest{PluginContext: g.context}); err == nil && resp.Status == pluginv2.CheckHealthResponse_OK {
		t.Error("a data source without a host is healthy")
	}
	for end := time.Now().Add(patience); g.toldOf("second"); <-time.After(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the metrics contain a data source that does not exist any more")
		}
	}
	g.hasMetrics(total(1, "specwatch", 2))
}

// The certificate of the database is checked according to the settings. Every field
// may end with a newline, as files of secrets do.
func TestTLSOfTheDatabase(t *testing.T) {
	t.Parallel()
	server, files := postgrestest.TLSCluster(t)
	if _, err := schema.Migrate(t.Context(), store.Config{URL: server.URL()}, nil); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	g := plug(t, server.URL())
	check := func(mode, host, user string, secure map[string]string, says string) {
		t.Helper()
		s := settings(t, server.URL())
		s.LastUpdatedMS += time.Now().UnixNano() % 1_000_000
		s.Url, s.User = host+":"+u.Port()+"\n", user+"\n"
		s.JsonData, _ = json.Marshal(map[string]string{"database": "postgres\n", "schema": " \n", "sslmode": mode + "\n"})
		s.DecryptedSecureJsonData = secure
		g.context.DataSourceInstanceSettings = s
		resp, err := g.diagnostics.CheckHealth(t.Context(), &pluginv2.CheckHealthRequest{PluginContext: g.context})
		if told := fmt.Sprint(resp, err); (resp.GetStatus() == pluginv2.CheckHealthResponse_OK) != (says == "") || !strings.Contains(told, says) || strings.Contains(told, password) {
			t.Errorf("%s, %s: %s, want %q", mode, host, told, says)
		}
	}
	secret := func(ca string) map[string]string {
		return map[string]string{"password": password + "\n", "tlsCACert": ca, "tlsClientCert": "\n", "tlsClientKey": "\n"}
	}
	right, wrong := read(files.CA), read(files.OtherCA)
	check("verify-full", "localhost", "specwatch", secret(right), "")
	check("verify-ca", "127.0.0.1", "specwatch", secret(right), "")
	check("require", "127.0.0.1", "specwatch", secret("\n"), "")
	check("verify-full", "localhost", "specwatch", secret(wrong), "name the CA certificate")
	check("verify-ca", "localhost", "specwatch", secret(wrong), "name the CA certificate")
	check("verify-full", "127.0.0.1", "specwatch", secret(right), "use the host name of the certificate")
	client := map[string]string{"tlsCACert": right, "tlsClientCert": read(files.Cert), "tlsClientKey": read(files.Key)}
	check("verify-full", "localhost", postgrestest.ClientUser, client, "")
	check("verify-full", "localhost", postgrestest.ClientUser, map[string]string{"tlsCACert": right}, "name a client certificate")
}
