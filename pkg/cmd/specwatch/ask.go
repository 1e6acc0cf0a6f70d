package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/client"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/runner"
	"github.com/specwatch/specwatch/pkg/store"
)

func newAsk(db *database) *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "ask QUESTION",
		Short: "Ask a person, wait for the answer and print it",
		Long: `Writes an intervention_request, waits until somebody answers it on the page, in
Grafana or by an intervention_answered event, and prints the answer and nothing
else.

When nobody answers within --timeout, it prints --default, or fails if there is
none. It also fails when the question is dismissed. When it stops waiting, the
question is dismissed. When the database is away, it waits until it is back. The
--idle-timeout of "specwatch run" does not end a command that waits in "specwatch
ask".`,
		Example: `  port=$(specwatch ask "Which port?" --option 8080 --option 9090 --timeout 2h --default 8080)`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return errors.New(`ask one question: specwatch ask "Which port?"`)
			}
			return nil
		},
	}
	q.addFlags(cmd, db)
	cmd.RunE = does(func(cmd *cobra.Command, args []string) error {
		if err := q.complete(cmd, args[0]); err != nil {
			return err
		}
		return q.put(cmd, db)
	})
	return cmd
}

var (
	errNobody    = errors.New("nobody answered in time")
	errDismissed = errors.New("the question was dismissed without an answer")
)

// question is a question to a person.
type question struct {
	session, spec, text, otherwise string
	options                        []string
	timeout                        time.Duration
	hasDefault                     bool
	id                             int64        // of the request; 0: it is not known to be written
	unsure                         *event.Event // a request that may be written: the attempt was cut off
}

func (q *question) addFlags(cmd *cobra.Command, db *database) {
	flags := cmd.Flags()
	flags.StringVar(&q.session, "session", "", "`name` of the session, one run of the loop (default: $"+runner.EnvSession+", else one for this shell and folder)")
	flags.StringVar(&q.spec, "spec", "", "`name` of the spec, one unit of work (default: $"+runner.EnvSpec+")")
	flags.StringArrayVar(&q.options, "option", nil, "an `answer` to choose from; may be repeated")
	flags.DurationVar(&q.timeout, "timeout", 0, "how long to wait for an answer, a `duration` such as 2h (default: without limit)")
	completeNames(db, cmd)
	flags.StringVar(&q.otherwise, "default", "", "`answer` to print when nobody answers within --timeout")
}

// complete adds the text, and from the environment what the flags do not name, and
// checks the question.
func (q *question) complete(cmd *cobra.Command, text string) error {
	flags := cmd.Flags()
	q.text, q.hasDefault = text, flags.Changed("default")
	q.session = cmp.Or(q.session, variable(runner.EnvSession))
	if q.session == "" {
		q.session = sessionOfLoop(time.Now()).name
	}
	if !flags.Changed("spec") && !flags.Changed("session") {
		q.spec = variable(runner.EnvSpec)
	}
	switch {
	case q.timeout < 0 || flags.Changed("timeout") && q.timeout == 0:
		return wrongUsef("--timeout must be more than 0, not %s", q.timeout)
	case q.hasDefault && q.timeout == 0:
		return wrongUsef("--default needs --timeout: it is printed when nobody answers in time")
	}
	return validate(q.event(), "the question")
}

// put asks the question and prints the answer.
func (q *question) put(cmd *cobra.Command, db *database) error {
	if q.timeout == 0 {
		advise(cmd.ErrOrStderr(), "waiting for an answer without limit; --timeout limits it")
	}
	ctx, cancel := untilSignal(cmd.Context())
	defer cancel()
	if q.timeout > 0 {
		var over context.CancelFunc
		ctx, over = context.WithTimeoutCause(ctx, q.timeout, errNobody)
		defer over()
	}
	to, err := db.destination(ctx, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer to.close()
	answer, err := q.answer(ctx, to, func(text string) { say(cmd.ErrOrStderr(), text) })
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), answer)
	return nil
}

// answer returns the answer or, if nobody answers in time, the default. It dismisses
// a question for whose answer it does not wait any more.
func (q *question) answer(ctx context.Context, to *destination, tell func(string)) (string, error) {
	answer, err := q.ask(ctx, to, tell)
	if err == nil {
		return answer, nil
	}
	late := errors.Is(context.Cause(ctx), errNobody)
	nobody := fmt.Sprintf("nobody answered within %s", q.timeout)
	switch {
	case errors.Is(err, errDismissed):
	case late:
		q.withdraw(to, nobody, tell)
	default:
		q.withdraw(to, "the command that asked was stopped", tell)
	}
	switch {
	case !late:
		return "", err
	case !q.hasDefault:
		return "", errors.New(nobody)
	}
	tell(nobody + "; printing the default")
	return q.otherwise, nil
}

func (q *question) event() event.Event {
	data := map[string]any{"question": q.text}
	if len(q.options) > 0 {
		data["options"] = q.options
	}
	if q.hasDefault {
		data["default"] = q.otherwise
	}
	if q.timeout > 0 {
		data["timeoutSeconds"] = q.timeout.Seconds()
	}
	return event.Event{Kind: event.InterventionRequest, Session: q.session, Spec: q.spec, Data: outbox.Data(data)}
}

