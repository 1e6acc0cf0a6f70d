package datasource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/grafana/grafana-plugin-sdk-go/experimental/concurrent"

	"github.com/specwatch/specwatch/pkg/contract"
	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// model is a query as the editor writes it. An empty list means all. The backend
// ignores the fields mode and days; the front end uses them.
type model struct {
	QueryType contract.QueryType `json:"queryType"`
	Kinds     []event.Kind       `json:"kinds"`
	Sessions  []string           `json:"sessions"`
	Specs     []string           `json:"specs"`
	Limit     int                `json:"limit"`
	Since     bool               `json:"since"`  // of conditions: the time of the event instead of the number
	Zone      string             `json:"zone"`   // of nights: the time zone in which they begin and end at noon; "": UTC
	Levels    bool               `json:"levels"` // of counts: a frame for each severity of logs, and not for each kind
}

const (
	atOnce          = 4      // queries of one request that run at the same time
	maxTimelineRows = 10_000 // rows of a timeline; the latest are kept
	maxBuckets      = 11_000 // points of a time series, as in Prometheus

	connectTimeout = 2 * time.Second       // for a feed that is not connected yet
	connectPause   = 20 * time.Millisecond // between two checks of that feed
)

// QueryData answers the queries of panels, of alert rules and of annotations.
func (d *Datasource) QueryData(ctx context.Context, req *backend.QueryDataRequest) (*backend.QueryDataResponse, error) {
	return concurrent.QueryData(ctx, req, func(ctx context.Context, q concurrent.Query) backend.DataResponse {
		shared, err := d.asked(ctx, q.DataQuery, req.Headers[backend.FromAlertHeaderName] == "true")
		if err != nil {
			return failure(err)
		}
		frames := make(data.Frames, len(shared))
		for i, frame := range shared {
			own := *frame
			own.RefID = q.DataQuery.RefID
			frames[i] = &own
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

// query is one query: the model, its time range and its filters.
type query struct {
	model
	filter  questions.Filter
	grafana backend.DataQuery // with the interval and the number of points of a time series
}

// queries has the method that answers each query type; conditions has the others.
var queries = map[contract.QueryType]func(*Datasource, context.Context, query) (data.Frames, error){
	contract.QueryEvents:    (*Datasource).queryEvents,
	contract.QueryLogs:      (*Datasource).queryLogs,
	contract.QueryCounts:    (*Datasource).queryCounts,
	contract.QueryOutcomes:  (*Datasource).queryOutcomes,
	contract.QueryDurations: (*Datasource).queryDurations,
	contract.QuerySessions:  (*Datasource).querySessions,
	contract.QueryOverview:  (*Datasource).queryOverview,
	contract.QueryTimeline:  (*Datasource).queryTimeline,
	contract.QueryUsage:     (*Datasource).queryUsage,
	contract.QueryUsageOver: (*Datasource).queryUsageOver,
	contract.QueryNights:    (*Datasource).queryNights,
	contract.QuerySpecs:     (*Datasource).querySpecs,
	contract.QueryRequests:  (*Datasource).queryRequests,
	contract.QueryDelivery:  (*Datasource).queryDelivery,
	contract.QueryPromises:  (*Datasource).queryPromises,
}

func (d *Datasource) query(ctx context.Context, asked backend.DataQuery, alert bool) (data.Frames, error) {
	m, err := readModel(asked.JSON)
	if err != nil {
		return nil, err
	}
	if err := m.check(alert); err != nil {
		return nil, err
	}
	q := query{model: m, grafana: asked, filter: questions.Filter{
		From: asked.TimeRange.From, To: asked.TimeRange.To, Kinds: m.Kinds, Sessions: m.Sessions, Specs: m.Specs, Limit: m.Limit,
	}}
	if answer, known := queries[m.QueryType]; known {
		return answer(d, ctx, q)
	}
	if c, known := conditions[m.QueryType]; known {
		return d.queryCondition(ctx, q, c)
	}
	return nil, &event.FieldError{Field: "queryType", Detail: fmt.Sprintf("%.64q is not known; it is one of %v", string(m.QueryType), contract.QueryTypes)}
}

// readModel reads a query and sets the defaults of missing fields.
func readModel(text json.RawMessage) (model, error) {
	m := model{QueryType: contract.QueryEvents}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, &event.FieldError{Field: "query", Detail: "cannot be read: " + err.Error()}
	}
	if m.QueryType == "" {
		m.QueryType = contract.QueryEvents
	}
	if m.Limit == 0 {
		m.Limit = contract.DefaultRows
	}
	return m, nil
}

// check returns an error for kinds and limits that no query type accepts, and for
// types that alert rules cannot use. An unknown type is not an error here.
func (m model) check(alert bool) error {
	for _, kind := range m.Kinds {
		if !kind.Known() && !kind.Custom() && kind != event.Other {
			return &event.FieldError{Field: "kinds", Detail: fmt.Sprintf("%.64q is not a kind of event", string(kind))}
		}
	}
	if alert && slices.Contains(contract.QueryTypes, m.QueryType) && !slices.Contains(contract.Alerting, m.QueryType) {
		return &event.FieldError{Field: "queryType", Detail: fmt.Sprintf("%q returns no number that an alert rule can compare; choose one of %v", string(m.QueryType), contract.Alerting)}
	}
	if m.Limit < 1 || m.Limit > event.MaxPage {
		return &event.FieldError{Field: "limit", Detail: fmt.Sprintf("must be a whole number from 1 to %d", event.MaxPage)}
	}
	return nil
}

func (d *Datasource) queryEvents(ctx context.Context, q query) (data.Frames, error) {
	events, err := d.questions.Range(ctx, q.filter)
	if err != nil {
		return nil, err
	}
	return d.counted(ctx, eventFrame(events), len(events), q.filter, "newest", "events")
}

func (d *Datasource) queryLogs(ctx context.Context, q query) (data.Frames, error) {
	events, err := d.questions.Range(ctx, q.filter)
	if err != nil {
		return nil, err
	}
	return d.counted(ctx, logFrame(events), len(events), q.filter, "newest", "events")
}

func (d *Datasource) queryCounts(ctx context.Context, q query) (data.Frames, error) {
	step, err := bucket(q.grafana)
	if err != nil {
		return nil, err
	}
	counts, err := d.questions.Counts(ctx, q.filter, step)
	if err != nil {
		return nil, err
	}
	frame := countFrame(counts, q.filter, step)
	if q.Levels {
		return levelFrames(frame), nil
	}
	return data.Frames{frame}, nil
}

func (d *Datasource) queryOutcomes(ctx context.Context, q query) (data.Frames, error) {
	outcomes, err := d.questions.Outcomes(ctx, q.filter)
	if err != nil {
		return nil, err
	}
	return data.Frames{outcomeFrame(outcomes)}, nil
}

func (d *Datasource) queryDurations(ctx context.Context, q query) (data.Frames, error) {
	attempts, err := d.questions.Durations(ctx, q.filter)
	if err != nil {
		return nil, err
	}
	st, err := d.overview(ctx)
	if err != nil {
		return nil, err
	}
	for i := range attempts {
		attempts[i].Outcome = outcomeNow(st, attempts[i].Outcome, attempts[i].Session, attempts[i].Spec, attempts[i].Started)
	}
	q.filter.Kinds = []event.Kind{event.SpecStarted}
	return d.counted(ctx, durationFrame(attempts), len(attempts), q.filter, "newest", "attempts")
}

// querySessions returns the present state and ignores the range: in an old range a
// session that has ended since would look silent. So does queryOverview.
func (d *Datasource) querySessions(ctx context.Context, q query) (data.Frames, error) {
	st, err := d.sessions(ctx, q.Sessions)
	if err != nil {
		return nil, err
	}
	return data.Frames{sessionFrame(st)}, nil
}

func (d *Datasource) queryOverview(ctx context.Context, q query) (data.Frames, error) {
	st, err := d.sessions(ctx, q.Sessions)
	if err != nil {
		return nil, err
	}
	return data.Frames{overviewFrame(st)}, nil
}

func (d *Datasource) queryTimeline(ctx context.Context, q query) (data.Frames, error) {
	f := q.filter
	f.Limit = min(f.Limit, contract.TimelineSpecs)
	changes, specs, err := d.questions.Timeline(ctx, f)
	if err != nil {
		return nil, err
	}
	st, err := d.overview(ctx)
	if err != nil {
		return nil, err
	}
	later, err := d.later(ctx, f, changes, st)
	if err != nil {
		return nil, err
	}
	return data.Frames{timelineFrame(changes, specs, f.From, st, later)}, nil
}

func (d *Datasource) queryUsage(ctx context.Context, q query) (data.Frames, error) {
	used, specs, err := d.questions.Usage(ctx, q.filter)
	if err != nil {
		return nil, err
	}
	return data.Frames{usageFrame(used, specs)}, nil
}

func (d *Datasource) queryUsageOver(ctx context.Context, q query) (data.Frames, error) {
	step, err := bucket(q.grafana)
	if err != nil {
		return nil, err
	}
	used, err := d.questions.UsageOver(ctx, q.filter, step)
	if err != nil {
		return nil, err
	}
	return data.Frames{usageOverFrame(used, q.filter, step)}, nil
}

func (d *Datasource) queryNights(ctx context.Context, q query) (data.Frames, error) {
	zone, err := time.LoadLocation(q.Zone)
	if err != nil || q.Zone == "Local" {
		return nil, &event.FieldError{Field: "zone", Detail: fmt.Sprintf("%.64q is no time zone such as Europe/Berlin", q.Zone)}
	}
	nights, total, err := d.questions.Nights(ctx, q.filter, zone)
	if err != nil {
		return nil, err
	}
	frame := nightFrame(nights)
	noteCut(frame, len(nights), total, "latest", "nights")
	return data.Frames{frame}, nil
}

func (d *Datasource) querySpecs(ctx context.Context, q query) (data.Frames, error) {
	specs, total, err := d.questions.SpecHistories(ctx, q.filter)
	if err != nil {
		return nil, err
	}
	st, err := d.overview(ctx)
	if err != nil {
		return nil, err
	}
	for i := range specs {
		specs[i].Last = outcomeNow(st, specs[i].Last, specs[i].LastSession, specs[i].Spec, specs[i].LastStarted)
	}
	frame := specFrame(specs)
	noteCut(frame, len(specs), total, "most often failed", "specs")
	return data.Frames{frame}, nil
}

func (d *Datasource) queryRequests(ctx context.Context, q query) (data.Frames, error) {
	requests, err := d.questions.Askings(ctx, q.filter)
	if err != nil {
		return nil, err
	}
	q.filter.Kinds = []event.Kind{event.InterventionRequest}
	return d.counted(ctx, requestFrame(requests), len(requests), q.filter, "newest", "requests")
}

func (d *Datasource) queryDelivery(ctx context.Context, _ query) (data.Frames, error) {
	return data.Frames{deliveryFrame(d.delivery(ctx))}, nil
}

func (d *Datasource) queryPromises(ctx context.Context, _ query) (data.Frames, error) {
	promises, err := d.promises(ctx)
	return data.Frames{promiseFrame(promises)}, err
}

func (d *Datasource) queryCondition(ctx context.Context, q query, c condition) (data.Frames, error) {
	f := q.filter
	found, err := c.read(d.questions, ctx, f)
	if err != nil {
		return nil, err
	}
	if q.Since {
		c.number = since
	}
	frame := conditionFrame(q.QueryType, c.number, found)
	if len(found) == f.Limit {
		f.Limit = math.MaxInt32
		all, err := c.read(d.questions, ctx, f)
		if err != nil {
			return nil, err
		}
		noteCut(frame, len(found), int64(len(all)), "newest", "rows")
	}
	return data.Frames{frame}, nil
}

// counted adds the total number of rows in the range to a frame that does not have
// all of them.
func (d *Datasource) counted(ctx context.Context, frame *data.Frame, rows int, f questions.Filter, which, what string) (data.Frames, error) {
	if rows < f.Limit {
		return data.Frames{frame}, nil
	}
	total, err := d.questions.Total(ctx, f)
	noteCut(frame, rows, total, which, what)
	return data.Frames{frame}, err
}

// outcomeNow replaces running by silent if the state says that the spec is silent.
// A spec that is newer than the state counts as running.
func outcomeNow(st state.State, o questions.Outcome, session, spec string, started time.Time) questions.Outcome {
	if o == questions.Running && !st.HeardOf(session, spec) && st.At.Sub(started) > state.Awake {
		return questions.Silent
	}
	return o
}

func (d *Datasource) overview(ctx context.Context) (state.State, error) {
	snapshot, err := d.live().Overview.At(ctx, cursor.Cursor{})
	if err != nil {
		return state.State{}, err
	}
	return snapshot.State, nil
}

// sessions returns the state of the sessions of these names, or of all that have an
// event within state.Horizon. The overview lists the hundred with the latest
// events; the others are read from the table.
func (d *Datasource) sessions(ctx context.Context, names []string) (state.State, error) {
	st, err := d.overview(ctx)
	if err != nil || len(names) == 0 {
		return st, err
	}
	listed := func(s state.Session) bool { return slices.Contains(names, s.Session) }
	if known := slices.DeleteFunc(slices.Clone(st.Sessions), func(s state.Session) bool { return !listed(s) }); len(known) == len(slices.Compact(slices.Sorted(slices.Values(names)))) {
		return state.Of(st.At, known), nil
	}
	return d.questions.StateOf(ctx, names)
}

// condition has the function that reads a condition, and the number that a rule
// compares.
type condition struct {
	read   func(questions.Questions, context.Context, questions.Filter) ([]questions.Condition, error)
	number number
}

// conditions are the query types for alert rules. They are read from the table, in
// the range of the query. The feed's summary lists only the hundred sessions with
// the latest events, and alerts are about sessions without events for long.
var conditions = map[contract.QueryType]condition{
	contract.QueryTimedOut:      {questions.Questions.TimedOut, age},
	contract.QueryWaiting:       {questions.Questions.Waiting, age},
	contract.QueryHeartbeatAge:  {questions.Questions.HeartbeatAge, age},
	contract.QueryIdle:          {questions.Questions.Idle, age},
	contract.QueryFailureStreak: {questions.Questions.Failing, failures},
}

// delivery returns the health of this data source's feed. It waits up to
// connectTimeout for the connection, because a feed that has just started is not
// broken.
func (d *Datasource) delivery(ctx context.Context) feed.Stats {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	again := time.NewTicker(connectPause)
	defer again.Stop()
	for {
		stats := d.live().Feed.Stats()
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

// bucket returns the time between two points of a time series: the interval that
// Grafana asks for, or more if there were more points than it can draw. Above a
// minute, an hour or a day it is a whole number of these, because the rollups are
// by minute, hour and day.
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
	for _, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Millisecond} {
		if step >= unit {
			return (step + unit - 1).Truncate(unit), nil
		}
	}
	return step, nil
}
