package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/runner"
	"github.com/specwatch/specwatch/pkg/store"
)

// emitFlags are the flags of emit: an event, or the file with many.
type emitFlags struct {
	session, spec, data, key, at, from string
	format                             outputFormat
}

func newEmit(db *database) *cobra.Command {
	var f emitFlags
	cmd := &cobra.Command{
		Use:   "emit KIND | emit --from FILE|-",
		Short: "Write one event, or many from a file of JSON Lines",
		Long: `Writes one event and prints its id, or writes many from a file of JSON Lines and
prints how many were stored and how many were known already.

KIND is one of ` + kinds() + `,
or a name of your own with a dot, such as claude.cost. Inside a command that
"specwatch run" started, --session and --spec are set.

--from reads one event from each line, such as
  {"kind":"spec_started","session":"night","spec":"login","key":"a-1"}
and writes all of them or, when a line is wrong, none. A line may have the fields
kind, at, session, spec, data and key. An event whose key is stored already is
not stored again.

While the database is away, one event, or a file of up to ` + strconv.Itoa(few) + ` events, is kept on
disk. The next specwatch run, emit or flush writes what is kept.

--output json prints {"ids":[…],"stored":N,"known":N,"kept":N}; the ids of a large
file are left out.`,
		Example: `  specwatch emit intervention_request --session night --spec login --data '{"question":"Which port?"}'
  specwatch emit --from events.jsonl --output json`,
		ValidArgsFunction: completeKinds,
		Args:              f.checkArgs,
	}
	f.addTo(cmd, db)
	cmd.RunE = does(func(cmd *cobra.Command, args []string) error {
		if f.from == "" {
			return emitOne(cmd, db, f, args[0])
		}
		for _, own := range []string{"session", "spec", "data", "key", "at"} {
			if cmd.Flags().Changed(own) {
				return wrongUsef("--%s and --from exclude each other: each line of the file has its own", own)
			}
		}
		return emitAll(cmd, db, f.from, f.format)
	})
	return cmd
}

func (f *emitFlags) addTo(cmd *cobra.Command, db *database) {
	flags := cmd.Flags()
	flags.StringVar(&f.session, "session", "", "`name` of the session, one run of the loop (default: $"+runner.EnvSession+", else one for this shell and folder)")
	flags.StringVar(&f.spec, "spec", "", "`name` of the spec, one unit of work (default: $"+runner.EnvSpec+")")
	flags.StringVar(&f.data, "data", "", "any `JSON`")
	flags.StringVar(&f.key, "key", "", "idempotency `key`: events with the same key are stored once")
	flags.StringVar(&f.at, "at", "", "RFC 3339 `time` of the event (default: the database's clock)")
	flags.StringVar(&f.from, "from", "", "`file` of JSON Lines, or - for standard input")
	f.format.addTo(cmd)
	completeNames(db, cmd)
	_ = cmd.MarkFlagFilename("from", "jsonl", "ndjson")
}

func (f *emitFlags) checkArgs(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0 && f.from == "":
		return errors.New("name the kind of event, one of " + kinds() + ", or read a file with --from")
	case len(args) > 0 && f.from != "":
		return errors.New("KIND and --from exclude each other: each line of the file has its own kind")
	case len(args) > 1:
		return fmt.Errorf("name one KIND; these arguments are too many: %q", args[1:])
	}
	return nil
}

// event returns the event that the flags describe. named says whether they or the
// environment name its session.
func (f *emitFlags) event(cmd *cobra.Command, kind string) (e event.Event, named bool, err error) {
	e = event.Event{
		Kind: event.Kind(kind), Key: f.key, Data: json.RawMessage(f.data),
		Session: cmp.Or(f.session, variable(runner.EnvSession)),
	}
	if named = e.Session != ""; !named {
		e.Session = sessionOfLoop(time.Now()).name
	}
	// The spec of the environment is of its own session, not of one that a
	// flag names.
	if e.Spec = f.spec; !cmd.Flags().Changed("spec") && !cmd.Flags().Changed("session") {
		e.Spec = variable(runner.EnvSpec)
	}
	if f.at != "" {
		t, err := event.ParseTime(f.at)
		if err != nil {
			return e, named, wrongUsef("--at %w", err)
		}
		e.At = t
	}
	return e, named, nil
}

