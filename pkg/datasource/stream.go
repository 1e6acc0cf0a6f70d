package datasource

import (
	"context"
	"errors"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/data"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/store"
)

// StreamPath is the one live channel: ds/<uid>/events.
const StreamPath = "events"

// position goes in the metadata of stream frames. A client that last saw
// another cursor than From lacks something, and asks the resource `status`
// for it.
type position struct {
	From   string `json:"from,omitempty"`
	Cursor string `json:"cursor"`
}

// SubscribeStream tells a new viewer where the shared stream stands.
func (d *Datasource) SubscribeStream(ctx context.Context, req *backend.SubscribeStreamRequest) (*backend.SubscribeStreamResponse, error) {
	if req.Path != StreamPath {
		return &backend.SubscribeStreamResponse{Status: backend.SubscribeStreamStatusNotFound}, nil
	}
	here, err := d.standing(ctx)
	if err != nil {
		return nil, err
	}
	frame := eventFrame(nil)
	frame.Meta = &data.FrameMeta{Custom: position{Cursor: here.String()}}
	initial, err := backend.NewInitialFrame(frame, data.IncludeAll)
	if err != nil {
		return nil, err
	}
	return &backend.SubscribeStreamResponse{Status: backend.SubscribeStreamStatusOK, InitialData: initial}, nil
}

// standing is the cursor that the viewers of the stream have; the first of
// them sets it.
func (d *Datasource) standing(ctx context.Context) (cursor.Cursor, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stream.IsZero() {
		return d.stream, nil
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	here, err := d.live().Here(ctx)
	if err == nil {
		d.stream = here
	}
	return here, err
}

func (d *Datasource) stand(c cursor.Cursor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stream = c
}

// PublishStream refuses: events are written to PostgreSQL.
func (d *Datasource) PublishStream(context.Context, *backend.PublishStreamRequest) (*backend.PublishStreamResponse, error) {
	return &backend.PublishStreamResponse{Status: backend.PublishStreamStatusPermissionDenied}, nil
}

// RunStream sends what the feed brings until the last viewer has left.
// Grafana runs it once for all viewers. It knows nothing of what they hold;
// the cursors let each of them find out.
func (d *Datasource) RunStream(ctx context.Context, req *backend.RunStreamRequest, sender *backend.StreamSender) error {
	if req.Path != StreamPath {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.running, cancel)()
	// The next viewer after the last one starts afresh.
	defer d.stand(cursor.Cursor{})
	for {
		err := d.pass(ctx, sender)
		switch {
		case d.running.Err() != nil:
			return errors.New("the settings of the data source changed; the stream starts again")
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, feed.ErrSlow), errors.Is(err, store.ErrExpired):
			// Go on from now; viewers see a From that they do not know.
			d.stand(cursor.Cursor{})
		default:
			return err // Grafana tries again
		}
	}
}

func (d *Datasource) pass(ctx context.Context, sender *backend.StreamSender) error {
	start, err := d.standing(ctx)
	if err != nil {
		return err
	}
	sub, err := d.live().Subscribe(ctx, start, event.MaxPage)
	if err != nil {
		return err
	}
	defer sub.Close()
	// Viewers of a stream that was interrupted learn where it stands now.
	if err := send(sender, &feed.Batch{From: start, Cursor: start}); err != nil {
		return err
	}
	for {
		b, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		if err := send(sender, b); err != nil {
			return err
		}
		d.stand(b.Cursor)
	}
}

func send(sender *backend.StreamSender, b *feed.Batch) error {
	frame := eventFrame(b.Events)
	frame.Meta = &data.FrameMeta{Custom: position{From: b.From.String(), Cursor: b.Cursor.String()}}
	return sender.SendFrame(frame, data.IncludeAll)
}
