package datasource

import (
	"context"
	"fmt"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// promise is a property that viewers rely on, and whether it holds now.
type promise struct {
	name   string
	status string // kept, at risk or broken
	why    string
}

const (
	kept   = "kept"
	atRisk = "at risk"
	broken = "broken"

	lagAllowed    = time.Second // lag of the feed above which live events are late
	answerAllowed = time.Second // for the simplest query
)

// promises checks each promise. It returns an error only if ctx has ended.
func (d *Datasource) promises(ctx context.Context) ([]promise, error) {
	asked := time.Now()
	readErr := d.store.Ready(ctx)
	took := time.Since(asked)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	stats := d.delivery(ctx)

	read := promise{"Every committed event is shown, once", kept, "the events can be read"}
	if readErr != nil {
		read = promise{read.name, broken, readErr.Error()}
	}
	live := promise{"Live events arrive at once", kept, "PostgreSQL notifies the reader"}
	switch {
	case !stats.Connected:
		live = promise{live.name, broken, "the reader of live events is not connected to the database; viewers poll"}
	case stats.Lag > lagAllowed:
		live = promise{live.name, atRisk, fmt.Sprintf("the reader is %s behind; look for a load on the database, or a transaction that holds a lock", stats.Lag.Round(100*time.Millisecond))}
	case stats.Pooled:
		live = promise{live.name, atRisk, store.PoolerNote}
	case !stats.Push:
		live = promise{live.name, atRisk, fmt.Sprintf("notifications do not work here, so the reader polls; events arrive up to %s late", stats.Delay.Round(time.Millisecond))}
	}
	found := []promise{read, live}
	if readErr == nil {
		quick := promise{"Queries are answered quickly", kept, fmt.Sprintf("the simplest query took %s", took.Round(time.Millisecond))}
		if took > answerAllowed {
			quick = promise{quick.name, atRisk, fmt.Sprintf("the simplest query took %s; look for a load on the database or a slow network", took.Round(time.Millisecond))}
		}
		found = append(found, quick)
	}
	if stats.Connected {
		snapshot, err := d.live().Overview.At(ctx, cursor.Cursor{})
		if err != nil {
			return nil, err
		}
		found = append(found, promisesOf(snapshot.State)...)
	}
	return found, nil
}

// promisesOf checks the promises that depend on the state of the sessions.
func promisesOf(st state.State) []promise {
	silence := promise{"Silent sessions are detected", kept, "the clocks of all listed sessions agree with the database's"}
	wrong, name := 0, ""
	for _, s := range st.Sessions {
		if s.ClockAhead != 0 {
			wrong++
			name = s.Session
		}
	}
	if wrong > 0 {
		silence = promise{silence.name, atRisk, fmt.Sprintf("the clocks of %d sessions, such as %q, are wrong by more than %s; Specwatch corrects the times, but correct these clocks", wrong, label(name), state.ClockOff)}
	}
	all := promise{"Summaries include all sessions", kept, fmt.Sprintf("%s sessions in the last %d days", grouped(int64(st.SessionsTotal)), int(state.Horizon.Hours()/24))}
	if st.SessionsTotal >= state.MaxSessions {
		all = promise{all.name, broken, fmt.Sprintf("more than %s sessions in the last %d days: those with the oldest events are left out", grouped(state.MaxSessions), int(state.Horizon.Hours()/24))}
	}
	return []promise{silence, all}
}

// promiseFrame is a table of promises.
func promiseFrame(promises []promise) *data.Frame {
	frame := typed(data.NewFrame("promises"), data.FrameTypeTable, 0, data.VisTypeTable)
	column(frame, "promise", "", promises, func(p promise) string { return p.name })
	column(frame, "status", "", promises, func(p promise) string { return p.status })
	column(frame, "why", "", promises, func(p promise) string { return p.why })
	return frame
}
