// Package datasource is the backend of the Grafana data source: queries,
// resources, the live stream and the health check, over one store.
package datasource

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/backend/instancemgmt"
	"github.com/grafana/grafana-plugin-sdk-go/backend/resource/httpadapter"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/store"
)

// PluginID is the id in the data source's plugin.json.
const PluginID = "specwatch-events-datasource"

// Datasource is one configured data source; Grafana makes a new one when the
// settings change.
type Datasource struct {
	backend.CallResourceHandler

	store     *store.Store
	questions questions.Questions
	source    *api.Source
	running   context.Context // ends with this instance
	stop      context.CancelFunc
	start     sync.Once
	started   atomic.Bool   // the source runs, or has run
	ended     chan struct{} // closed when the source has ended

	name   name // of the data source; its instances before and after this one have the same
	shared shared

	mu     sync.Mutex
	stream cursor.Cursor // cursor that the viewers of the live stream have
}

var (
	_ backend.QueryDataHandler      = (*Datasource)(nil)
	_ backend.CheckHealthHandler    = (*Datasource)(nil)
	_ backend.CallResourceHandler   = (*Datasource)(nil)
	_ backend.StreamHandler         = (*Datasource)(nil)
	_ instancemgmt.InstanceDisposer = (*Datasource)(nil)
)

// New reads the settings. It does not connect: the database may be down, which
// the health check reports.
func New(ctx context.Context, settings backend.DataSourceInstanceSettings) (*Datasource, error) {
	config, err := readSettings(settings)
	if err != nil {
		return nil, backend.DownstreamError(err)
	}
	// The pool is used after this call, so it does not get the context of the call.
	running, stop := context.WithCancel(context.Background())
	s, err := store.Open(running, config)
	if err != nil {
		stop()
		return nil, backend.DownstreamError(err)
	}
	org := strconv.FormatInt(backend.PluginConfigFromContext(ctx).OrgID, 10) //nolint:staticcheck // Grafana 11.0 sends no namespace
	d := &Datasource{name: name{org, settings.UID}, store: s, questions: questions.To(s), source: api.NewSource(s), running: running, stop: stop, ended: make(chan struct{})}
	d.CallResourceHandler = httpadapter.New(d.resources())
	return d, nil
}

// live returns the source and starts it at the first call. Until then the data
// source keeps no connection open for its feed.
func (d *Datasource) live() *api.Source {
	d.start.Do(func() {
		d.started.Store(true)
		go func() {
			defer close(d.ended)
			d.source.Run(d.running)
		}()
	})
	return d.source
}

// Dispose ends the feed of the instance and closes its connections.
func (d *Datasource) Dispose() {
	d.stop()
	d.start.Do(func() { close(d.ended) })
	<-d.ended
	d.store.Close()
}