// emitOne writes the event of the flags and prints its id.
func emitOne(cmd *cobra.Command, db *database, f emitFlags, kind string) error {
	e, named, err := f.event(cmd, kind)
	if err != nil {
		return err
	}
	if err := validate(e, "--data"); err != nil {
		return err
	}
	if e.Spec == "" && e.Kind != event.SessionHeartbeat && e.Kind.Known() {
		advise(cmd.ErrOrStderr(), "the event belongs to no spec; name one with --spec")
	}
	to, ctx, done, err := toEmit(cmd, db)
	if err != nil {
		return err
	}
	defer done()
	if !named {
		sayLoop(cmd.ErrOrStderr(), e.Session)
	}
	result, err := emitFew(ctx, cmd, to, []event.Event{e})
	if err != nil {
		return err
	}
	if f.format == outputJSON {
		return printJSON(cmd, result)
	}
	if len(result.IDs) > 0 {
		fmt.Fprintln(cmd.OutOrStdout(), result.IDs[0])
	}
	if result.Known > 0 {
		advise(cmd.ErrOrStderr(), "an event with this key was stored before; nothing was written")
	}
	return nil
}

// validate checks an event from the command line. Its errors name the flag or the
// argument; data says where its data come from.
func validate(e event.Event, data string) error {
	err := e.Validate(time.Now())
	var field *event.FieldError
	switch {
	case !errors.As(err, &field):
		return err
	case field.Field == "kind":
		return wrongUsef("KIND %s%s", field.Detail, didYouMean(string(e.Kind), kindNames()...))
	case field.Field == "data":
		return wrongUsef("%s %s", data, field.Detail)
	}
	return wrongUsef("--%s %s", field.Field, field.Detail)
}

// emitted is the result of an emit.
type emitted struct {
	IDs    []int64 `json:"ids,omitempty"`
	Stored int64   `json:"stored"`
	Known  int64   `json:"known"` // stored before, under the same key
	Kept   int64   `json:"kept"`  // on disk, while the database is away
}

func (e emitted) print(cmd *cobra.Command, format outputFormat) error {
	if format == outputJSON {
		return printJSON(cmd, e)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s stored, %d known already\n", eventCount(e.Stored), e.Known)
	return err
}

func eventCount(n int64) string {
	if n == 1 {
		return "1 event"
	}
	return fmt.Sprintf("%d events", n)
}

func kindNames() []string {
	names := make([]string, len(event.Kinds))
	for i, k := range event.Kinds {
		names[i] = string(k)
	}
	return names
}

func kinds() string { return strings.Join(kindNames(), ", ") }

// toEmit opens the destination, with a context that ends with a signal.
func toEmit(cmd *cobra.Command, db *database) (*destination, context.Context, func(), error) {
	ctx, cancel := untilSignal(cmd.Context())
	to, err := db.destination(ctx, cmd.ErrOrStderr())
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return to, ctx, func() { to.close(); cancel() }, nil
}

// emitFew writes events that fit in memory. During an outage they are kept on disk,
// which is reported and counts as success. If the destination has never answered,
// the settings may be wrong, and it is an error.
func emitFew(ctx context.Context, cmd *cobra.Command, to *destination, events []event.Event) (emitted, error) {
	receipt, kept, err := to.put(ctx, events, func(text string) { say(cmd.ErrOrStderr(), text) })
	if err != nil {
		return emitted{}, err
	}
	runner.Note(events...)
	if kept == nil {
		return emitted{IDs: receipt.IDs, Stored: int64(len(events) - receipt.Known), Known: int64(receipt.Known)}, nil
	}
	what := "the event is"
	if len(events) > 1 {
		what = fmt.Sprintf("%d events are", len(events))
	}
	later := fmt.Errorf("%w; %s kept on disk, and the next specwatch run, emit or flush writes what is kept", kept, what)
	if !away(kept) || !to.box.Reached() {
		return emitted{}, later
	}
	say(cmd.ErrOrStderr(), later.Error())
	return emitted{Kept: int64(len(events))}, nil
}

// few is how many events of a file are kept in an outage.
const few = outbox.QueueBound

func emitAll(cmd *cobra.Command, db *database, from string, format outputFormat) error {
	input, size, err := openLines(cmd, from)
	if err != nil {
		return err
	}
	defer input.Close()
	to, ctx, done, err := toEmit(cmd, db)
	if err != nil {
		return err
	}
	defer done()
	lines := lines{input: bufio.NewReaderSize(input, maxLine)}
	first, more, err := lines.few()
	switch {
	case err != nil:
		return err
	case len(first) == 0:
		return emitted{}.print(cmd, format)
	case !more:
		result, err := emitFew(ctx, cmd, to, first)
		if err != nil || result.Kept > 0 && format == outputText {
			return lines.explain(err)
		}
		return result.print(cmd, format)
	}
	if _, err := to.box.Send(ctx, to, func(text string) { say(cmd.ErrOrStderr(), text) }); err != nil {
		return err
	}
	shown := newProgress(cmd.ErrOrStderr(), "events read")
	defer shown.end()
	given := 0
	next := func() (event.Event, error) {
		if given < len(first) {
			given++
			return first[given-1], nil
		}
		shown.show(lines.events, share(lines.bytes, size))
		return lines.next()
	}
	var changes outcomes
	taken, known, err := to.all(ctx, func() (event.Event, error) {
		e, err := next()
		if err == nil {
			changes.add(e)
		}
		return e, err
	})
	if err != nil {
		return lines.explain(err)
	}
	runner.Note(changes.all()...)
	shown.end()
	return emitted{Stored: taken - known, Known: known}.print(cmd, format)
}

// outcomes holds the last start or end of each spec, for the runner around this
// process: a file may have more events than fit in memory.
type outcomes map[[2]string]event.Event

func (o *outcomes) add(e event.Event) {
	if e.Kind != event.SpecStarted && !e.Kind.EndsSpec() {
		return
	}
	if *o == nil {
		*o = outcomes{}
	}
	(*o)[[2]string{e.Session, e.Spec}] = event.Event{Kind: e.Kind, Session: e.Session, Spec: e.Spec}
}

func (o outcomes) all() []event.Event { return slices.Collect(maps.Values(o)) }

// openLines opens what --from names. The size is 0 where it is not known.
func openLines(cmd *cobra.Command, from string) (input io.ReadCloser, size int64, err error) {
	if from == "-" {
		stdin := cmd.InOrStdin()
		if file, ok := stdin.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
			advise(cmd.ErrOrStderr(), "reading events from the terminal, one on each line; end with Ctrl-D")
		}
		return io.NopCloser(stdin), 0, nil
	}
	file, err := os.Open(from)
	if err != nil {
		return nil, 0, wrongUse{err}
	}
	if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return file, size, nil
}

