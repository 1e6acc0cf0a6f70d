//go:build linux

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"sync"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend/grpcplugin"
	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
)

// grafana does what Grafana does with the plugin: it keeps it running, runs its
// stream, sends the frames to all viewers and forwards their polls.
type grafana struct {
	path    string
	log     io.Writer
	context *pluginv2.PluginContext

	mu       sync.Mutex
	client   *plugin.Client
	resource pluginv2.ResourceClient
	stream   pluginv2.StreamClient
	cmd      *exec.Cmd
	viewers  []*viewer
}

func (r *run) newGrafana(database string) (*grafana, error) {
	log, err := r.logs.open("plugin")
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(database)
	if err != nil {
		return nil, err
	}
	password, _ := u.User.Password()
	settings, err := json.Marshal(map[string]string{"database": u.Path[1:], "sslmode": "disable"})
	if err != nil {
		return nil, err
	}
	return &grafana{path: r.plugin, log: log, context: &pluginv2.PluginContext{
		OrgId: 1, PluginId: "specwatch-events-datasource", User: &pluginv2.User{Login: "chaos", Role: "Viewer"},
		DataSourceInstanceSettings: &pluginv2.DataSourceInstanceSettings{
			Id:  1, //nolint:staticcheck // Grafana sends it
			Uid: "specwatch", Name: "Specwatch", Url: u.Host, User: u.User.Username(), JsonData: settings,
			DecryptedSecureJsonData: map[string]string{"password": password}, LastUpdatedMS: time.Now().UnixMilli(),
		},
	}}, nil
}

func (g *grafana) start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	fmt.Fprintf(g.log, "--- the plugin starts at %s\n", time.Now().UTC().Format(time.RFC3339Nano))
	cmd := command(g.path, nil, nil)
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: plugin.HandshakeConfig{ProtocolVersion: grpcplugin.ProtocolVersion, MagicCookieKey: grpcplugin.MagicCookieKey, MagicCookieValue: grpcplugin.MagicCookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{grpcplugin.ProtocolVersion: {
			"resource": &grpcplugin.ResourceGRPCPlugin{}, "stream": &grpcplugin.StreamGRPCPlugin{},
		}},
		Cmd: cmd, AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Logger: hclog.NewNullLogger(), Stderr: g.log,
	})
	protocol, err := client.Client()
	if err != nil {
		client.Kill()
		return fmt.Errorf("the plugin does not start: %w", err)
	}
	resource, err := protocol.Dispense("resource")
	if err != nil {
		return err
	}
	stream, err := protocol.Dispense("stream")
	if err != nil {
		return err
	}
	g.client, g.cmd = client, cmd
	g.resource, g.stream = resource.(pluginv2.ResourceClient), stream.(pluginv2.StreamClient)
	return nil
}

// kill ends the plugin at once, as a crash would.
func (g *grafana) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cmd != nil && g.cmd.Process != nil {
		g.cmd.Process.Kill() //nolint:errcheck // it may have ended
		g.client.Kill()
	}
}

// stop ends it in order.
func (g *grafana) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil {
		g.client.Kill()
	}
}

// clients are those of the plugin protocol; nil while the plugin is down.
func (g *grafana) clients() (pluginv2.ResourceClient, pluginv2.StreamClient) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.resource, g.stream
}

type frame struct {
	position
	rows []row
}

type position struct {
	From   string `json:"from"`
	Cursor string `json:"cursor"`
}

// runStream keeps the stream running and forwards its frames.
func (g *grafana) runStream(ctx context.Context) {
	for ctx.Err() == nil {
		g.forward(ctx)
		wait(ctx, 100*time.Millisecond)
	}
}

// forward subscribes and runs the stream until it ends.
func (g *grafana) forward(ctx context.Context) {
	_, streams := g.clients()
	if streams == nil {
		return
	}
	asking, cancel := context.WithTimeout(ctx, callPatience)
	subscribed, err := streams.SubscribeStream(asking, &pluginv2.SubscribeStreamRequest{PluginContext: g.context, Path: "events"})
	cancel()
	if err != nil || subscribed.Status != pluginv2.SubscribeStreamResponse_OK {
		fmt.Fprintln(g.log, "--- no subscription:", subscribed, err)
		return
	}
	stream, err := streams.RunStream(ctx, &pluginv2.RunStreamRequest{PluginContext: g.context, Path: "events"})
	if err != nil {
		return
	}
	for {
		packet, err := stream.Recv()
		if err != nil {
			return
		}
		f, err := readFrame(packet.Data)
		if err != nil {
			fmt.Fprintln(g.log, "--- unreadable frame:", err)
			return
		}
		g.mu.Lock()
		for _, v := range g.viewers {
			select {
			case v.frames <- f:
			default: // a slow viewer misses the frame and notices by its cursor
			}
		}
		g.mu.Unlock()
	}
}

