package datasource

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/data"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/overview"
	"github.com/specwatch/specwatch/pkg/store"
)

var errInterrupted = errors.New("PostgreSQL cannot be reached; the stream continues when it can be reached again")

// StreamPath is the one live channel: ds/<uid>/events.
const StreamPath = "events"

// frameMeta is the metadata of a stream frame. A client whose last cursor is
// not From has missed events, and reads them from the resource `status`.
type frameMeta struct {
	From   string `json:"from,omitempty"`
	Cursor string `json:"cursor"`
	// State is sent when it has changed, at most once a second.
	State *overview.Snapshot `json:"state,omitempty"`
	// Interrupted is the reason while the database cannot be read.
	Interrupted string `json:"interrupted,omitempty"`
}

// watchEvery is how often a stream checks whether the feed can read the database.
const watchEvery = 250 * time.Millisecond

// queryRoles are the roles that Grafana lets query a data source. It checks
// queries and resources itself and streams not at all, so streams are checked
// here. The role None may not query, and neither may a request without a user.
var queryRoles = []string{"Viewer", "Editor", "Admin"}

func mayQuery(user *backend.User) bool {
	return user != nil && slices.Contains(queryRoles, user.Role)
}

// SubscribeStream sends a new viewer the cursor of the shared stream.
func (d *Datasource) SubscribeStream(ctx context.Context, req *backend.SubscribeStreamRequest) (*backend.SubscribeStreamResponse, error) {
	if !mayQuery(req.PluginContext.User) {
		return &backend.SubscribeStreamResponse{Status: backend.SubscribeStreamStatusPermissionDenied}, nil
	}
	if req.Path != StreamPath {
		return &backend.SubscribeStreamResponse{Status: backend.SubscribeStreamStatusNotFound}, nil
	}
	here, err := d.position(ctx)
	if err != nil {
		return nil, err
	}
	if !d.delivery(ctx).Connected {
		return nil, errInterrupted
	}
	frame := eventFrame(nil)
	frame.Meta = &data.FrameMeta{Custom: frameMeta{Cursor: here.String()}}
	initial, err := backend.NewInitialFrame(frame, data.IncludeAll)
	if err != nil {
		return nil, err
	}
	return &backend.SubscribeStreamResponse{Status: backend.SubscribeStreamStatusOK, InitialData: initial}, nil
}

// position returns the cursor that the viewers of the stream have. The first
// viewer sets it.
func (d *Datasource) position(ctx context.Context) (cursor.Cursor, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stream.IsZero() {
		return d.stream, nil
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	here, err := d.live().Feed.Here(ctx)
	if err == nil {
		d.stream = here
	}
	return here, err
}

// setPosition sets the cursor that the viewers of the stream have; after the
// zero cursor, the next viewer sets it.
func (d *Datasource) setPosition(c cursor.Cursor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stream = c
}

// PublishStream refuses: events are written to PostgreSQL.
func (d *Datasource) PublishStream(context.Context, *backend.PublishStreamRequest) (*backend.PublishStreamResponse, error) {
	return &backend.PublishStreamResponse{Status: backend.PublishStreamStatusPermissionDenied}, nil
}

// RunStream sends the events of the feed until the last viewer has left.
// Grafana runs it once for all viewers. It does not know which events a viewer
// has: each viewer compares its cursor with From.
func (d *Datasource) RunStream(ctx context.Context, req *backend.RunStreamRequest, sender *backend.StreamSender) error {
	if req.Path != StreamPath {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.running, cancel)()
	// After the last viewer has left, the next one sets the position again.
	defer d.setPosition(cursor.Cursor{})
	for {
		err := d.forward(ctx, sender)
		switch {
		case d.running.Err() != nil:
			return errors.New("the settings of the data source changed; the stream starts again")
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, feed.ErrSlow), errors.Is(err, store.ErrExpired):
			// Continue at the current position. From tells viewers that they have
			// missed events.
			d.setPosition(cursor.Cursor{})
		default:
			return err // Grafana tries again
		}
	}
}

// forward sends the events of the feed until the subscription fails.
func (d *Datasource) forward(ctx context.Context, sender *backend.StreamSender) error {
	start, err := d.position(ctx)
	if err != nil {
		return err
	}
	sub, err := d.live().Feed.Subscribe(ctx, start, event.MaxPage)
	if err != nil {
		return err
	}
	defer sub.Close()
	l := line{sender: sender, at: start}
	// After an interruption this frame has the cursor at which the stream continues.
	if err := l.send(&feed.Batch{From: start, Cursor: start}, nil); err != nil {
		return err
	}
	var known *overview.Snapshot // the state that was sent last

	watching, end := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { d.watch(watching, &l) })
	defer watcher.Wait()
	defer end()
	for {
		told, tellings := d.live().Overview.Told()
		b := &feed.Batch{From: sub.Cursor(), Cursor: sub.Cursor()}
		if told == nil || known != nil && told.Version == known.Version || !sub.Current() || told.Lacks(sub) {
			if b, err = sub.Next(ctx, tellings); err != nil {
				return err
			}
			if b == nil {
				continue // there is a newer state
			}
			told = d.live().Overview.Attach(ctx, b)
		}
		if err := l.send(b, told); err != nil {
			return err
		}
		if told != nil {
			known = told
		}
		d.setPosition(b.Cursor)
	}
}

// watch sends viewers a frame when the database cannot be read any more. They
// reconnect, and cannot subscribe before the feed is connected again.
func (d *Datasource) watch(ctx context.Context, l *line) {
	look := time.NewTicker(watchEvery)
	defer look.Stop()
	for connected := true; ; {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
		was := connected
		if connected = d.live().Feed.Stats().Connected; was && !connected {
			l.interrupt() //nolint:errcheck // sending the next batch fails, too
		}
	}
}

// line sends frames, one at a time.
type line struct {
	mu     sync.Mutex
	sender *backend.StreamSender
	at     cursor.Cursor // of the last frame
}

func (l *line) send(b *feed.Batch, st *overview.Snapshot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = b.Cursor
	return l.frame(b.Events, frameMeta{From: b.From.String(), Cursor: b.Cursor.String(), State: st})
}

func (l *line) interrupt() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	here := l.at.String()
	return l.frame(nil, frameMeta{From: here, Cursor: here, Interrupted: errInterrupted.Error()})
}

func (l *line) frame(events []event.Event, meta frameMeta) error {
	frame := eventFrame(events)
	frame.Meta = &data.FrameMeta{Custom: meta}
	return l.sender.SendFrame(frame, data.IncludeAll)
}
