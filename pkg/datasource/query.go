package datasource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/grafana/grafana-plugin-sdk-go/experimental/concurrent"

	"github.com/specwatch/specwatch/pkg/contract"
	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/store"
)

// model is a query as the editor writes it. An empty list means all. The mode
// of delivery is the front end's business and not read here.
type model struct {
	QueryType contract.QueryType `json:"queryType"`
	Kinds     []event.Kind       `json:"kinds"`
	Sessions  []string           `json:"sessions"`
	Specs     []string           `json:"specs"`
	Limit     int                `json:"limit"`
	Since     bool               `json:"since"` // of conditions: when it came about instead of the number
}

const (
	atOnce           = 4      // queries of one request that run at the same time
	defaultRows      = 1_000  // of an answer, when the query names no limit
	maxTimelineSpecs = 50     // rows that a person can tell apart
	maxTimelineRows  = 10_000 // moments of a timeline; the latest are kept
	maxBuckets       = 11_000 // points of a time series, as in Prometheus

	connectTimeout = 2 * time.Second       // of a feed that is asked for its health,
	connectPause   = 20 * time.Millisecond // and between two looks at it
)

// QueryData answers the queries of panels, of alert rules and of annotations.
func (d *Datasource) QueryData(ctx context.Context, req *backend.QueryDataRequest) (*backend.QueryDataResponse, error) {
	return concurrent.QueryData(ctx, req, func(ctx context.Context, q concurrent.Query) backend.DataResponse {
		frames, err := d.query(ctx, q.DataQuery)
		if err != nil {
			return failure(err)
		}
		for _, frame := range frames {
			frame.RefID = q.DataQuery.RefID
		}
		return backend.DataResponse{Frames: frames, Status: backend.StatusOK}
	}, atOnce)
}

func failure(err error) backend.DataResponse {
	var field *event.FieldError
	var known *store.Problem
	r := backend.DataResponse{Error: err, Status: backend.StatusInternal, ErrorSource: backend.ErrorSourceDownstream}
	switch {
	case errors.As(err, &field):
		r.Status = backend.StatusBadRequest
	case errors.As(err, &known):
		r.Status = backend.Status(http.StatusServiceUnavailable)
	}
	return r
}

func (d *Datasource) query(ctx context.Context, q backend.DataQuery) (data.Frames, error) {
	m := model{QueryType: contract.QueryEvents}
	if err := json.Unmarshal(q.JSON, &m); err != nil {
		return nil, &event.FieldError{Field: "query", Detail: "cannot be read: " + err.Error()}
	}
	if m.QueryType == "" {
		m.QueryType = contract.QueryEvents
	}
	for _, kind := range m.Kinds {
		if !kind.Valid() {
			return nil, &event.FieldError{Field: "kinds", Detail: fmt.Sprintf("%.64q is not a kind of event", string(kind))}
		}
	}
	if m.Limit == 0 {
		m.Limit = defaultRows
	}
	if m.Limit < 1 || m.Limit > event.MaxPage {
		return nil, &event.FieldError{Field: "limit", Detail: fmt.Sprintf("must be a whole number from 1 to %d", event.MaxPage)}
	}
	f := store.Filter{From: q.TimeRange.From, To: q.TimeRange.To, Kinds: m.Kinds, Sessions: m.Sessions, Specs: m.Specs, Limit: m.Limit}
	switch m.QueryType {
	case contract.QueryEvents, contract.QueryLogs:
		events, err := d.store.Range(ctx, f)
		if err != nil {
			return nil, err
		}
		if m.QueryType == contract.QueryLogs {
			return data.Frames{logFrame(events)}, nil
		}
		return data.Frames{eventFrame(events)}, nil
	case contract.QueryCounts:
		step, err := bucket(q)
		if err != nil {
			return nil, err
		}
		counts, err := d.store.Counts(ctx, f, step)
		if err != nil {
			return nil, err
		}
		return data.Frames{countFrame(counts, f, step)}, nil
	case contract.QueryOutcomes:
		outcomes, err := d.store.Outcomes(ctx, f)
		if err != nil {
			return nil, err
		}
		return data.Frames{outcomeFrame(outcomes)}, nil
	case contract.QueryDurations:
		attempts, err := d.store.Durations(ctx, f)
		if err != nil {
			return nil, err
		}
		return data.Frames{durationFrame(attempts)}, nil
	case contract.QueryTimeline:
		f.Limit = min(f.Limit, maxTimelineSpecs)
		changes, err := d.store.Timeline(ctx, f)
		if err != nil {
			return nil, err
		}
		return data.Frames{timelineFrame(changes)}, nil
	case contract.QuerySessions:
		// What holds now, whatever the range: an old range would make a
		// session look asleep that is long done.
		st, err := d.live().State(ctx, cursor.Cursor{})
		if err != nil {
			return nil, err
		}
		return data.Frames{sessionFrame(st, m.Sessions)}, nil
	case contract.QueryDelivery:
		return data.Frames{deliveryFrame(d.delivery(ctx))}, nil
	}
	if c, known := conditions[m.QueryType]; known {
		found, err := c.read(d.store, ctx, f)
		if err != nil {
			return nil, err
		}
		if m.Since {
			c.number = since
		}
		return data.Frames{conditionFrame(m.QueryType, c.number, found)}, nil
	}
	return nil, &event.FieldError{Field: "queryType", Detail: fmt.Sprintf("%.64q is not known; it is one of %v", string(m.QueryType), contract.QueryTypes)}
}

// conditions are what alert rules ask for: how each is read, and the number
// that a rule compares. They are read from the table and by the range, not
// from the feed's summary, which lists the newest hundred: the sessions that
// an alert is about are those not heard of for long.
var conditions = map[contract.QueryType]struct {
	read   func(*store.Store, context.Context, store.Filter) ([]store.Condition, error)
	number number
}{
	contract.QueryTimedOut:      {(*store.Store).TimedOut, age},
	contract.QueryWaiting:       {(*store.Store).Waiting, age},
	contract.QueryHeartbeatAge:  {(*store.Store).Silent, age},
	contract.QueryFailureStreak: {(*store.Store).Failing, failures},
}

// delivery is the health of this data source's feed. One that has only just
// started is given the time to connect, so that it does not look broken.
func (d *Datasource) delivery(ctx context.Context) feed.Stats {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	again := time.NewTicker(connectPause)
	defer again.Stop()
	for {
		stats := d.live().Stats()
		if stats.Connected {
			return stats
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return stats
		}
	}
}

// bucket is the width of a time series' points: the interval that Grafana
// asks for, and wide enough for the number of points that it can draw.
func bucket(q backend.DataQuery) (time.Duration, error) {
	span := q.TimeRange.To.Sub(q.TimeRange.From)
	if span < 0 {
		return 0, &event.FieldError{Field: "range", Detail: "ends before it begins"}
	}
	points := q.MaxDataPoints
	if points < 1 || points > maxBuckets {
		points = maxBuckets
	}
	step := max(q.Interval, span/time.Duration(points), time.Second)
	return step.Truncate(time.Millisecond), nil
}