func readFrame(text []byte) (frame, error) {
	var f frame
	var d data.Frame
	if err := json.Unmarshal(text, &d); err != nil {
		return f, err
	}
	custom, err := json.Marshal(d.Meta.Custom)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(custom, &f.position); err != nil {
		return f, err
	}
	fields := map[string]*data.Field{}
	for _, field := range d.Fields {
		fields[field.Name] = field
	}
	at := func(name string, i int) any {
		field := fields[name]
		if field == nil {
			return nil
		}
		v, _ := field.ConcreteAt(i)
		return v
	}
	if fields["id"] == nil {
		return f, nil
	}
	for i := range fields["id"].Len() {
		var r row
		r.ID, _ = at("id", i).(int64)
		r.Kind, _ = at("kind", i).(string)
		r.At, _ = at("time", i).(time.Time)
		r.Session, _ = at("session", i).(string)
		r.Spec, _ = at("spec", i).(string)
		r.Data, _ = at("data", i).(json.RawMessage)
		f.rows = append(f.rows, r)
	}
	return f, nil
}

// viewer is a panel: it follows the stream and fills gaps through the
// resource, or polls the resource only.
type viewer struct {
	*client
	grafana *grafana
	frames  chan frame
	polled  map[int64]bool // what came by polls: the stream, which lags behind them, may bring it, too
	ahead   bool           // more is held than the cursor stands for: a poll after a filled gap may repeat it
}

func (g *grafana) viewer(name string, seed uint64) *viewer {
	v := &viewer{client: newClient(name, seed), grafana: g, frames: make(chan frame, 64), polled: map[int64]bool{}}
	v.twoWays = true
	g.mu.Lock()
	defer g.mu.Unlock()
	g.viewers = append(g.viewers, v)
	return v
}

// call polls the resource once.
func (v *viewer) call(ctx context.Context, limit int) (more, ok bool) {
	since := v.at()
	if since == "" {
		since, limit = beginning, historyPage
		v.setReading(true)
	}
	resources, _ := v.grafana.clients()
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	path := fmt.Sprintf("status?since=%s&limit=%d", url.QueryEscape(since), limit)
	stream, err := resources.CallResource(ctx, &pluginv2.CallResourceRequest{PluginContext: v.grafana.context, Path: "status", Method: http.MethodGet, Url: path})
	if err != nil {
		v.answered("resource: no answer")
		return false, false
	}
	response, err := stream.Recv()
	if err != nil {
		v.answered("resource: no answer")
		return false, false
	}
	v.thaw()
	mayOverlap := v.polled
	if !v.ahead {
		mayOverlap = nil
	}
	if more, ok = v.accept(int(response.Code), response.Body, mayOverlap); !ok {
		return more, ok
	}
	var a answer
	if json.Unmarshal(response.Body, &a) == nil {
		for _, r := range a.Events {
			v.polled[r.ID] = true
		}
	}
	if !more {
		v.ahead = false
	}
	return more, ok
}

// fill polls until there are no more events.
func (v *viewer) fill(ctx context.Context) {
	for ctx.Err() == nil {
		more, ok := v.call(ctx, 1_000)
		if ok && !more {
			return
		}
		if !ok {
			v.between(ctx, 50*time.Millisecond, 200*time.Millisecond)
		}
	}
}

// watch follows the stream until ctx ends.
func (v *viewer) watch(ctx context.Context) {
	for {
		select { // frames that arrived meanwhile may have a gap
		case <-v.frames:
			continue
		default:
		}
		break
	}
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-v.frames:
			v.thaw()
			if f.From == v.at() {
				v.answered("stream: frame")
				v.take(f.rows, f.Cursor, v.polled)
				continue
			}
			v.answered("stream: gap")
			// What is polled now includes the events of the frame.
			v.gap()
			notices := v.notices
			v.fill(ctx)
			if ctx.Err() != nil {
				return
			}
			if v.notices == notices { // else the frame is of a history that ended
				v.take(f.rows, f.Cursor, v.polled)
				v.ahead = true
			}
		}
	}
}

func (v *viewer) runStream(ctx context.Context) {
	v.fill(ctx)
	v.watch(ctx)
}

func (v *viewer) runPolling(ctx context.Context) {
	for ctx.Err() == nil {
		if more, ok := v.call(ctx, 300); !more || !ok {
			v.between(ctx, 50*time.Millisecond, 300*time.Millisecond)
		}
	}
}

func (v *viewer) runToggling(ctx context.Context) {
	for live := true; ctx.Err() == nil; live = !live {
		turn, cancel := context.WithTimeout(ctx, 200*time.Millisecond+time.Duration(v.rng.Int64N(int64(3*time.Second))))
		stop := make(chan struct{})
		var listening sync.WaitGroup
		listening.Go(func() {
			select {
			case <-v.toggle:
				cancel()
			case <-stop:
			}
		})
		if live {
			v.watch(turn)
		} else {
			v.runPolling(turn)
		}
		close(stop)
		listening.Wait()
		cancel()
	}
}