// explain names the line of an event that was refused.
func (l *lines) explain(err error) error {
	var batch *store.BatchError
	var field *event.FieldError
	switch {
	case errors.As(err, &batch):
		return fmt.Errorf("line %d: %w; nothing was written", l.of(batch.Index), batch.Err)
	case errors.As(err, &field): // the destination refused the last event that was read
		return fmt.Errorf("line %d: %w; nothing was written", l.last(), field)
	}
	return err
}

// maxLine is the length of the largest event, with every character of its names
// escaped.
const maxLine = event.MaxDataBytes + 6*3*event.MaxNameBytes + 1024

// lines reads events and knows which line each was on.
type lines struct {
	input  *bufio.Reader
	read   int64   // lines
	bytes  int64   // of them
	events int64   // of the lines that hold one
	blank  []int64 // for each empty line, how many events came before it
}

// few reads as many events as are kept in an outage. more reports whether
// there may be others.
func (l *lines) few() (events []event.Event, more bool, err error) {
	for size := 0; len(events) < few && size < event.MaxBatchBytes/2; {
		e, err := l.next()
		if errors.Is(err, io.EOF) {
			return events, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		events = append(events, e)
		size += len(e.Data)
	}
	return events, true, nil
}

func (l *lines) next() (event.Event, error) {
	for {
		line, err := l.input.ReadSlice('\n')
		if len(line) > 0 {
			l.read++
			l.bytes += int64(len(line))
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return event.Event{}, l.wrong(fmt.Errorf("is longer than any event can be (%d bytes)", maxLine))
		case err != nil && !errors.Is(err, io.EOF):
			return event.Event{}, fmt.Errorf("cannot read after line %d: %w; nothing was written", l.read, err)
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			e, err := event.Decode(line)
			if err != nil {
				return e, l.wrong(err)
			}
			l.events++
			return e, nil
		}
		if err != nil {
			return event.Event{}, io.EOF
		}
		l.blank = append(l.blank, l.events)
	}
}

func (l *lines) wrong(err error) error {
	// Only the text: it must not look like an error of the database.
	return fmt.Errorf("line %d: %s; nothing was written", l.read, err.Error())
}

// last returns the number of the line that brought the last event.
func (l *lines) last() int64 { return l.of(l.events - 1) }

// of returns the number of the line that brought the event with this index.
func (l *lines) of(index int64) int64 {
	line := index + 1
	for _, before := range l.blank {
		if before <= index {
			line++
		}
	}
	return line
}
