package datasource

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/data"
	"golang.org/x/sync/singleflight"

	"github.com/specwatch/specwatch/pkg/contract"
)

const (
	sharedFor   = 5 * time.Second // how long an answer is reused; ages in it do not change meanwhile
	sharedCount = 500             // answers that are stored
	sharedCells = 1_000_000       // values in all of them
)

// shared stores the last answers of queries that many browsers may send at the
// same time, such as those of a dashboard that is streaming. An answer is reused
// while the position of the feed, read again for each query, is the same.
type shared struct {
	asking singleflight.Group

	mu      sync.Mutex
	answers map[string]storedAnswer
	cells   int
}

type storedAnswer struct {
	frames data.Frames
	cells  int
	at     time.Time
	place
}

// place is a position of the feed. An answer includes at least the events up to it.
type place struct {
	cursor string
	pruned int64
}

// ask returns the stored answer to a question, or calls ask. Callers with the same
// question at the same time share one call. The caller must not change the frames.
func (s *shared) ask(ctx context.Context, question string, at place, ask func(context.Context) (data.Frames, error)) (data.Frames, error) {
	s.mu.Lock()
	stored, ok := s.answers[question]
	s.mu.Unlock()
	if ok && stored.place == at && time.Since(stored.at) < sharedFor {
		return stored.frames, nil
	}
	// The query continues if the caller that began it gives up: others may wait for it.
	found := s.asking.DoChan(fmt.Sprint(question, at), func() (any, error) {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		began := time.Now()
		frames, err := ask(asking)
		if err == nil {
			s.keep(question, storedAnswer{frames, cellsOf(frames), began, at})
		}
		return frames, err
	})
	select {
	case r := <-found:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(data.Frames), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func cellsOf(frames data.Frames) (n int) {
	for _, frame := range frames {
		n += frame.Rows() * len(frame.Fields)
	}
	return n
}

// keep stores an answer. It drops those that are too old, or all others if there
// are too many.
func (s *shared) keep(question string, a storedAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q, old := range s.answers {
		if q == question || time.Since(old.at) > sharedFor {
			s.drop(q)
		}
	}
	if len(s.answers) >= sharedCount || s.cells+a.cells > sharedCells {
		s.answers, s.cells = nil, 0
	}
	if a.cells > sharedCells {
		return
	}
	if s.answers == nil {
		s.answers = map[string]storedAnswer{}
	}
	s.answers[question] = a
	s.cells += a.cells
}

func (s *shared) drop(question string) {
	s.cells -= s.answers[question].cells
	delete(s.answers, question)
}

// unshared are the query types that are answered from memory, without the database.
var unshared = []contract.QueryType{contract.QueryDelivery, contract.QueryPromises, contract.QuerySessions, contract.QueryOverview}

// asked answers a query, from a stored answer if the feed runs: the feed is not
// started for this. Queries of alert rules compare ages and are not answered from
// stored answers. The frames are shared.
func (d *Datasource) asked(ctx context.Context, q backend.DataQuery, alert bool) (data.Frames, error) {
	ask := func(ctx context.Context) (data.Frames, error) {
		frames, err := d.query(ctx, q, alert)
		for _, frame := range frames {
			link(frame, d.name.uid)
		}
		return frames, err
	}
	var m model
	if alert || !d.started.Load() || json.Unmarshal(q.JSON, &m) != nil || slices.Contains(unshared, m.QueryType) {
		return ask(ctx)
	}
	here, pruned, ok := d.live().Feed.Fresh(ctx)
	if !ok {
		return ask(ctx)
	}
	question, err := json.Marshal([]any{m, q.TimeRange.From.UnixMicro(), q.TimeRange.To.UnixMicro(), q.Interval, q.MaxDataPoints})
	if err != nil {
		return ask(ctx)
	}
	return d.shared.ask(ctx, string(question), place{here.String(), pruned}, ask)
}
