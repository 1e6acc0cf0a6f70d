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
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/runner"
	"github.com/specwatch/specwatch/pkg/store"
)

func newEmit(db *database) *cobra.Command {
	var session, spec, data, key, at, from string
	cmd := &cobra.Command{
		Use:   "emit KIND | emit --from FILE|-",
		Short: "Write one event, or many from a file of JSON Lines",
		Long: `Writes one event, or many from a file of JSON Lines.

KIND is one of ` + kinds() + `.
Inside a command that "specwatch run" started, session and spec are known.

--from reads one event per line, such as
  {"kind":"spec_started","session":"night","spec":"login","key":"a-1"}
and writes all of them or, when a line is wrong, none. A line may carry kind,
at, session, spec, data and key; an event whose key is stored already is not
stored again.`,
		Example: `  specwatch emit intervention_request --session night --spec login --data '{"question":"Which port?"}'
  specwatch emit --from events.jsonl`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && from == "":
				return errors.New("name the kind of event, one of " + kinds() + ", or give --from")
			case len(args) > 0 && from != "":
				return errors.New("KIND and --from exclude each other: each line of the file has its own kind")
			case len(args) > 1:
				return fmt.Errorf("one KIND at a time, but there is more: %q", args[1:])
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&session, "session", "", "run of the loop (default: $"+runner.EnvSession+")")
	flags.StringVar(&spec, "spec", "", "unit of work (default: $"+runner.EnvSpec+")")
	flags.StringVar(&data, "data", "", "any `JSON`")
	flags.StringVar(&key, "key", "", "the same key is stored once")
	flags.StringVar(&at, "at", "", "RFC 3339 `time` (default: the database's clock)")
	flags.StringVar(&from, "from", "", "JSON Lines `file`, or - for standard input")
	cmd.RunE = does(func(cmd *cobra.Command, args []string) error {
		if from != "" {
			for _, own := range []string{"session", "spec", "data", "key", "at"} {
				if flags.Changed(own) {
					return wrongUsef("--%s and --from exclude each other: each line of the file has its own", own)
				}
			}
			return emitAll(cmd, db, from)
		}
		e := event.Event{
			Kind: event.Kind(args[0]), Key: key, Data: json.RawMessage(data),
			Session: cmp.Or(session, os.Getenv(runner.EnvSession)),
		}
		// A session that is named belongs to another run than the spec that
		// this process is part of.
		if e.Spec = spec; !flags.Changed("spec") && !flags.Changed("session") {
			e.Spec = os.Getenv(runner.EnvSpec)
		}
		if at != "" {
			t, err := event.ParseTime(at)
			if err != nil {
				return wrongUsef("at: %w", err)
			}
			e.At = t
		}
		if err := e.Validate(time.Now()); err != nil {
			return wrongUse{err}
		}
		st, ctx, done, err := toEmit(cmd, db)
		if err != nil {
			return err
		}
		defer done()
		ids, err := st.Append(ctx, []event.Event{e})
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), ids[0])
		return nil
	})
	return cmd
}

func kinds() string {
	names := make([]string, len(event.Kinds))
	for i, k := range event.Kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

// toEmit opens the database and writes what earlier runs could not.
func toEmit(cmd *cobra.Command, db *database) (*store.Store, context.Context, func(), error) {
	ctx, cancel := untilSignal(cmd.Context())
	st, config, err := db.open(ctx)
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	done := func() { st.Close(); cancel() }
	stderr := cmd.ErrOrStderr()
	tell := func(text string) { say(stderr, text) }
	if err := spool(config, stderr).Send(ctx, st, tell); err != nil {
		done()
		return nil, nil, nil, err
	}
	return st, ctx, done, nil
}

func emitAll(cmd *cobra.Command, db *database, from string) error {
	input := cmd.InOrStdin()
	if from != "-" {
		file, err := os.Open(from)
		if err != nil {
			return wrongUse{err}
		}
		defer file.Close()
		input = file
	}
	st, ctx, done, err := toEmit(cmd, db)
	if err != nil {
		return err
	}
	defer done()
	lines := lines{input: bufio.NewReaderSize(input, maxLine)}
	n, err := st.AppendAll(ctx, lines.next)
	var batch *store.BatchError
	var field *event.FieldError
	switch {
	case errors.As(err, &batch):
		return fmt.Errorf("line %d: %w; nothing was written", lines.of(batch.Index), batch.Err)
	case errors.As(err, &field): // the database refused the last event that was read
		return fmt.Errorf("line %d: %w; nothing was written", lines.read, field)
	case err != nil:
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d events\n", n)
	return nil
}

// maxLine holds the largest event, even with every character of its names
// escaped.
const maxLine = event.MaxDataBytes + 6*3*event.MaxNameBytes + 1024

// lines reads events and knows which line each was on.
type lines struct {
	input  *bufio.Reader
	read   int64   // lines
	events int64   // of which events
	blank  []int64 // for each empty line, how many events came before it
}

func (l *lines) next() (event.Event, error) {
	for {
		line, err := l.input.ReadSlice('\n')
		if len(line) > 0 {
			l.read++
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
	// The text alone: AppendAll's caller must not take it for the database's.
	return fmt.Errorf("line %d: %s; nothing was written", l.read, err.Error())
}

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