// ask writes the request and waits for its answer. It subscribes before it writes,
// so that it cannot miss the answer. If it cannot subscribe, it writes anyway, and
// the request is kept on disk.
func (q *question) ask(ctx context.Context, to *destination, tell func(string)) (answer string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	l := newListener(to, time.Now().Add(-event.DefaultHistory), tell)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.listen(ctx)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	select {
	case <-l.tried:
	case err = <-l.failed:
		return "", err
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if err = q.insist(ctx, to, tell); err != nil {
		return "", err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		runner.Note() // a command that waits for a person is not idle
		select {
		case e := <-l.answers:
			if text, dismissed, ok := answerTo(q.id, e.Data); dismissed {
				return "", errDismissed
			} else if ok {
				return text, nil
			}
		case <-tick.C:
		case err := <-l.failed:
			return "", err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// withdrawTimeout bounds a dismissal, which is kept on disk if it takes longer.
const withdrawTimeout = 5 * time.Second

// withdraw dismisses the request: nobody waits for its answer any more. A request that
// may be written is sent again before, by its key, because the answer needs its id.
func (q *question) withdraw(to *destination, reason string, tell func(string)) {
	data := map[string]any{"dismissed": true, "reason": reason}
	if q.hasDefault {
		data["default"] = q.otherwise
	}
	var events []event.Event
	switch {
	case q.id != 0:
		data["request"] = q.id
	case q.unsure != nil:
		data[outbox.RequestKey] = q.unsure.Key
		events = append(events, *q.unsure)
	default:
		return
	}
	events = append(events, event.Event{
		Kind: event.InterventionAnswered, Session: q.session, Spec: q.spec, Data: outbox.Data(data), Key: "emit-" + rand.Text(),
	})
	ctx, cancel := context.WithTimeout(context.Background(), withdrawTimeout)
	defer cancel()
	file := to.box.File()
	defer file.Close()
	queue := outbox.NewQueue(to, to.box, file, func(string) {})
	queue.Add(stamped(events)...)
	queue.Close()
	queue.Run(ctx)
	if rest, why := queue.Rest(); len(rest) > 0 {
		tell(fmt.Sprintf("the question stays open for now: %s", cmp.Or(why, context.Cause(ctx))))
	}
}

// insist retries until the request is written. If ctx ends before, the request is
// dropped: nobody would wait for its answer. If ctx cut an attempt off, it is unsure.
func (q *question) insist(ctx context.Context, to *destination, tell func(string)) error {
	p := to.keep([]event.Event{q.event()})
	defer p.file.Remove()
	told := false
	for {
		receipt, kept, err := p.send(ctx, tell)
		switch {
		case err != nil:
			return err
		case kept == nil:
			q.id = receipt.IDs[0]
			return nil
		case ctx.Err() != nil:
			q.unsure = &p.events[0]
			return ctx.Err()
		case !away(kept):
			return kept
		case !told:
			told = true
			tell(fmt.Sprintf("%s; the question is kept until then", kept))
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// listener forwards answers to any question.
type listener struct {
	to      *destination
	cursor  string    // empty: it has none yet
	since   time.Time // where it starts again when the cursor expires; the clock of the database may differ from ours
	tell    func(string)
	tried   chan struct{} // closed after the first attempt to listen
	answers chan event.Event
	failed  chan error // receives the error that ended it
}

func newListener(to *destination, since time.Time, tell func(string)) *listener {
	return &listener{to: to, since: since, tell: tell, tried: make(chan struct{}), answers: make(chan event.Event), failed: make(chan error, 1)}
}

func (l *listener) listen(ctx context.Context) {
	var once sync.Once
	tried := func() { once.Do(func() { close(l.tried) }) }
	told := false
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = 100*time.Millisecond, 5*time.Second
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := l.to.follow(ctx, l.cursor, func(page client.Page) error {
			l.cursor, told = page.Cursor, false
			delay.Reset()
			tried()
			for _, e := range page.Events {
				if e.Kind != event.InterventionAnswered {
					continue
				}
				select {
				case l.answers <- e:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
		switch {
		case errors.Is(err, store.ErrExpired):
			l.cursor = l.since.Format(time.RFC3339)
		case err != nil && ctx.Err() == nil && !away(err) && !errors.Is(err, feed.ErrSlow):
			return struct{}{}, backoff.Permanent(err)
		case err != nil && !told && ctx.Err() == nil:
			told = true
			l.tell(fmt.Sprintf("cannot listen for the answer now (%s); continuing when the database is back", err))
		}
		tried()
		return struct{}{}, err
	}, backoff.WithBackOff(delay), backoff.WithMaxElapsedTime(0))
	if err != nil && ctx.Err() == nil {
		l.failed <- err
	}
}

// answerTo reads the data of an intervention_answered event. An answer that is not
// a string is printed as JSON.
func answerTo(id int64, data json.RawMessage) (text string, dismissed, ok bool) {
	var answer struct {
		Request   json.RawMessage `json:"request"`
		Answer    json.RawMessage `json:"answer"`
		Dismissed bool            `json:"dismissed"`
	}
	if json.Unmarshal(data, &answer) != nil || strings.Trim(string(answer.Request), `"`) != strconv.FormatInt(id, 10) {
		return "", false, false
	}
	if json.Unmarshal(answer.Answer, &text) != nil {
		text = string(answer.Answer)
	}
	return text, answer.Dismissed, true
}
